#include "tests/io/order_cases.h"

TEST(Order, HoldsForManyRandomCases) {
  lockstep::test::check_orders(1'000'000, 20'000);
}

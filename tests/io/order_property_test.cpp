#include "tests/io/order_cases.h"

// Run one case again: change the first number to its seed and the second to 1.
TEST(Order, HoldsForRandomCases) {
  lockstep::test::check_orders(1, 1000);
}

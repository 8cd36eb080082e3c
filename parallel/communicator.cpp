#include "parallel/communicator.h"

namespace lockstep::parallel {

Communicator::Ticket Communicator::reduce_parts(const Queue& after, std::span<const View> parts, Reduction how, const Seen&) {
  Ticket last = -1;
  for (View part : parts)
    if (part.size > 0) last = all_reduce(after, part, how);
  return last < 0 ? mark(after) : last;
}

Communicator::Ticket Communicator::gather_parts(const Queue& after, std::span<const View> parts) {
  Ticket last = -1;
  for (std::size_t r = 0; r < parts.size(); ++r)
    if (parts[r].size > 0) last = broadcast(after, parts[r], int(r));
  return last < 0 ? mark(after) : last;
}

}  // namespace lockstep::parallel

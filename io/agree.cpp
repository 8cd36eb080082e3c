#include "io/agree.h"

#include <nlohmann/json.hpp>

#include "kernels/base/check.h"

namespace lockstep::io {

// '0' and the text, or '1', the exit code, a blank and the sentence.
std::string report(const std::function<std::string()>& action) {
  try {
    std::string message = "0";
    return message += action();
  } catch (const Error& e) {
    return format_text("1{} {}", {int(e.exit()), e.what()});
  } catch (const std::exception& e) {
    return format_text("1{} {}", {int(Exit::internal), e.what()});
  }
}

std::string result(const std::string& message) {
  if (message[0] == '0') return message.substr(1);
  auto blank = message.find(' ');
  throw Error(message.substr(blank + 1), Exit(std::stoi(message.substr(1, blank - 1))));
}

std::string agree(Group& group, const std::function<std::string()>& action) {
  return result(group.broadcast(group.rank() == 0 ? report(action) : std::string{}));
}

nlohmann::json agree_on(Group& group, const std::function<nlohmann::json()>& action) {
  return nlohmann::json::from_cbor(agree(group, [&] {
    std::string packed;
    nlohmann::json::to_cbor(action(), packed);
    return packed;
  }));
}

void settle(Group& group, const std::function<void()>& action) {
  auto own = report([&] {
    action();
    return std::string{};
  });
  for (const auto& message : group.gather(own)) result(message);
}

}  // namespace lockstep::io

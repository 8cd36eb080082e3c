#include "launch/product_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "io/memo.h"
#include "kernels/memory.h"
#include "kernels/product_choices.h"
#include "launch/models.h"

namespace lockstep::launch {
namespace {

std::ptrdiff_t lines_of(const std::string& text) {
  return std::ranges::count(text, '\n');
}

}  // namespace

std::string settle_products(Session& session, const std::string& setting, const std::string& saved,
                            const std::function<void()>& rehearse) {
  const Queue& queue = session.device().queue();
  if (!queue.on_gpu || setting == "first") return "";
  const auto began = std::chrono::steady_clock::now();
  std::string choices;
  std::ptrdiff_t known = 0;
  if (session.rank() == 0) {
    const io::Memo notes(notes_folder());
    const std::string question =
        "algorithms of products\n" + session.device().name() + "\n" + kernels::product_library(queue) + "\n";
    kernels::follow_product_choices(queue, notes.recall(question).value_or(""));
    kernels::follow_product_choices(queue, saved);
    known = lines_of(kernels::product_choices(queue));
    kernels::search_products(queue, true);
    rehearse();
    kernels::synchronize(queue);
    kernels::search_products(queue, false);
    choices = kernels::product_choices(queue);
    if (lines_of(choices) > known) notes.keep(question, choices);
  }
  choices = session.group().broadcast(choices);
  if (session.rank() != 0) kernels::follow_product_choices(queue, choices);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return fmt::format("products: {} algorithms, {} of them timed now ({:.1f} s)", lines_of(choices), lines_of(choices) - known,
                     seconds);
}

}  // namespace lockstep::launch

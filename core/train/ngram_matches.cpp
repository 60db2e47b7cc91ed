#include "core/train/ngram_matches.h"

#include <algorithm>
#include <vector>

#include "core/base/error.h"

namespace t2r {
namespace {

/// The symbols from one place on, plus one; 0 past the end of the sequence.
struct Window {
  std::array<std::uint32_t, kMaxNgramOrder> symbols{};
  bool of_first = false;
};

void add_windows(std::span<const std::uint32_t> sequence, bool of_first, std::size_t order,
                 std::vector<Window>& windows) {
  for (std::size_t begin = 0; begin < sequence.size(); ++begin) {
    Window& window = windows.emplace_back();
    window.of_first = of_first;
    const std::size_t length = std::min(order, sequence.size() - begin);
    for (std::size_t i = 0; i < length; ++i) window.symbols[i] = sequence[begin + i] + 1;
  }
}

std::int64_t count(std::size_t length, std::size_t n) {
  return length < n ? 0 : static_cast<std::int64_t>(length - n + 1);
}

}  // namespace

NgramMatches match_ngrams(std::span<const std::uint32_t> first,
                          std::span<const std::uint32_t> second, std::size_t order) {
  check(order >= 1 && order <= kMaxNgramOrder, "n-grams of order {}: at most {} are counted", order,
        kMaxNgramOrder);
  std::vector<Window> windows;
  windows.reserve(first.size() + second.size());
  add_windows(first, true, order, windows);
  add_windows(second, false, order, windows);
  std::sort(windows.begin(), windows.end(),
            [](const Window& a, const Window& b) { return a.symbols < b.symbols; });

  // Sorted, equal n-grams lie together for every n: one walk counts the groups of all orders.
  NgramMatches matches, group;
  const auto close_groups = [&](std::size_t from) {
    for (std::size_t n = from; n < order; ++n) {
      matches.both[n] += std::min(group.first[n], group.second[n]);
      group.first[n] = group.second[n] = 0;
    }
  };
  const Window* previous = nullptr;
  for (const Window& window : windows) {
    std::size_t common = 0;
    while (previous && common < order && window.symbols[common] == previous->symbols[common])
      ++common;
    close_groups(common);
    for (std::size_t n = 0; n < order && window.symbols[n] != 0; ++n)
      ++(window.of_first ? group.first : group.second)[n];
    previous = &window;
  }
  close_groups(0);
  for (std::size_t n = 0; n < order; ++n) {
    matches.first[n] = count(first.size(), n + 1);
    matches.second[n] = count(second.size(), n + 1);
  }
  return matches;
}

}  // namespace t2r

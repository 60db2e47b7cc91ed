#include "core/model/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/error.h"
#include "kernels/elementwise.h"
#include "kernels/top_log_probabilities.h"

namespace t2r {
namespace {

/// An unfinished hypothesis; it sits in the decoder's row of its place.
struct Live {
  std::vector<std::int32_t> tokens;
  double log_probability = -std::numeric_limits<double>::infinity();  // that: the place is empty
  bool empty() const { return std::isinf(log_probability); }
};

/// The search for one source.
struct Search {
  std::size_t source = 0;  // its number in the call
  std::int64_t max_length = 0;
  std::vector<Live> live;
  std::vector<Hypothesis> finished;  // the `beam` best so far, best first
};

struct Candidate {
  double log_probability;
  std::int64_t place;  // of the hypothesis that it goes on from
  std::int32_t token;
};

bool better(const Candidate& a, const Candidate& b) {
  if (a.log_probability != b.log_probability) return a.log_probability > b.log_probability;
  return a.token != b.token ? a.token < b.token : a.place < b.place;
}

void finish(Search& search, const Candidate& candidate, const BeamSearchOptions& options) {
  Hypothesis done;
  done.tokens = search.live[static_cast<std::size_t>(candidate.place)].tokens;
  done.log_probability = candidate.log_probability;
  done.score = candidate.log_probability /
               length_penalty(std::ssize(done.tokens) + 1, options.length_penalty);
  auto& list = search.finished;
  const auto place =
      std::upper_bound(list.begin(), list.end(), done,
                       [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  list.insert(place, std::move(done));
  if (std::ssize(list) > options.beam) list.pop_back();
}

/// True when no hypothesis in hand can still become one of the best: probabilities only fall, and
/// the penalty grows at most to that of the greatest length.
bool is_over(const Search& search, const BeamSearchOptions& options) {
  double best = -std::numeric_limits<double>::infinity();
  for (const Live& live : search.live) best = std::max(best, live.log_probability);
  if (std::isinf(best)) return true;
  if (std::ssize(search.finished) < options.beam) return false;
  const std::int64_t length =
      options.length_penalty >= 0 ? search.max_length + 1 : std::ssize(search.live[0].tokens) + 1;
  return best / length_penalty(length, options.length_penalty) <= search.finished.back().score;
}

/// One step of a search: `tops` holds the best continuations of each place. Fills the places'
/// parents (numbers of places) so that survivors stay where they are.
void advance(Search& search, const TopTokens* tops, const BeamSearchOptions& options,
             std::int64_t* parents) {
  const auto beam = static_cast<std::size_t>(options.beam);
  const bool last = std::ssize(search.live[0].tokens) == search.max_length;
  std::vector<Candidate> candidates;
  for (std::size_t place = 0; place < beam; ++place) {
    const Live& live = search.live[place];
    if (live.empty()) continue;
    const TopTokens& top = tops[place];
    const auto at = static_cast<std::int64_t>(place);
    candidates.push_back({live.log_probability + top.wanted_log_probability, at, options.eos});
    for (std::size_t i = 0; i < top.tokens.size() && !last; ++i)
      if (top.tokens[i] != options.eos)
        candidates.push_back({live.log_probability + top.log_probabilities[i], at, top.tokens[i]});
  }
  std::sort(candidates.begin(), candidates.end(), better);

  std::vector<Candidate> chosen;  // to go on with
  for (const Candidate& candidate : candidates) {
    if (chosen.size() == beam) break;
    if (candidate.token == options.eos)
      finish(search, candidate, options);
    else
      chosen.push_back(candidate);
  }

  // The first child of a place stays there, the others go where nobody stays.
  std::vector<Live> next(beam);
  std::vector<bool> taken(beam, false), first(beam, true);
  std::iota(parents, parents + beam, std::int64_t{0});
  const auto put = [&](std::size_t place, const Candidate& child) {
    const Live& parent = search.live[static_cast<std::size_t>(child.place)];
    next[place].tokens = parent.tokens;
    next[place].tokens.push_back(child.token);
    next[place].log_probability = child.log_probability;
    parents[place] = child.place;
    taken[place] = true;
  };
  std::vector<Candidate> others;
  for (const Candidate& child : chosen) {
    const auto place = static_cast<std::size_t>(child.place);
    if (first[place])
      put(place, child);
    else
      others.push_back(child);
    first[place] = false;
  }
  std::size_t free = 0;
  for (const Candidate& child : others) {
    while (taken[free]) ++free;
    put(free, child);
  }
  for (Live& live : next)  // lengths agree, in empty places too
    if (live.empty()) live.tokens.assign(search.live[0].tokens.size() + 1, options.eos);
  search.live = std::move(next);
}

void check_options(const ModelConfig& config, const BeamSearchOptions& options) {
  check_usage(options.beam >= 1 && options.beam <= config.vocab_size,
              "a beam of {}: it must be from 1 to the {} entries of the vocabulary", options.beam,
              config.vocab_size);
  check_usage(options.n_best >= 1 && options.n_best <= options.beam,
              "{} best hypotheses of a beam of {}: ask for 1 to {}", options.n_best, options.beam,
              options.beam);
  check_usage(options.max_length_a >= 0 && options.max_length_b >= 0 &&
                  options.max_length_a + static_cast<double>(options.max_length_b) > 0,
              "targets of at most {} times the source plus {} tokens are empty",
              options.max_length_a, options.max_length_b);
  check_usage(std::isfinite(options.length_penalty),
              "the length penalty is {}: it must be a finite number, such as 0.6",
              options.length_penalty);
  check(options.bos >= 0 && options.bos < config.vocab_size && options.eos >= 0 &&
            options.eos < config.vocab_size,
        "the vocabulary of {} has no token {} or {} to begin and end a target with",
        config.vocab_size, options.bos, options.eos);
  check(options.banned < config.vocab_size && options.banned != options.eos,
        "the token {} cannot be banned from targets that end with {}", options.banned, options.eos);
}

std::int64_t longest_target(const ModelConfig& config, const BeamSearchOptions& options,
                            std::int64_t source) {
  const double wanted = std::ceil(options.max_length_a * static_cast<double>(source)) +
                        static_cast<double>(options.max_length_b);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(
                                       wanted, static_cast<double>(config.max_positions - 1))));
}

/// The logits of the next tokens, in which the banned one is impossible.
Tensor next_logits(TranslationDecoder& decoder, std::span<const std::int32_t> tokens,
                   std::int32_t banned) {
  const Tensor logits = decoder.step(tokens);
  if (banned >= 0 && logits.rows() > 0)
    fill(Queue{}, logits.column_range(banned, banned + 1),
         -std::numeric_limits<double>::infinity());
  return logits;
}

/// One target a source, drawn token by token; a source whose target has ended leaves the decoder.
void sample(TranslationDecoder& decoder, std::vector<Search>& active,
            std::vector<std::vector<Hypothesis>>& results, const BeamSearchOptions& options,
            std::span<const std::uint64_t> numbers) {
  std::vector<std::int32_t> tokens(active.size(), options.bos);
  for (std::uint64_t position = 0; !active.empty(); ++position) {
    const Tensor logits = next_logits(decoder, tokens, options.banned);
    const auto tops = top_log_probabilities(Queue{}, logits, 1, options.eos);
    std::vector<std::int64_t> going;
    std::vector<Search> rest;
    tokens.clear();
    for (std::size_t i = 0; i < active.size(); ++i) {
      Search& search = active[i];
      Live& live = search.live[0];
      const auto row = static_cast<std::int64_t>(i);
      const bool last = std::ssize(live.tokens) == search.max_length;
      const std::int32_t token =
          last ? options.eos
               : sample_token(logits, row, options.sampling, numbers[search.source], position);
      live.log_probability += log_probability(logits, row, tops[i], token);
      if (token == options.eos) {
        finish(search, {live.log_probability, 0, token}, options);
        results[search.source] = std::move(search.finished);
        continue;
      }
      live.tokens.push_back(token);
      tokens.push_back(token);
      going.push_back(row);
      rest.push_back(std::move(search));
    }
    if (going.size() < active.size()) decoder.keep(going);
    active = std::move(rest);
  }
}

void search_beams(TranslationDecoder& decoder, std::vector<Search>& active,
                  std::vector<std::vector<Hypothesis>>& results, const BeamSearchOptions& options) {
  const auto beam = static_cast<std::size_t>(options.beam);
  std::vector<std::int32_t> tokens(active.size() * beam, options.bos);
  while (!active.empty()) {
    const auto tops = top_log_probabilities(Queue{}, next_logits(decoder, tokens, options.banned),
                                            options.beam + 1, options.eos);
    std::vector<std::int64_t> parents(tokens.size());
    const auto count = static_cast<std::int64_t>(active.size());
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < count; ++i) {
      const auto first = static_cast<std::size_t>(i) * beam;
      advance(active[static_cast<std::size_t>(i)], tops.data() + first, options,
              parents.data() + first);
      for (std::size_t p = first; p < first + beam; ++p)
        parents[p] += static_cast<std::int64_t>(first);
    }
    std::vector<std::int64_t> going;
    for (std::int64_t i = 0; i < count; ++i)
      if (!is_over(active[static_cast<std::size_t>(i)], options)) going.push_back(i);
    decoder.take(parents);
    if (std::ssize(going) < count) {
      decoder.keep(going);
      std::vector<Search> rest;
      for (std::int64_t i = 0, next = 0; i < count; ++i) {
        Search& search = active[static_cast<std::size_t>(i)];
        if (next < std::ssize(going) && going[static_cast<std::size_t>(next)] == i) {
          rest.push_back(std::move(search));
          ++next;
        } else {
          results[search.source] = std::move(search.finished);
        }
      }
      active = std::move(rest);
    }
    tokens.clear();
    for (const Search& search : active)
      for (const Live& live : search.live) tokens.push_back(live.tokens.back());
  }
}

}  // namespace

double length_penalty(std::int64_t length, double alpha) {
  return std::pow((5.0 + static_cast<double>(length)) / 6.0, alpha);
}

std::vector<std::vector<Hypothesis>> translate(
    TranslationDecoder& decoder, const std::vector<std::vector<std::int32_t>>& sources,
    const BeamSearchOptions& options, std::span<const std::uint64_t> numbers) {
  const ModelConfig& config = decoder.model().config();
  check(numbers.size() == sources.size(), "{} numbers for {} sources", numbers.size(),
        sources.size());
  check_options(config, options);
  const bool drawn = options.sampling.temperature > 0;
  BeamSearchOptions used = options;
  if (drawn) used.beam = used.n_best = 1;

  std::vector<std::vector<Hypothesis>> results(sources.size());
  std::vector<Search> active;
  TokenRowsBuffer rows;
  std::int64_t capacity = 1;
  for (std::size_t s = 0; s < sources.size(); ++s) {
    const auto length = std::ssize(sources[s]);
    check_usage(length <= config.max_positions,
                "source {} has {} tokens, but the model has {} positions: shorten it",
                numbers[s] + 1, length, config.max_positions);
    if (length == 0 || (length == 1 && sources[s][0] == options.eos)) {
      results[s] = {Hypothesis{}};
      continue;
    }
    Search search;
    search.source = s;
    search.max_length = longest_target(config, used, length);
    search.live.resize(static_cast<std::size_t>(used.beam));
    search.live[0].log_probability = 0;  // the others are empty: all would be the same
    capacity = std::max(capacity, search.max_length + 1);
    active.push_back(std::move(search));
    rows.add(sources[s]);
  }
  if (active.empty()) return results;
  decoder.begin(rows.rows(), used.beam, capacity);
  if (drawn)
    sample(decoder, active, results, used, numbers);
  else
    search_beams(decoder, active, results, used);
  for (auto& hypotheses : results)
    if (std::ssize(hypotheses) > used.n_best)
      hypotheses.resize(static_cast<std::size_t>(used.n_best));
  return results;
}

}  // namespace t2r

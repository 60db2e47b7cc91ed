// Beam search for translations: the likeliest targets of sources, several at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/model/sampling.h"
#include "core/model/translation_decoder.h"

namespace t2r {

struct BeamSearchOptions {
  std::int64_t beam = 5;        // 1: greedy
  double length_penalty = 0.6;  // alpha: score = log probability / ((5 + length) / 6)^alpha
  std::int64_t n_best = 1;      // hypotheses to return, at most `beam`
  // A target has at most max_length_a * (source tokens), rounded up, + max_length_b tokens, eos
  // left out, and no more than the model has positions.
  double max_length_a = 1.2;
  std::int64_t max_length_b = 10;
  std::int32_t bos = -1, eos = -1;
  std::int32_t banned = -1;  // as if the vocabulary lacked it (padding); -1: nothing is
  // With a temperature above 0 one target is drawn instead (beam is then not used).
  SamplingOptions sampling;
};

struct Hypothesis {
  std::vector<std::int32_t> tokens;  // without bos and eos
  double log_probability = 0;        // of the tokens and eos, natural
  double score = 0;                  // what hypotheses are ranked by
};

/// ((5 + length) / 6)^alpha, length counting eos (Wu et al. 2016).
double length_penalty(std::int64_t length, double alpha);

/// The n_best hypotheses of each source, best first. Sources are token ids with eos where the model
/// wants it; an empty one (or one of eos alone) gives one empty hypothesis. `numbers`: of the
/// sources in the whole input, which key draws and name sources in messages. A search ends when no
/// unfinished hypothesis can still beat the `beam` best finished ones; ties go to the lower token
/// id. The result does not depend on the number of threads. The decoder may be used again and
/// again. Usage errors: a beam below 1 or above the vocabulary, n_best above the beam, a length
/// penalty that is not finite, a source longer than the model's positions.
std::vector<std::vector<Hypothesis>> translate(
    TranslationDecoder& decoder, const std::vector<std::vector<std::int32_t>>& sources,
    const BeamSearchOptions& options, std::span<const std::uint64_t> numbers);

}  // namespace t2r

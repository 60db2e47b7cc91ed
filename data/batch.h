// What a training or evaluation step reads: rows of tokens without padding, cut into segments.
#pragma once

#include <cstdint>
#include <vector>

namespace t2r {

struct TokenBatch {
  std::vector<std::int32_t> inputs;           // one id a row
  std::vector<std::int32_t> targets;          // the next token; -1 where a row predicts nothing
  std::vector<std::int32_t> positions;        // place in its segment, from 0
  std::vector<std::int64_t> segment_offsets;  // segments + 1; nothing flows between segments
  std::vector<std::int64_t> row_ids;          // row number in the update's global batch
  // Sentence pairs: the source of each segment, as above.
  std::vector<std::int32_t> source_inputs, source_positions;
  std::vector<std::int64_t> source_offsets, source_row_ids;
  std::int64_t target_count = 0;         // rows whose target is not -1
  std::vector<std::int64_t> sample_ids;  // windows or pairs, in order

  std::int64_t step = 0;                 // the update this belongs to
  std::int64_t micro_step = 0;           // its part of the update on this rank
  bool last_micro_step = false;          // of the update
  std::int64_t update_target_count = 0;  // of the whole update, over all ranks

  std::int64_t rows() const { return static_cast<std::int64_t>(inputs.size()); }
  std::int64_t segments() const { return static_cast<std::int64_t>(segment_offsets.size()) - 1; }
};

}  // namespace t2r

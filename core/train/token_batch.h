// The model's view of a batch that the data layer made.
#pragma once

#include "core/model/batch.h"
#include "data/batch.h"

namespace t2r {

/// Points into `tokens`, which must outlive the result.
inline Batch batch_of(const TokenBatch& tokens) {
  Batch batch;
  batch.rows = tokens.rows();
  batch.inputs = tokens.inputs.data();
  batch.targets = tokens.targets.data();
  batch.positions = tokens.positions.data();
  batch.segments = {tokens.rows() ? tokens.segments() : 0, tokens.segment_offsets.data()};
  batch.row_ids = tokens.row_ids.data();
  if (tokens.source_inputs.empty()) return batch;
  batch.source.rows = static_cast<std::int64_t>(tokens.source_inputs.size());
  batch.source.inputs = tokens.source_inputs.data();
  batch.source.positions = tokens.source_positions.data();
  batch.source.segments = {batch.segments.count, tokens.source_offsets.data()};
  batch.source.row_ids = tokens.source_row_ids.data();
  return batch;
}

}  // namespace t2r

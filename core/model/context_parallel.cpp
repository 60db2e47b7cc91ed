#include "core/model/context_parallel.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/elementwise.h"

namespace t2r {
namespace {

/// gamma^n, where numbers that are not normal are zero.
template <class A>
A power_of(A gamma, std::int64_t n) {
  const double power = std::pow(static_cast<double>(gamma), static_cast<double>(n));
  return power < static_cast<double>(std::numeric_limits<A>::min()) ? A(0) : static_cast<A>(power);
}

/// total = gamma^(tokens of `rank`) total + that rank's part, for every segment and head.
template <class A>
void add_state(const LinearState& total, const A* part, const A* gamma, const TokenRows& rows,
               int rank) {
  const std::int64_t heads = total.s.shape[1], k = total.s.shape[2], kd = k * total.s.shape[3];
  const A* part_z = part + total.s.size();
  for (std::int64_t s = 0; s < rows.whole.count; ++s) {
    const std::int64_t tokens = rows.context->share_of(rows.whole.length(s), rank);
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t place = s * heads + h;
      const A factor = gamma ? power_of(gamma[h], tokens) : A(1);
      A* to_s = total.s.as<A>() + place * kd;
      A* to_z = total.z.as<A>() + place * k;
      for (std::int64_t i = 0; i < kd; ++i) to_s[i] = factor * to_s[i] + part[place * kd + i];
      for (std::int64_t i = 0; i < k; ++i) to_z[i] = factor * to_z[i] + part_z[place * k + i];
    }
  }
}

/// All ranks' states meet; each keeps the sum over those on one side of it.
void exchange(Step& step, const TokenRows& rows, const StateMessage& states, const Tensor& gamma,
              bool later) {
  const ContextParallel& context = *rows.context;
  const std::int64_t size = states.all.size();
  if (size == 0) return;
  const ArenaScope scope(step.scratch);
  const Tensor all = step.scratch.allocate(Shape{context.size(), size}, states.all.dtype);
  context.comm().all_gather(states.all, all, step.queue);
  fill(step.queue, states.all, 0);
  dispatch(states.all.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const A* factors = gamma ? gamma.as<A>() : nullptr;
    const auto add = [&](int rank) {
      add_state(states.state, all.as<A>() + rank * size, factors, rows, rank);
    };
    if (later)
      for (int rank = context.size() - 1; rank > context.rank(); --rank) add(rank);
    else
      for (int rank = 0; rank < context.rank(); ++rank) add(rank);
  });
}

/// Calls f(rank, row of that rank, row of the sequences' beginnings, rows) for every stretch of
/// every sequence up to this rank's.
template <class F>
void for_each_stretch(const TokenRows& rows, const F& f) {
  const ContextParallel& context = *rows.context;
  std::vector<std::int64_t> done(static_cast<std::size_t>(context.size()), 0);
  std::int64_t place = 0;
  for (std::int64_t s = 0; s < rows.whole.count; ++s)
    for (int rank = 0; rank < context.size(); ++rank) {
      const std::int64_t count = context.share_of(rows.whole.length(s), rank);
      std::int64_t& row = done[static_cast<std::size_t>(rank)];
      if (rank <= context.rank()) {
        if (count > 0) f(rank, row, place, count);
        place += count;
      }
      row += count;
    }
}

std::int64_t most_rows(const TokenRows& rows) {
  std::int64_t most = 0;
  for (int rank = 0; rank < rows.context->size(); ++rank)
    most = std::max(most, rows.context->rows_of(rows.whole, rank));
  return most;
}

}  // namespace

std::int64_t ContextParallel::rows_of(const Segments& whole, int of_rank) const {
  std::int64_t rows = 0;
  for (std::int64_t s = 0; s < whole.count; ++s) rows += share_of(whole.length(s), of_rank);
  return rows;
}

BatchPart::BatchPart(const Batch& whole, const ContextParallel& context) : batch_(whole) {
  if (!context.active()) return;
  check(whole.source.segments.count == 0 && !whole.context,
        "a batch with sources, or a part of one, cannot be shared out token by token");
  // One more than there are: also a part without rows has addresses, since null says there is none.
  const auto room = static_cast<std::size_t>(context.rows_of(whole.segments, context.rank()) + 1);
  for (auto* ids : {&inputs_, &targets_, &positions_}) ids->reserve(room);
  row_ids_.reserve(room);
  offsets_.push_back(0);
  for (std::int64_t s = 0; s < whole.segments.count; ++s) {
    const std::int64_t first = whole.segments.offsets[s], n = whole.segments.length(s);
    const std::int64_t begin = first + context.begin_of(n, context.rank());
    const std::int64_t end = first + context.begin_of(n, context.rank() + 1);
    inputs_.insert(inputs_.end(), whole.inputs + begin, whole.inputs + end);
    positions_.insert(positions_.end(), whole.positions + begin, whole.positions + end);
    if (whole.targets) targets_.insert(targets_.end(), whole.targets + begin, whole.targets + end);
    if (whole.row_ids) row_ids_.insert(row_ids_.end(), whole.row_ids + begin, whole.row_ids + end);
    offsets_.push_back(std::ssize(inputs_));
  }
  batch_.rows = std::ssize(inputs_);
  batch_.inputs = inputs_.data();
  batch_.positions = positions_.data();
  batch_.targets = whole.targets ? targets_.data() : nullptr;
  batch_.row_ids = whole.row_ids ? row_ids_.data() : nullptr;
  batch_.segments = {whole.segments.count, offsets_.data()};
  batch_.whole = whole.segments;
  batch_.context = &context;
}

StateMessage::StateMessage(Arena& arena, const LinearAttentionShape& shape, std::int64_t segments,
                           DType dtype) {
  const std::int64_t heads = shape.heads, k = shape.feature_size, d = shape.head_dim;
  const std::int64_t s_size = segments * heads * k * d;
  all = arena.allocate(Shape{s_size + segments * heads * k}, dtype);
  state.s = Tensor(all.data, Shape{segments, heads, k, d}, dtype);
  state.z = Tensor(static_cast<std::byte*>(all.data) + s_size * size_of(dtype),
                   Shape{segments, heads, k}, dtype);
}

void states_before(Step& step, const TokenRows& rows, const StateMessage& states, Tensor gamma) {
  exchange(step, rows, states, gamma, false);
}

void state_gradients_after(Step& step, const TokenRows& rows, const StateMessage& states,
                           Tensor gamma) {
  exchange(step, rows, states, gamma, true);
}

KeyValues gather_key_values(Step& step, const TokenRows& rows, Tensor k, Tensor v) {
  const ContextParallel& context = *rows.context;
  KeyValues result;
  result.offsets.push_back(0);
  for (std::int64_t s = 0; s < rows.whole.count; ++s)
    result.offsets.push_back(result.offsets.back() +
                             context.begin_of(rows.whole.length(s), context.rank() + 1));
  result.segments = {rows.whole.count, result.offsets.data()};
  const std::int64_t columns = k.columns_count();
  const auto allocate = [&](std::int64_t count) {
    return step.scratch.allocate(Shape{count, 2 * columns}, k.dtype);
  };
  const Tensor both = allocate(result.segments.rows());
  result.k = both.column_range(0, columns);
  result.v = both.column_range(columns, 2 * columns);

  const ArenaScope scope(step.scratch);
  const std::int64_t most = most_rows(rows);  // messages are of one size
  const Tensor mine = allocate(most), all = allocate(context.size() * most);
  fill(step.queue, mine, 0);
  copy(step.queue, mine.row_range(0, rows.rows).column_range(0, columns), k);
  copy(step.queue, mine.row_range(0, rows.rows).column_range(columns, 2 * columns), v);
  context.comm().all_gather(mine, all, step.queue);
  for_each_stretch(rows, [&](int rank, std::int64_t row, std::int64_t place, std::int64_t count) {
    const std::int64_t from = rank * most + row;
    copy(step.queue, both.row_range(place, place + count), all.row_range(from, from + count));
  });
  return result;
}

void scatter_key_value_gradients(Step& step, const TokenRows& rows, const KeyValues& gradients,
                                 Tensor dk, Tensor dv) {
  const ContextParallel& context = *rows.context;
  const ArenaScope scope(step.scratch);
  const std::int64_t columns = dk.columns_count(), most = most_rows(rows);
  const DType wide = accumulate_dtype(dk.dtype);
  const Tensor all = step.scratch.allocate(Shape{context.size() * most, 2 * columns}, wide);
  const Tensor mine = step.scratch.allocate(Shape{most, 2 * columns}, wide);
  fill(step.queue, all, 0);
  for_each_stretch(rows, [&](int rank, std::int64_t row, std::int64_t place, std::int64_t count) {
    const Tensor to = all.row_range(rank * most + row, rank * most + row + count);
    copy(step.queue, to.column_range(0, columns), gradients.k.row_range(place, place + count));
    copy(step.queue, to.column_range(columns, 2 * columns),
         gradients.v.row_range(place, place + count));
  });
  context.comm().reduce_scatter(all, mine, step.queue);
  copy(step.queue, dk, mine.row_range(0, rows.rows).column_range(0, columns));
  copy(step.queue, dv, mine.row_range(0, rows.rows).column_range(columns, 2 * columns));
}

}  // namespace t2r

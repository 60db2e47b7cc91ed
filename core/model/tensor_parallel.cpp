#include "core/model/tensor_parallel.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/elementwise.h"

namespace t2r {
namespace {

/// A parameter as rows that lie whole, or in stretches of one size, in the whole parameter.
struct Layout {
  std::int64_t rows, row, stride, begin;  // elements

  explicit Layout(const ParamSpec& spec) : rows(1), row(spec.shape.size()), stride(0), begin(0) {
    if (spec.part.dim == 0) {
      begin = spec.whole_index(0);
    } else if (spec.part.dim == 1) {
      rows = spec.shape[0];
      row = spec.shape[1];
      stride = spec.part.whole;
      begin = spec.part.begin;
    }
  }
};

/// Copies a part (rows side by side) to its place in the whole.
void copy_rows(const Layout& layout, const std::byte* part, std::byte* whole, std::int64_t width) {
  for (std::int64_t r = 0; r < layout.rows; ++r)
    std::memcpy(whole + (layout.begin + r * layout.stride) * width, part + r * layout.row * width,
                static_cast<std::size_t>(layout.row * width));
}

std::byte* place(const Tensor& span, std::int64_t element) {
  return static_cast<std::byte*>(span.data) + element * size_of(span.dtype);
}

void check_spans(const ParamStore& params, const Tensor& span, const ParamStore& whole,
                 const Tensor& whole_span) {
  check(params.count() == whole.count() && span.dtype == whole_span.dtype &&
            span.size() == params.span_size() && whole_span.size() == whole.span_size(),
        "spans of {} and {} elements are not those of a model and its part", span.size(),
        whole_span.size());
}

}  // namespace

void TensorParallel::reduce(Step& step, Tensor x, ReduceOp op) const {
  if (!active() || x.size() == 0) return;
  if (x.contiguous() && x.dtype != DType::bf16) {
    comm_->all_reduce(x, op, step.queue);
    return;
  }
  const ArenaScope scope(step.scratch);
  const Tensor wide = step.scratch.allocate(x.shape, accumulate_dtype(x.dtype));
  copy(step.queue, wide, x);
  comm_->all_reduce(wide, op, step.queue);
  copy(step.queue, x, wide);
}

Range TensorParallel::rows_here(const Step& step, std::int64_t rows) const {
  if (!shares_rows(step)) return {0, rows};
  const std::int64_t stretch = (rows + size() - 1) / size();
  return {std::min(rows, rank() * stretch), std::min(rows, (rank() + 1) * stretch)};
}

const std::int64_t* TensorParallel::row_ids_here(const Step& step, std::int64_t rows,
                                                 const std::int64_t* row_ids) const {
  if (!shares_rows(step)) return row_ids;
  check(row_ids || !step.train, "rows without ids cannot be shared out among ranks");
  return row_ids ? row_ids + rows_here(step, rows).begin : nullptr;
}

Tensor TensorParallel::gather_rows(Step& step, Tensor here, std::int64_t rows) const {
  if (!shares_rows(step)) return here;
  const std::int64_t stretch = (rows + size() - 1) / size(), columns = here.columns_count();
  const Tensor full = step.scratch.allocate(Shape{stretch * size(), columns}, here.dtype);
  const Tensor mine = full.row_range(rank() * stretch, (rank() + 1) * stretch);
  copy(step.queue, mine.row_range(0, here.rows()), here);
  // What fills up the last stretches is sent, but read by nobody.
  fill(step.queue, mine.row_range(here.rows(), stretch), 0);
  comm_->all_gather(mine, full, step.queue);
  return full.row_range(0, rows);
}

void TensorParallel::sum_rows(Step& step, Tensor here, Tensor part) const {
  if (!shares_rows(step)) {
    sum(step, part);
    if (here.data != part.data) copy(step.queue, here, part);
    return;
  }
  const ArenaScope scope(step.scratch);
  const std::int64_t rows = part.rows(), columns = part.columns_count();
  const std::int64_t stretch = (rows + size() - 1) / size();
  const DType wide = accumulate_dtype(part.dtype);
  const Tensor full = step.scratch.allocate(Shape{stretch * size(), columns}, wide);
  copy(step.queue, full.row_range(0, rows), part);
  fill(step.queue, full.row_range(rows, stretch * size()), 0);
  const Tensor mine = full.row_range(rank() * stretch, (rank() + 1) * stretch);
  comm_->reduce_scatter(full, mine, step.queue);
  copy(step.queue, here, mine.row_range(0, here.rows()));
}

ModelConfig part_of_model(const ModelConfig& config, const TensorParallel& parallel) {
  ModelConfig part = config;
  const std::int64_t n = parallel.size();
  const auto share = [&](std::int64_t* count, const char* what) {
    check_usage(*count % n == 0,
                "{} {} cannot be shared out among {} tensor-parallel ranks: choose --tp so that it "
                "divides them",
                *count, what, n);
    *count /= n;
  };
  share(&part.heads, "attention heads");
  share(&part.key_value_heads, "key-value heads");
  share(&part.ffn_size, "feed-forward columns");
  check_usage(config.vocab_size >= n && config.source_vocabulary() >= n,
              "a vocabulary of {} entries is too small for {} tensor-parallel ranks",
              std::min(config.vocab_size, config.source_vocabulary()), n);
  return part;
}

void gather_parameter(const TensorParallel& parallel, const ParamStore& params, Tensor span,
                      ParamId id, void* whole) {
  const std::int64_t width = size_of(span.dtype);
  const ParamSpec& spec = params.spec(id);
  auto* const room = static_cast<std::byte*>(whole);
  if (!spec.split()) {  // every rank has it
    if (room) copy_rows(Layout(spec), place(span, params.offset(id)), room, width);
    return;
  }
  for (int rank = 0; rank < parallel.size(); ++rank) {
    ParamSpec theirs = spec;
    theirs.part.begin = parallel.begin_of(spec.part.whole, rank);
    theirs.shape = spec.shape.with(spec.part.dim, parallel.share_of(spec.part.whole, rank));
    std::vector<std::byte> part(static_cast<std::size_t>(theirs.shape.size() * width));
    if (rank == parallel.rank())
      std::memcpy(part.data(), place(span, params.offset(id)), part.size());
    parallel.comm()->broadcast(Tensor(part.data(), Shape{theirs.shape.size()}, span.dtype), rank,
                               Queue{});
    if (room) copy_rows(Layout(theirs), part.data(), room, width);
  }
}

void gather_parts(const TensorParallel& parallel, const ParamStore& params, Tensor span,
                  const ParamStore* whole, Tensor whole_span) {
  if (whole) check_spans(params, span, *whole, whole_span);
  for (int i = 0; i < params.count(); ++i)
    gather_parameter(parallel, params, span, ParamId{i},
                     whole ? place(whole_span, whole->offset(ParamId{i})) : nullptr);
}

}  // namespace t2r

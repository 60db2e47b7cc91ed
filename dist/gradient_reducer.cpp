#include "dist/gradient_reducer.h"

#include <chrono>
#include <cstring>
#include <utility>

namespace t2r {

void all_reduce_stretches(Comm& comm, Tensor span, const std::vector<Range>& stretches,
                          Queue queue) {
  const std::int64_t width = size_of(span.dtype);
  const auto at = [&](const Range& stretch) {
    return static_cast<std::byte*>(span.data) + stretch.begin * width;
  };
  std::vector<std::byte> packed;
  for (const Range& stretch : stretches)
    packed.insert(packed.end(), at(stretch), at(stretch) + stretch.size() * width);
  comm.all_reduce(Tensor(packed.data(), Shape{std::ssize(packed) / width}, span.dtype),
                  ReduceOp::sum, queue);
  const std::byte* from = packed.data();
  for (const Range& stretch : stretches) {
    if (stretch.size() == 0) continue;
    std::memcpy(at(stretch), from, static_cast<std::size_t>(stretch.size() * width));
    from += stretch.size() * width;
  }
}

GradientReducer::GradientReducer(Comm& comm, Tensor grads, std::vector<Range> buckets, Queue queue,
                                 const ReducerOptions& options)
    : comm_(comm),
      grads_(grads),
      buckets_(std::move(buckets)),
      queue_(queue),
      options_(options),
      watermark_(grads.size()) {
  check(grads.contiguous(), "the gradients of shape {} are strided: one flat span is needed",
        grads.shape.text());
  grads_ = grads.view({grads.size()});
  std::int64_t end = grads.size();
  for (const Range& bucket : buckets_) {
    check(bucket.end == end && bucket.begin < end, "a bucket of elements {} to {} after {}",
          bucket.begin, bucket.end, end);
    end = bucket.begin;
  }
  check(end == 0, "no bucket has the first {} gradients", end);
}

void GradientReducer::ready(std::int64_t offset) {
  check(0 <= offset && offset <= watermark_,
        "gradients reported ready from element {} after {} of {}: backward must finish them from "
        "the end to the beginning",
        offset, watermark_, grads_.size());
  watermark_ = offset;
  if (!options_.overlap) return;
  while (next_ < buckets_.size() && buckets_[next_].begin >= watermark_) start(buckets_[next_++]);
  progress();
}

void GradientReducer::progress() {
  while (!pending_.empty() && pending_.front()->test()) pending_.pop_front();
}

void GradientReducer::start(const Range& bucket) {
  ++buckets_started_;
  const auto range = [&](const Range& r) { return grads_.row_range(r.begin, r.end); };
  if (!options_.sharded) {
    pending_.push_back(comm_.start_all_reduce(range(bucket), ReduceOp::sum, queue_));
    return;
  }
  const Range parts{bucket.begin, rest_of_bucket(bucket, comm_.size()).begin};
  if (parts.size() > 0)
    pending_.push_back(comm_.start_reduce_scatter(
        range(parts), range(part_of_bucket(bucket, comm_.rank(), comm_.size())), queue_));
}

void GradientReducer::reduce_rests() {
  std::vector<Range> rests;
  for (const Range& bucket : buckets_) rests.push_back(rest_of_bucket(bucket, comm_.size()));
  all_reduce_stretches(comm_, grads_, rests, queue_);
}

void GradientReducer::finish() {
  const auto begin = std::chrono::steady_clock::now();
  while (next_ < buckets_.size()) start(buckets_[next_++]);
  for (; !pending_.empty(); pending_.pop_front()) pending_.front()->wait();
  if (options_.sharded) reduce_rests();
  watermark_ = grads_.size();
  next_ = 0;
  exposed_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace t2r

// Buckets are cut from the tail at the offsets where layers finish, so where they lie depends on
// the model and the bucket size only: the same sums, bit for bit, in every step and run.
#include "dist/gradient_reducer.h"

#include <algorithm>
#include <chrono>

namespace t2r {

GradientReducer::GradientReducer(Comm& comm, Tensor grads, std::int64_t bucket_bytes, Queue queue,
                                 bool overlap)
    : comm_(comm),
      grads_(grads),
      bucket_elements_(std::max<std::int64_t>(1, bucket_bytes / size_of(grads.dtype))),
      queue_(queue),
      overlap_(overlap),
      watermark_(grads.size()),
      started_(grads.size()) {
  check(grads.contiguous(), "the gradients of shape {} are strided: one flat span is needed",
        grads.shape.text());
  check(bucket_bytes > 0, "buckets of {} bytes: the size must be positive", bucket_bytes);
  grads_ = grads.view({grads.size()});
}

void GradientReducer::ready(std::int64_t offset) {
  check(0 <= offset && offset <= watermark_,
        "gradients reported ready from element {} after {} of {}: backward must finish them from "
        "the end to the beginning",
        offset, watermark_, grads_.size());
  watermark_ = offset;
  if (started_ - watermark_ >= bucket_elements_) start(watermark_, started_);
  progress();
}

void GradientReducer::progress() {
  while (!pending_.empty() && pending_.front()->test()) pending_.pop_front();
}

void GradientReducer::start(std::int64_t begin, std::int64_t end) {
  const Tensor bucket = grads_.row_range(begin, end);
  if (overlap_)
    pending_.push_back(comm_.start_all_reduce(bucket, ReduceOp::sum, queue_));
  else
    waiting_.push_back(bucket);
  started_ = begin;
  ++buckets_started_;
}

void GradientReducer::finish() {
  const auto begin = std::chrono::steady_clock::now();
  if (started_ > 0) start(0, started_);
  for (const Tensor& bucket : waiting_)
    pending_.push_back(comm_.start_all_reduce(bucket, ReduceOp::sum, queue_));
  waiting_.clear();
  for (; !pending_.empty(); pending_.pop_front()) pending_.front()->wait();
  watermark_ = started_ = grads_.size();
  exposed_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace t2r

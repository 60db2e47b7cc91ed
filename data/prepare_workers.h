// Runs a piece of work in several forked processes and shows how far they are.
#pragma once

#include <cstdint>
#include <functional>

namespace t2r {

/// Calls work(worker, bytes_done) for each worker in a process of its own (in this one when there
/// is a single worker); `bytes_done` adds to the progress shown, out of `total_bytes`. Returns when
/// all are done. When one fails, the others are ended and its error is thrown here.
void run_workers(int workers, std::int64_t total_bytes,
                 const std::function<void(int, const std::function<void(std::int64_t)>&)>& work);

}  // namespace t2r

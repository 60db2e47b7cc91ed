// Every collective is an operation that ranks join one by one; the last to arrive carries it out
// for all, the others wait when they need the result. A started and a blocking call are thus the
// same thing, and nothing blocks at the start.
#include "dist/thread_comm.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "dist/collective_call.h"

namespace t2r {

namespace {

/// What one run_ranks() shares between all its communicators: one lock is enough for tests.
struct Job {
  std::mutex mutex;
  std::condition_variable changed;
  std::string aborted;      // why; empty while all is well
  std::vector<bool> ended;  // by world rank: its function has returned
};

/// Thrown in ranks that wait for one that failed; the failure itself is what the user should see.
class RanksAborted : public Error {
 public:
  using Error::Error;
};

struct Arrival {
  bool here = false;
  CollectiveCall call;
  const void* in = nullptr;
  void* out = nullptr;
  int color = 0, key = 0;              // split only
  std::shared_ptr<ThreadGroup> group;  // result of split
  int rank = 0;                        // result of split
};

enum class Progress : std::uint8_t { gathering, running, done };

}  // namespace

struct ThreadOperation {
  std::vector<Arrival> arrivals;
  int arrived = 0;
  Progress progress = Progress::gathering;
  std::string error;
};

struct ThreadGroup {
  std::shared_ptr<Job> job;
  std::vector<int> world_ranks;
  std::map<std::int64_t, std::shared_ptr<ThreadOperation>> open;  // by number

  int size() const { return static_cast<int>(world_ranks.size()); }
};

namespace {

template <class T>
T combine(T a, T b, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return a + b;
    case ReduceOp::max:
      return a < b ? b : a;
    case ReduceOp::min:
      break;
  }
  return b < a ? b : a;
}

/// out[r] of rank r = elements [r * part, (r + 1) * part) of the reduction, in the order of ranks;
/// with `whole` all ranks get all of it.
template <class T>
void reduce(std::vector<Arrival>& ranks, bool whole) {
  const CollectiveCall call = ranks[0].call;
  const auto size = static_cast<std::int64_t>(ranks.size());
  std::vector<T> result(static_cast<std::size_t>(call.count));
  for (std::int64_t i = 0; i < call.count; ++i) {
    T sum = static_cast<const T*>(ranks[0].in)[i];
    for (std::int64_t r = 1; r < size; ++r)
      sum = combine(sum, static_cast<const T*>(ranks[r].in)[i], call.op);
    result[i] = sum;
  }
  const std::int64_t part = whole ? call.count : call.count / size;
  if (part == 0) return;
  for (std::int64_t r = 0; r < size; ++r)
    std::memcpy(ranks[r].out, result.data() + (whole ? 0 : r * part), part * sizeof(T));
}

void gather(std::vector<Arrival>& ranks) {
  const std::int64_t bytes = ranks[0].call.count * size_of(ranks[0].call.dtype);
  if (bytes == 0) return;
  // A rank's input may be its own part of its output: that part is then in place already.
  for (Arrival& to : ranks)
    for (std::size_t r = 0; r < ranks.size(); ++r)
      std::memmove(static_cast<char*>(to.out) + static_cast<std::int64_t>(r) * bytes, ranks[r].in,
                   bytes);
}

void spread(std::vector<Arrival>& ranks) {
  const CollectiveCall call = ranks[0].call;
  if (call.count == 0) return;
  for (Arrival& to : ranks)
    if (to.out != ranks[call.root].out)
      std::memcpy(to.out, ranks[call.root].out, call.count * size_of(call.dtype));
}

void split_group(const ThreadGroup& group, std::vector<Arrival>& ranks) {
  std::map<int, std::vector<int>> colors;
  for (int r = 0; r < group.size(); ++r) colors[ranks[r].color].push_back(r);
  for (auto& [color, members] : colors) {
    std::stable_sort(members.begin(), members.end(),
                     [&](int a, int b) { return ranks[a].key < ranks[b].key; });
    auto part = std::make_shared<ThreadGroup>();
    part->job = group.job;
    for (std::size_t i = 0; i < members.size(); ++i) {
      part->world_ranks.push_back(group.world_ranks[members[i]]);
      ranks[members[i]].group = part;
      ranks[members[i]].rank = static_cast<int>(i);
    }
  }
}

void carry_out(const ThreadGroup& group, std::vector<Arrival>& ranks) {
  const bool f64 = ranks[0].call.dtype == DType::f64;
  switch (ranks[0].call.kind) {
    case CallKind::all_reduce:
    case CallKind::start_all_reduce:
      return f64 ? reduce<double>(ranks, true) : reduce<float>(ranks, true);
    case CallKind::reduce_scatter:
      return f64 ? reduce<double>(ranks, false) : reduce<float>(ranks, false);
    case CallKind::all_gather:
      return gather(ranks);
    case CallKind::broadcast:
      return spread(ranks);
    case CallKind::split:
      return split_group(group, ranks);
    case CallKind::barrier:
    case CallKind::end:
      break;
  }
}

/// Joins the group's collective `number`; carries it out when all ranks are there.
std::shared_ptr<ThreadOperation> join(ThreadGroup& group, std::int64_t number, int rank,
                                      Arrival arrival) {
  Job& job = *group.job;
  std::unique_lock lock(job.mutex);
  if (!job.aborted.empty())
    throw RanksAborted(fmt::format("{} given up: {}", arrival.call.text(), job.aborted));
  auto& slot = group.open[number];
  if (!slot) {
    slot = std::make_shared<ThreadOperation>();
    slot->arrivals.resize(group.world_ranks.size());
  }
  const std::shared_ptr<ThreadOperation> operation = slot;
  arrival.here = true;
  operation->arrivals[rank] = std::move(arrival);
  if (++operation->arrived < group.size()) return operation;

  group.open.erase(number);
  std::vector<CollectiveCall> calls;
  for (const Arrival& a : operation->arrivals) calls.push_back(a.call);
  operation->error = describe_disagreement(calls, number);
  if (operation->error.empty()) {
    operation->progress = Progress::running;
    lock.unlock();
    std::string error;
    try {
      carry_out(group, operation->arrivals);
    } catch (const std::exception& e) {
      error = e.what();
    }
    lock.lock();
    operation->error = error;
  }
  operation->progress = Progress::done;
  job.changed.notify_all();
  return operation;
}

/// A rank of the group that has ended without joining the operation, or -1.
int missing_rank(const ThreadGroup& group, const ThreadOperation& operation) {
  for (int r = 0; r < group.size(); ++r)
    if (!operation.arrivals[r].here && group.job->ended[group.world_ranks[r]]) return r;
  return -1;
}

/// Done, or never to be done. The lock is held.
bool settled(const ThreadGroup& group, const ThreadOperation& operation) {
  return operation.progress == Progress::done ||
         (operation.progress == Progress::gathering &&
          (!group.job->aborted.empty() || missing_rank(group, operation) >= 0));
}

void wait_for(const ThreadGroup& group, const ThreadOperation& operation, int rank) {
  Job& job = *group.job;
  std::unique_lock lock(job.mutex);
  job.changed.wait(lock, [&] { return settled(group, operation); });
  if (operation.progress == Progress::done) {
    check(operation.error.empty(), "{}", operation.error);
    return;
  }
  const std::string call = operation.arrivals[rank].call.text();
  if (!job.aborted.empty()) throw RanksAborted(fmt::format("{} given up: {}", call, job.aborted));
  fail("rank {} of {} ended while rank {} waits for it in {}", missing_rank(group, operation),
       group.size(), rank, call);
}

void abort_job(Job& job, const std::string& why) {
  const std::lock_guard lock(job.mutex);
  if (job.aborted.empty()) job.aborted = why;
  job.changed.notify_all();
}

class ThreadPending : public Pending {
 public:
  ThreadPending(std::shared_ptr<ThreadGroup> group, std::shared_ptr<ThreadOperation> operation,
                int rank)
      : group_(std::move(group)), operation_(std::move(operation)), rank_(rank) {}

  ~ThreadPending() override {
    if (waited_) return;
    // The tensor's memory may be gone after this: nobody may touch it any more.
    Job& job = *group_->job;
    std::unique_lock lock(job.mutex);
    job.changed.wait(lock, [&] { return operation_->progress != Progress::running; });
    if (operation_->progress == Progress::done) return;
    if (job.aborted.empty())
      job.aborted = fmt::format("rank {} dropped a started collective without waiting", rank_);
    job.changed.notify_all();
  }

  void wait() override {
    waited_ = true;
    wait_for(*group_, *operation_, rank_);
  }

  bool test() override {
    {
      const std::lock_guard lock(group_->job->mutex);
      if (!settled(*group_, *operation_)) return false;
    }
    wait();
    return true;
  }

 private:
  std::shared_ptr<ThreadGroup> group_;
  std::shared_ptr<ThreadOperation> operation_;
  int rank_;
  bool waited_ = false;
};

}  // namespace

ThreadComm::ThreadComm(std::shared_ptr<ThreadGroup> group, int rank)
    : Comm(rank, group->size()), group_(std::move(group)) {}

ThreadComm::~ThreadComm() = default;

void ThreadComm::all_reduce(Tensor x, ReduceOp op, Queue) {
  const auto call = all_reduce_call(CallKind::all_reduce, x, op);
  const auto operation =
      join(*group_, next_++, rank(), {.call = call, .in = x.data, .out = x.data, .group = nullptr});
  wait_for(*group_, *operation, rank());
}

std::unique_ptr<Pending> ThreadComm::start_all_reduce(Tensor x, ReduceOp op, Queue) {
  const auto call = all_reduce_call(CallKind::start_all_reduce, x, op);
  auto operation =
      join(*group_, next_++, rank(), {.call = call, .in = x.data, .out = x.data, .group = nullptr});
  return std::make_unique<ThreadPending>(group_, std::move(operation), rank());
}

std::unique_ptr<Pending> ThreadComm::start_reduce_scatter(Tensor in, Tensor out, Queue) {
  const auto call = reduce_scatter_call(in, out, size());
  auto operation = join(*group_, next_++, rank(),
                        {.call = call, .in = in.data, .out = out.data, .group = nullptr});
  return std::make_unique<ThreadPending>(group_, std::move(operation), rank());
}

std::unique_ptr<Pending> ThreadComm::start_all_gather(Tensor in, Tensor out, Queue) {
  const auto call = all_gather_call(in, out, size());
  auto operation = join(*group_, next_++, rank(),
                        {.call = call, .in = in.data, .out = out.data, .group = nullptr});
  return std::make_unique<ThreadPending>(group_, std::move(operation), rank());
}

void ThreadComm::broadcast(Tensor x, int root, Queue) {
  const auto call = broadcast_call(x, root, size());
  const auto operation =
      join(*group_, next_++, rank(), {.call = call, .out = x.data, .group = nullptr});
  wait_for(*group_, *operation, rank());
}

void ThreadComm::barrier() {
  const auto operation = join(*group_, next_++, rank(), {.call = {}, .group = nullptr});
  wait_for(*group_, *operation, rank());
}

std::unique_ptr<Comm> ThreadComm::split(int color, int key) {
  CollectiveCall call;
  call.kind = CallKind::split;
  const auto operation =
      join(*group_, next_++, rank(), {.call = call, .color = color, .key = key, .group = nullptr});
  wait_for(*group_, *operation, rank());
  const Arrival& mine = operation->arrivals[rank()];
  return std::make_unique<ThreadComm>(mine.group, mine.rank);
}

void ThreadComm::abort(int status) {
  const std::string why = fmt::format("rank {} ended the job with status {}", rank(), status);
  abort_job(*group_->job, why);
  throw Error(why, static_cast<ExitStatus>(status));
}

void run_ranks(int size, const std::function<void(Comm&)>& rank_main) {
  check(size >= 1, "{} ranks: at least one is needed", size);
  auto group = std::make_shared<ThreadGroup>();
  group->job = std::make_shared<Job>();
  group->job->ended.resize(size);
  for (int r = 0; r < size; ++r) group->world_ranks.push_back(r);

  std::mutex mutex;
  std::exception_ptr cause, consequence;  // the first failure, and the first that followed from one
  const auto run_rank = [&](int rank) {
    try {
      ThreadComm comm(group, rank);
      rank_main(comm);
    } catch (const RanksAborted&) {
      const std::lock_guard lock(mutex);
      if (!consequence) consequence = std::current_exception();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!cause) cause = std::current_exception();
      abort_job(*group->job, fmt::format("rank {} failed", rank));
    }
    const std::lock_guard lock(group->job->mutex);
    group->job->ended[rank] = true;
    group->job->changed.notify_all();
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back(run_rank, r);
  for (std::thread& thread : threads) thread.join();
  if (cause) std::rethrow_exception(cause);
  if (consequence) std::rethrow_exception(consequence);
}

}  // namespace t2r

// Forked worker processes with shared progress.
#include "data/prepare_workers.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/log.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

/// Memory that the workers and this process see alike.
struct Shared {
  std::atomic<std::int64_t> bytes_done{0};
  std::atomic<int> failed{0};  // 1: a worker is writing its error, 2: it is there
  int status = kExitFailure;
  char error[4096] = {};
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

class SharedMemory {
 public:
  SharedMemory() {
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "cannot share memory with worker processes: {}",
          std::strerror(errno));
    shared_ = new (memory) Shared;
  }
  ~SharedMemory() { ::munmap(shared_, sizeof(Shared)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  Shared* operator->() const { return shared_; }

 private:
  Shared* shared_;
};

/// Live children; those left when this goes are ended.
struct Children {
  std::vector<pid_t> pids;
  ~Children() {
    for (pid_t pid : pids) ::kill(pid, SIGKILL);
    for (pid_t pid : pids) ::waitpid(pid, nullptr, 0);
  }
};

void show(std::int64_t done, std::int64_t total, Clock::time_point start, bool last) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const double rate = static_cast<double>(done) * 1e-6 / std::max(seconds, 1e-3);
  progress(fmt::format("tokenizing: {:.1f} of {:.1f} MB, {:.1f} MB/s",
                       static_cast<double>(done) * 1e-6, static_cast<double>(total) * 1e-6, rate),
           last);
}

}  // namespace

void run_workers(int workers, std::int64_t total_bytes,
                 const std::function<void(int, const std::function<void(std::int64_t)>&)>& work) {
  const auto start = Clock::now();
  if (workers == 1) {
    std::int64_t done = 0, shown = 0;
    work(0, [&](std::int64_t bytes) {
      done += bytes;
      constexpr std::int64_t kEvery = 1 << 18;
      if (done - shown >= kEvery) {
        shown = done;
        show(done, total_bytes, start, false);
      }
    });
    show(done, total_bytes, start, true);
    return;
  }

  const SharedMemory shared;
  const pid_t parent = ::getpid();
  Children children;
  std::fflush(nullptr);  // or the children print it again
  for (int worker = 0; worker < workers; ++worker) {
    const pid_t pid = ::fork();
    check(pid >= 0, "cannot start worker process {} of {}: {}", worker, workers,
          std::strerror(errno));
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // no worker outlives this process
      if (::getppid() != parent) ::_exit(kExitFailure);
      try {
        work(worker, [&](std::int64_t bytes) { shared->bytes_done += bytes; });
        ::_exit(0);
      } catch (const std::exception& error) {
        if (shared->failed.exchange(1) == 0) {
          std::strncpy(shared->error, error.what(), sizeof(shared->error) - 1);
          if (const auto* known = dynamic_cast<const Error*>(&error))
            shared->status = known->status();
          shared->failed = 2;
        }
        ::_exit(kExitFailure);
      }
    }
    children.pids.push_back(pid);
  }
  while (!children.pids.empty()) {
    for (std::size_t i = 0; i < children.pids.size();) {
      int status = 0;
      const pid_t ended = ::waitpid(children.pids[i], &status, WNOHANG);
      check(ended >= 0 || errno == EINTR, "cannot wait for a worker process: {}",
            std::strerror(errno));
      if (ended <= 0) {
        ++i;
        continue;
      }
      children.pids.erase(children.pids.begin() + static_cast<std::ptrdiff_t>(i));
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
      if (shared->failed == 2) throw Error(shared->error, static_cast<ExitStatus>(shared->status));
      if (WIFSIGNALED(status))
        fail(
            "a worker process was ended by signal {} ({}): is there enough memory? Repeat the "
            "command, perhaps with fewer workers",
            WTERMSIG(status), ::strsignal(WTERMSIG(status)));
      fail("a worker process ended with status {}", WEXITSTATUS(status));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    show(shared->bytes_done, total_bytes, start, false);
  }
  show(shared->bytes_done, total_bytes, start, true);
}

}  // namespace t2r

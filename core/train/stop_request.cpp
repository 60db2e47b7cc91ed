#include "core/train/stop_request.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

namespace t2r {
namespace {

std::atomic<bool> requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // else a handler may not touch it
// Ranks may be threads of one process: the first one installs the handlers, the last one removes
// them.
std::mutex mutex;
int users = 0;
struct sigaction old_term, old_usr1;

void on_signal(int) {
  requested = true;
}

/// A stack of its own for signal handlers on this thread. The code that oneDNN generates keeps
/// values below the stack pointer, beyond the 128 bytes that a signal frame leaves alone: a handler
/// on the ordinary stack would overwrite them in the middle of a product.
class HandlerStack {
 public:
  HandlerStack() {
    stack_t old{};
    if (sigaltstack(nullptr, &old) != 0 || !(old.ss_flags & SS_DISABLE)) return;  // has one already
    constexpr long kLeast = 64 << 10;  // vector registers alone take kilobytes
    const auto size = static_cast<std::size_t>(std::max<long>(kLeast, SIGSTKSZ));
    memory_ = std::make_unique<char[]>(size);
    stack_t stack{};
    stack.ss_sp = memory_.get();
    stack.ss_size = size;
    if (sigaltstack(&stack, nullptr) != 0) memory_.reset();
  }
  ~HandlerStack() {
    if (!memory_) return;
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
  }
  HandlerStack(const HandlerStack&) = delete;
  HandlerStack& operator=(const HandlerStack&) = delete;

 private:
  std::unique_ptr<char[]> memory_;
};

/// Gives one to this thread and to its OpenMP team: whichever of them runs products.
void give_handler_stacks() {
#pragma omp parallel
  {
    static thread_local const HandlerStack stack;
    static_cast<void>(stack);
  }
}

}  // namespace

StopSignals::StopSignals() {
  give_handler_stacks();
  const std::lock_guard lock(mutex);
  if (users++ > 0) return;
  requested = false;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, &old_term);
  sigaction(SIGUSR1, &action, &old_usr1);
}

StopSignals::~StopSignals() {
  const std::lock_guard lock(mutex);
  if (--users > 0) return;
  sigaction(SIGTERM, &old_term, nullptr);
  sigaction(SIGUSR1, &old_usr1, nullptr);
}

bool stop_requested() {
  return requested;
}
void request_stop() {
  requested = true;
}

}  // namespace t2r

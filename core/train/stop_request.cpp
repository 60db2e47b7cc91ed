#include "core/train/stop_request.h"

#include <signal.h>

#include <atomic>
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

}  // namespace

StopSignals::StopSignals() {
  const std::lock_guard lock(mutex);
  if (users++ > 0) return;
  requested = false;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
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

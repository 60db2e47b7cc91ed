// SIGTERM and SIGUSR1 ask a run to save and stop: the handler only sets a flag, which the trainer
// reads after each update.
#pragma once

namespace t2r {

/// Installs the handlers for the life of the object and clears the flag. Made by each rank's
/// thread, after its number of OpenMP threads is set.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
};

/// True once a stop was asked for.
bool stop_requested();
/// What the signals do.
void request_stop();

}  // namespace t2r

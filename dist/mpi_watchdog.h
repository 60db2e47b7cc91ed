// Names the ranks that do not arrive at a collective. MPI itself notices a rank that dies, but not
// one that hangs: the others would wait for it for ever.
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/collective_call.h"

namespace t2r {

/// A collective that this rank has started.
struct StartedCall {
  CollectiveCall call;
  std::int64_t number = 0;       // in its group, from 1
  std::uint64_t group = 0;       // the communicator: the same on its members, another elsewhere
  std::span<const int> members;  // of the group, as ranks of the job
};

/// Every wait for a collective polls, so that a rank that waits can also talk. After the time limit
/// it asks all ranks what they do; a rank that waits too answers at once, and a rank that hangs, is
/// stopped or computes does not: that silence is what the watchdog goes by, it needs no help from
/// the rank that is missing. Nothing is sent, and no clock is read, in a wait that is short.
class MpiWatchdog {
 public:
  /// Collective over all ranks of the job. `timeout`: seconds; 0: waits have no limit.
  explicit MpiWatchdog(double timeout);
  ~MpiWatchdog();
  MpiWatchdog(const MpiWatchdog&) = delete;
  MpiWatchdog& operator=(const MpiWatchdog&) = delete;

  /// Calls done() until it returns true. Throws CollectiveTimeout, on one of the ranks that wait,
  /// when that takes longer than the limit; the others go on waiting for the end of the job.
  template <class Done>
  void wait(const StartedCall& call, Done&& done) {
    if (poll(done)) return;
    Wait wait(*this, call);
    while (!poll(done)) wait.look();
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Notice;
  struct Outgoing;

  /// One long wait.
  class Wait {
   public:
    Wait(MpiWatchdog& watchdog, const StartedCall& call) : watchdog_(watchdog), call_(call) {}
    /// To be called again and again: sleeps, listens, answers, asks and judges when it is time.
    void look();

   private:
    void listen();
    void ask();
    [[noreturn]] void judge();

    MpiWatchdog& watchdog_;
    const StartedCall& call_;
    Clock::time_point last_{}, last_listened_{};
    double waited_ = 0;        // seconds in which this rank was not stopped itself
    double asked_at_ = -1;     // when this rank asked, in terms of waited_
    double silent_until_ = 0;  // a lower rank asks: it speaks for all
  };

  template <class Done>
  static bool poll(Done& done) {
    for (int i = 0; i < kPolls; ++i)
      if (done()) return true;
    return false;
  }

  void send(int to, const Notice& notice);
  void forget_sent();
  std::string verdict(const StartedCall& call) const;
  std::string name_of(int rank) const;

  static constexpr int kPolls = 256;  // between two looks at the clock

  double timeout_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::vector<std::string> hosts_;              // of the ranks
  std::list<Outgoing> sent_;                    // that may still be on their way
  std::int64_t question_ = 0;                   // number of this rank's last question
  std::vector<std::optional<Notice>> answers_;  // to it, a rank each
};

}  // namespace t2r

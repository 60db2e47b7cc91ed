#include "dist/mpi_watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <exception>
#include <thread>

#include "dist/mpi_error.h"

namespace t2r {
namespace {

constexpr int kTag = 1;
// A rank that waits listens this often, and answers within this time on a machine that is busy.
constexpr double kListenSeconds = 0.02, kAnswerSeconds = 2;
// How long a rank leaves the word to a lower one, before it takes it itself.
constexpr double kSilentSeconds = 10;
// A longer time between two looks means that this rank was stopped itself: it does not count.
constexpr double kLongestLook = 0.5;
// From here on a wait leaves its core to others, and costs a ten-thousandth more.
constexpr double kPatientSeconds = 1;
constexpr auto kNap = std::chrono::microseconds(50);

}  // namespace

/// What ranks tell each other: bytes, the same on every rank of a job.
struct MpiWatchdog::Notice {
  bool question = false;  // else the answer to one
  std::int64_t question_number = 0;
  // Answers: the collective that the rank waits for.
  CollectiveCall call;
  std::int64_t number = 0;
  std::uint64_t group = 0;
};

struct MpiWatchdog::Outgoing {
  Notice notice;
  MPI_Request request = MPI_REQUEST_NULL;
};

MpiWatchdog::MpiWatchdog(double timeout) : timeout_(timeout) {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  std::array<char, HOST_NAME_MAX + 1> host{};
  gethostname(host.data(), host.size() - 1);
  std::vector<std::array<char, HOST_NAME_MAX + 1>> hosts(static_cast<std::size_t>(size_));
  check_mpi(
      MPI_Allgather(host.data(), sizeof host, MPI_BYTE, hosts.data(), sizeof host, MPI_BYTE, comm_),
      "MPI_Allgather");
  for (const auto& name : hosts) hosts_.emplace_back(name.data());
}

MpiWatchdog::~MpiWatchdog() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

void MpiWatchdog::send(int to, const Notice& notice) {
  Outgoing& outgoing = sent_.emplace_back(Outgoing{notice});
  check_mpi(
      MPI_Isend(&outgoing.notice, sizeof(Notice), MPI_BYTE, to, kTag, comm_, &outgoing.request),
      "MPI_Isend");
}

void MpiWatchdog::forget_sent() {
  std::erase_if(sent_, [](Outgoing& outgoing) {
    int complete = 0;
    check_mpi(MPI_Test(&outgoing.request, &complete, MPI_STATUS_IGNORE), "MPI_Test");
    return complete != 0;
  });
}

void MpiWatchdog::Wait::look() {
  const auto now = Clock::now();
  if (last_ == Clock::time_point{}) last_ = last_listened_ = now;
  const std::chrono::duration<double> passed = now - last_;
  last_ = now;
  waited_ += std::min(passed.count(), kLongestLook);
  if (waited_ > kPatientSeconds) std::this_thread::sleep_for(kNap);
  if (watchdog_.timeout_ == 0 ||
      now - last_listened_ < std::chrono::duration<double>(kListenSeconds))
    return;
  last_listened_ = now;
  listen();
  if (waited_ < watchdog_.timeout_ || waited_ < silent_until_) return;
  if (asked_at_ < 0)
    ask();
  else if (waited_ - asked_at_ > kAnswerSeconds)
    judge();
}

void MpiWatchdog::Wait::listen() {
  for (;;) {
    int found = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kTag, watchdog_.comm_, &found, &status), "MPI_Iprobe");
    if (!found) break;
    const int from = status.MPI_SOURCE;
    Notice notice;
    check_mpi(
        MPI_Recv(&notice, sizeof notice, MPI_BYTE, from, kTag, watchdog_.comm_, MPI_STATUS_IGNORE),
        "MPI_Recv");
    if (!notice.question) {
      if (notice.question_number == watchdog_.question_) watchdog_.answers_[from] = notice;
      continue;
    }
    watchdog_.send(from, {.question = false,
                          .question_number = notice.question_number,
                          .call = call_.call,
                          .number = call_.number,
                          .group = call_.group});
    if (from < watchdog_.rank_) {  // one sentence is enough
      silent_until_ = waited_ + kSilentSeconds;
      asked_at_ = -1;
    }
  }
  watchdog_.forget_sent();
}

void MpiWatchdog::Wait::ask() {
  asked_at_ = waited_;
  watchdog_.answers_.assign(static_cast<std::size_t>(watchdog_.size_), {});
  ++watchdog_.question_;
  for (int to = 0; to < watchdog_.size_; ++to)
    if (to != watchdog_.rank_)
      watchdog_.send(to, {.question = true,
                          .question_number = watchdog_.question_,
                          .call = {},
                          .number = 0,
                          .group = 0});
}

void MpiWatchdog::Wait::judge() {
  throw CollectiveTimeout(watchdog_.verdict(call_));
}

std::string MpiWatchdog::name_of(int rank) const {
  return fmt::format("rank {} on {}", rank, hosts_[rank]);
}

std::string MpiWatchdog::verdict(const StartedCall& call) const {
  const auto silent = [&](int rank) { return rank != rank_ && !answers_[rank]; };
  std::vector<int> missing, waiting;
  for (const int rank : call.members) (silent(rank) ? missing : waiting).push_back(rank);
  const std::string what = fmt::format("collective number {}, {}", call.number, call.call.text());
  const auto s = [](const std::vector<int>& ranks) { return ranks.size() > 1 ? "s" : ""; };
  if (!missing.empty()) {
    constexpr std::size_t kMost = 8;
    std::string names = name_of(missing[0]);
    for (std::size_t i = 1; i < std::min(missing.size(), kMost); ++i)
      names += ", " + name_of(missing[i]);
    if (missing.size() > kMost) names += fmt::format(" and {} more", missing.size() - kMost);
    const bool many = missing.size() > 1;
    return fmt::format(
        "{} {} not arrived at {}, after {} s: {} or computes for longer than "
        "--collective-timeout allows; rank{} {} wait{}",
        names, many ? "have" : "has", what, timeout_,
        many ? "each hangs, is stopped" : "it hangs, is stopped", s(waiting), rank_list(waiting),
        waiting.size() > 1 ? "" : "s");
  }
  // All members wait, but some for something else, perhaps for a rank outside.
  std::string elsewhere;
  for (const int rank : call.members) {
    if (rank == rank_) continue;
    const Notice& notice = *answers_[rank];
    if (notice.group == call.group && notice.number == call.number && notice.call == call.call)
      continue;
    elsewhere +=
        fmt::format(", rank {} for number {}, {}{}", rank, notice.number, notice.call.text(),
                    notice.group == call.group ? "" : ", of another group");
  }
  std::vector<int> outside;
  for (int rank = 0; rank < size_; ++rank)
    if (silent(rank)) outside.push_back(rank);
  if (!outside.empty())
    return fmt::format(
        "{} does not answer after {} s: it hangs, is stopped or computes for longer than "
        "--collective-timeout allows; {} waits for {}{}",
        name_of(outside[0]), timeout_, name_of(rank_), what, elsewhere);
  if (!elsewhere.empty())
    return fmt::format(
        "the ranks wait for each other at different collectives after {} s: {} for {}{}: run "
        "again with --check-collectives",
        timeout_, name_of(rank_), what, elsewhere);
  return fmt::format(
      "all ranks have arrived at {}, but it is not complete after {} s: the network between {} "
      "does not move the data",
      what, timeout_, rank_list(call.members));
}

}  // namespace t2r

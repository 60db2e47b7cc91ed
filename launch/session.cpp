#include "launch/session.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/train/machine.h"

namespace t2r {
namespace {

int rank_in_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

}  // namespace

CLI::Option* add_rank_options(CLI::App& app, RankOptions& options) {
  return app.add_option("--collective-timeout", options.collective_timeout,
                        "Seconds that ranks wait for one that does not arrive, before they name it "
                        "and end the job (0: for ever)");
}

Session::Session() : launch_(detect_launch([](const char* name) { return std::getenv(name); })) {
  if (!launch_.launcher.empty()) rank_ = rank_in_environment();
  log_rank(rank_, launch_.size);
}

void Session::set_ranks(const RankOptions& options) {
  check_usage(std::isfinite(options.collective_timeout) && options.collective_timeout >= 0,
              "--collective-timeout is {}: give seconds, or 0 to wait for ever",
              options.collective_timeout);
  ranks_ = options;
}

Comm& Session::world(bool checked) {
  if (!world_) {
    world_ = make_world_comm(checked, ranks_.collective_timeout);
    rank_ = world_->rank();
    log_rank(rank_, world_->size());
  }
  return *world_;
}

Mesh Session::mesh(int tp, int cp) {
  Comm& ranks = world();
  const std::int64_t group = std::int64_t{std::max(1, tp)} * std::max(1, cp);
  return make_mesh(ranks, static_cast<int>(std::max<std::int64_t>(1, ranks.size() / group)), tp,
                   cp);
}

void Session::require_single(const std::string& command) const {
  check_usage(launch_.size == 1,
              "{} is one process, but {} started {}: start it without a launcher", command,
              launch_.launcher, launch_.size == 0 ? "several" : std::to_string(launch_.size));
}

int Session::set_threads(int threads) {
  check_usage(threads >= 0, "--threads is {}: give at least 1, or 0 for this rank's share",
              threads);
  place_ = rank_place(world());
  const int used = threads ? threads : default_threads(place_);
  omp_set_num_threads(used);
  return used;
}

int Session::fail(const std::string& sentence, int status) {
  // No rank can reach another, each finds that out: one sentence for all.
  if (rank_ != 0 && !launch_.process_management) return status;
  // An error that all ranks have is printed by rank 0 alone: it ends the others while they wait.
  if (rank_ != 0) std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  const bool several = world_ ? world_->size() > 1 : rank_ != 0;
  const std::string who = several ? fmt::format("rank {} on {}: ", rank_, host_name()) : "";
  return fail_job(who + sentence, status);
}

int Session::fail_job(const std::string& sentence, int status) {
  std::fputs(fmt::format("t2r: {}\n", sentence).c_str(), stderr);
  std::fflush(nullptr);
  if (world_ && world_->size() > 1) world_->abort(status);
  return status;
}

}  // namespace t2r

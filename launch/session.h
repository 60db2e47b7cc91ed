// What a command runs in: its ranks, the threads of each, and how all of them end.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "dist/comm.h"
#include "dist/launcher.h"
#include "dist/mesh.h"

namespace t2r {

/// How long ranks wait for each other; an option of every command of several ranks.
struct RankOptions {
  double collective_timeout = 600;
};

CLI::Option* add_rank_options(CLI::App& app, RankOptions& options);

class Session {
 public:
  Session();

  /// Before the first call of world().
  void set_ranks(const RankOptions& options);
  /// The ranks of this job, joined at the first call. `checked`: every collective is compared
  /// between ranks before it is made.
  Comm& world(bool checked = false);
  /// The ranks as replicas of a model that `tp` neighbours hold together, of which `cp` work on one
  /// sequence. Collective.
  Mesh mesh(int tp, int cp = 1);
  /// For commands of one process: a usage error when a launcher started several.
  void require_single(const std::string& command) const;
  /// Sets the OpenMP threads of this process to `threads`, or where that is 0 to its share of the
  /// machine. Joins the world. Returns how many there are now.
  int set_threads(int threads);
  /// Where this rank runs; after set_threads().
  const RankPlace& place() const { return place_; }
  /// Prints the sentence of a failure, and ends all ranks when there are several. Returns `status`.
  int fail(const std::string& sentence, int status);
  /// As fail(), for a sentence that this rank says for all ranks.
  int fail_job(const std::string& sentence, int status);

 private:
  Launch launch_;
  int rank_ = 0;  // as the launcher says, before world()
  RankPlace place_;
  RankOptions ranks_{.collective_timeout = 0};
  std::unique_ptr<Comm> world_;
};

}  // namespace t2r

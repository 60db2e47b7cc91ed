// Saves checkpoints: every rank writes its part, at once with the others, while training goes on.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/base/arena.h"
#include "core/train/checkpoint.h"
#include "core/train/checkpoint_pieces.h"
#include "core/train/optimizer.h"
#include "dist/mesh.h"

namespace t2r {

/// Work on a thread of its own, or at once on the caller's. What it throws is kept as a sentence.
class WriteJob {
 public:
  ~WriteJob() { wait(); }
  void start(std::function<void()> work, bool on_thread);
  bool done() const { return done_; }
  void wait();
  /// Why it failed; empty: it did not. After done().
  const std::string& failure() const { return failure_; }

 private:
  std::thread thread_;
  std::atomic<bool> done_{true};
  std::string failure_;
};

/// Writes this rank's pieces as the file `path`, hash, write and the way to the disk overlapped;
/// synced when it returns. Ends early, with an exception, once `cancelled`.
PartFile write_part(const std::string& path, std::vector<Piece> pieces,
                    const std::atomic<bool>& cancelled);

/// A save has two phases: all ranks write their parts, then, once all have agreed that theirs is on
/// the disk, the leader (rank 0 of the world) publishes the folder. Asynchronous: save() returns at
/// once; a thread copies what is saved to a buffer, while the next forward and backward passes
/// leave it as it is, then writes; poll() is called after each update to move on. That thread makes
/// no calls on communicators.
class CheckpointWriter {
 public:
  /// The run's folder has to lie on a file system that all ranks share. `owned` stays where it is.
  /// Asynchronous: makes a buffer as long as what this rank writes, once. Collective.
  CheckpointWriter(std::string run_folder, const Mesh& mesh, const ParamStore& params,
                   std::span<const OwnedRange> owned, std::int64_t keep, bool asynchronous);
  /// One rank alone finishes what is pending; several cannot without one another, and leave a
  /// partial folder that the next save removes, unless the leader is already publishing.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Saves state.step after whatever is pending. Throws one sentence, on every rank, when that or,
  /// not asynchronous, this fails (a full disk): nothing partial is left, older checkpoints stay.
  /// Collective.
  void save(const TrainState& state);
  /// To be called before what was saved changes: waits until it has been copied.
  void await_snapshot();
  /// Moves on what is pending, without waiting; a failure is thrown on every rank. Costs nothing
  /// when nothing is pending, else a collective over 8 bytes. Collective.
  void poll();
  /// Waits for what is pending. Collective.
  void finish();

  bool pending() const { return phase_ != Phase::idle; }
  /// Bytes that this rank writes a checkpoint, without the header.
  std::int64_t bytes() const;
  /// Seconds that training stood still for checkpoints.
  double stall_seconds() const { return stall_seconds_; }

 private:
  enum class Phase : std::uint8_t { idle, parts, publishing };

  void advance(bool wait);
  void write_mine();
  void publish();
  void copy_pieces();
  void take_snapshot();
  [[noreturn]] void fail_on_all(int rank, const std::string& reason);

  std::string run_folder_;
  const Mesh& mesh_;
  std::int64_t keep_;
  bool asynchronous_;
  std::vector<Piece> live_, pieces_;  // in the optimizer's memory, and where they are written from
  Arena snapshot_{0};
  TrainState state_;  // that is being saved
  Phase phase_ = Phase::idle;
  PartFile mine_;
  std::vector<PartFile> parts_;  // of all ranks; leader
  std::atomic<bool> snapshot_taken_{true}, cancelled_{false};
  double stall_seconds_ = 0;
  WriteJob job_;  // last: it is over before the rest goes
};

}  // namespace t2r

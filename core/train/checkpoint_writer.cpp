#include "core/train/checkpoint_writer.h"

#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/base/log.h"
#include "core/train/checkpoint_files.h"
#include "data/atomic_file.h"
#include "data/safetensors.h"

namespace t2r {
namespace {

/// Adds the time until it ends to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum) {}
  ~Stopwatch() { sum_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& sum_;
  Clock::time_point start_ = Clock::now();
};

std::string header_of(const std::vector<Piece>& pieces) {
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata{{"format", "t2r-checkpoint-part"}};
  for (const Piece& piece : pieces) {
    const std::string name =
        fmt::format("{}/{}/{}", name_of(piece.array), piece.name, entries.size());
    entries.push_back({name, piece.dtype, {piece.stretch.size()}, nullptr});
    metadata[name] = piece_text(piece);
  }
  return safetensors_header(entries, metadata);
}

}  // namespace

void WriteJob::start(std::function<void()> work, bool on_thread) {
  wait();
  failure_.clear();
  done_ = false;
  auto run = [this, work = std::move(work)] {
    try {
      work();
    } catch (const std::exception& error) {
      failure_ = error.what();
    }
    done_ = true;
  };
  if (on_thread)
    thread_ = std::thread(std::move(run));
  else
    run();
}

void WriteJob::wait() {
  if (thread_.joinable()) thread_.join();
}

PartFile write_part(const std::string& path, std::vector<Piece> pieces,
                    const std::atomic<bool>& cancelled) {
  for (Piece& piece : pieces) piece.xxh3 = std::string(16, '0');
  const auto header_bytes = static_cast<std::int64_t>(header_of(pieces).size());
  std::int64_t bytes = header_bytes;
  for (const Piece& piece : pieces) bytes += piece.bytes();
  write_point("part");
  PlacedFile file(path, bytes);
  std::int64_t place = header_bytes;
  for (Piece& piece : pieces) {
    check(!cancelled, "given up");
    write_point("piece");
    const std::span<const std::byte> data(piece.data, static_cast<std::size_t>(piece.bytes()));
    file.write(place, data);
    piece.xxh3 = xxh3_text(data);
    place += piece.bytes();
  }
  // The hashes are known now; they are as long as the zeros were.
  write_point("header");
  const std::string header = header_of(pieces);
  file.write(0, std::as_bytes(std::span(header)));
  write_point("sync");
  file.finish();
  return {bytes, xxh3_of(std::as_bytes(std::span(header)))};
}

CheckpointWriter::CheckpointWriter(std::string run_folder, const Mesh& mesh,
                                   const ParamStore& params, std::span<const OwnedRange> owned,
                                   std::int64_t keep, bool asynchronous)
    : run_folder_(std::move(run_folder)),
      mesh_(mesh),
      keep_(keep),
      asynchronous_(asynchronous),
      live_(pieces_to_write(*mesh.replicas, mesh.tp->rank() == 0, params, owned)),
      pieces_(live_) {
  if (!asynchronous) return;
  snapshot_ = Arena(bytes() + 64 * std::ssize(pieces_));
  for (Piece& piece : pieces_) piece.data = snapshot_.allocate_array<std::byte>(piece.bytes());
  copy_pieces();  // a first touch of memory takes far longer than the copies to come
}

CheckpointWriter::~CheckpointWriter() {
  if (phase_ == Phase::idle) return;
  if (mesh_.world.size() > 1) {
    cancelled_ = phase_ == Phase::parts;
    return;  // the job is waited for as it goes
  }
  try {
    finish();
  } catch (const std::exception& error) {
    warn("{}", error.what());
  }
}

std::int64_t CheckpointWriter::bytes() const {
  std::int64_t sum = 0;
  for (const Piece& piece : pieces_) sum += piece.bytes();
  return sum;
}

void CheckpointWriter::copy_pieces() {
  for (std::size_t i = 0; i < pieces_.size(); ++i)
    std::memcpy(pieces_[i].data, live_[i].data, static_cast<std::size_t>(live_[i].bytes()));
}

void CheckpointWriter::save(const TrainState& state) {
  const Stopwatch stopwatch(stall_seconds_);
  advance(true);
  state_ = state;
  WriteJob prepare;
  if (mesh_.world.rank() == 0)
    prepare.start([&] { start_checkpoint(run_folder_, state_.step); }, false);
  if (!prepare.failure().empty()) discard_partial(run_folder_);
  const bool failed =
      mesh_.world.all_reduce_value(prepare.failure().empty() ? 0.0 : 1.0, ReduceOp::max) > 0;
  if (failed) fail_on_all(0, prepare.failure());
  phase_ = Phase::parts;
  snapshot_taken_ = !asynchronous_;
  job_.start([this] { write_mine(); }, asynchronous_);
  if (!asynchronous_) advance(true);
}

void CheckpointWriter::await_snapshot() {
  if (snapshot_taken_) return;
  const Stopwatch stopwatch(stall_seconds_);
  snapshot_taken_.wait(false);
}

void CheckpointWriter::take_snapshot() {
  const auto taken = [this] {
    snapshot_taken_ = true;
    snapshot_taken_.notify_all();
  };
  try {
    write_point("snapshot");
    copy_pieces();
  } catch (...) {
    taken();
    throw;
  }
  taken();
}

void CheckpointWriter::write_mine() {
  if (asynchronous_) take_snapshot();
  const std::string folder = partial_folder(run_folder_, state_.step);
  check(std::filesystem::exists(folder),
        "rank {} does not see the folder {} that rank 0 made: --out has to lie on a file system "
        "that all ranks share",
        mesh_.world.rank(), folder);
  mine_ = write_part(folder + "/" + part_name(mesh_.world.rank(), mesh_.world.size()), pieces_,
                     cancelled_);
}

void CheckpointWriter::poll() {
  if (phase_ == Phase::idle) return;
  const Stopwatch stopwatch(stall_seconds_);
  advance(false);
}

void CheckpointWriter::finish() {
  if (phase_ == Phase::idle) return;
  const Stopwatch stopwatch(stall_seconds_);
  advance(true);
}

void CheckpointWriter::advance(bool wait) {
  Comm& world = mesh_.world;
  while (phase_ != Phase::idle) {
    if (wait) job_.wait();
    if (world.all_reduce_value(job_.done() ? 1.0 : 0.0, ReduceOp::min) == 0) return;
    job_.wait();
    const bool failed = !job_.failure().empty();
    const auto rank =
        world.all_reduce_value(std::int64_t{failed ? world.rank() : world.size()}, ReduceOp::min);
    if (rank < world.size()) {
      phase_ = Phase::idle;
      if (world.rank() == 0) discard_partial(run_folder_);
      fail_on_all(static_cast<int>(rank), job_.failure());
    }
    if (phase_ == Phase::publishing) {
      phase_ = Phase::idle;
      return;
    }
    publish();
    if (!wait) return;
  }
}

void CheckpointWriter::publish() {
  // Moved as 8-byte elements, never read as numbers.
  static_assert(sizeof(PartFile) == 2 * sizeof(double));
  parts_.resize(static_cast<std::size_t>(mesh_.world.size()));
  mesh_.world.all_gather(Tensor(&mine_, {2}, DType::f64),
                         Tensor(parts_.data(), {2 * mesh_.world.size()}, DType::f64), Queue{});
  phase_ = Phase::publishing;
  if (mesh_.world.rank() != 0) return;  // nothing to do: its job is done
  job_.start([this] { publish_checkpoint(run_folder_, state_, parts_, keep_); }, asynchronous_);
}

void CheckpointWriter::fail_on_all(int rank, const std::string& reason) {
  fail(
      "cannot save the checkpoint of step {}: {}; earlier checkpoints are kept, and the same "
      "command resumes from the newest",
      state_.step, mesh_.world.broadcast_text(reason, rank));
}

}  // namespace t2r

// One hash a rank travels, not the values.
#include "dist/replica_check.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <sstream>
#include <vector>

#include "dist/collective_call.h"

namespace t2r {

std::uint64_t hash_of(const Tensor& values) {
  if (values.contiguous())
    return XXH3_64bits(values.data, static_cast<std::size_t>(values.bytes()));
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  check(state != nullptr && XXH3_64bits_reset(state.get()) == XXH_OK, "no memory for a checksum");
  const std::int64_t width = size_of(values.dtype);
  for (std::int64_t row = 0; row < values.rows(); ++row)
    XXH3_64bits_update(state.get(),
                       static_cast<const char*>(values.data) + row * values.row_stride * width,
                       static_cast<std::size_t>(values.columns_count() * width));
  return XXH3_64bits_digest(state.get());
}

namespace {

/// Moved as 8-byte elements, never read as numbers.
std::vector<std::uint64_t> gather_hashes(Comm& comm, std::uint64_t mine) {
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(comm.size()));
  comm.all_gather(Tensor(&mine, {1}, DType::f64), Tensor(hashes.data(), {comm.size()}, DType::f64),
                  Queue{});
  return hashes;
}

}  // namespace

void check_replicas_equal(Comm& comm, Tensor values, const std::string& what) {
  const std::vector<std::uint64_t> hashes = gather_hashes(comm, hash_of(values));
  std::uint64_t common = hashes[0];
  std::ptrdiff_t most = 0;
  for (const std::uint64_t hash : hashes) {
    const std::ptrdiff_t n = std::count(hashes.begin(), hashes.end(), hash);
    if (n > most) {
      most = n;
      common = hash;
    }
  }
  if (most == comm.size()) return;
  std::vector<int> agreeing, others;
  for (int r = 0; r < comm.size(); ++r) (hashes[r] == common ? agreeing : others).push_back(r);
  const bool many = others.size() > 1;
  fail(
      "{}: rank{} {} hold{} other values than rank{} {} (XXH3 {:016x} on rank {}, {:016x} on rank "
      "{}); the replicas have drifted apart: go back to the last checkpoint",
      what, many ? "s" : "", rank_list(others), many ? "" : "s", most > 1 ? "s" : "",
      rank_list(agreeing), hashes[others[0]], others[0], common, agreeing[0]);
}

void check_same_text(Comm& comm, const std::string& text, const std::string& what) {
  const std::vector<std::uint64_t> hashes =
      gather_hashes(comm, XXH3_64bits(text.data(), text.size()));
  const auto other = std::find_if(hashes.begin(), hashes.end(),
                                  [&](std::uint64_t hash) { return hash != hashes[0]; });
  if (other == hashes.end()) return;
  const int rank = static_cast<int>(other - hashes.begin());
  std::istringstream first(comm.broadcast_text(text, 0)), second(comm.broadcast_text(text, rank));
  std::string of_first, of_second;
  do {
    if (!std::getline(first, of_first)) of_first = "nothing";
    if (!std::getline(second, of_second)) of_second = "nothing";
  } while (of_first == of_second && first && second);
  fail_usage(
      "the ranks disagree on {}: rank {} has {}, rank 0 has {}; start all ranks with the same",
      what, rank, of_second, of_first);
}

}  // namespace t2r

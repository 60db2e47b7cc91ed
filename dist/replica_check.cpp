// One hash a rank travels, not the values.
#include "dist/replica_check.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
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

void check_replicas_equal(Comm& comm, Tensor values, const std::string& what) {
  std::uint64_t mine = hash_of(values);
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(comm.size()));
  // Moved as 8-byte elements, never read as numbers.
  comm.all_gather(Tensor(&mine, {1}, DType::f64), Tensor(hashes.data(), {comm.size()}, DType::f64),
                  Queue{});
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

}  // namespace t2r

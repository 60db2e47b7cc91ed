// Finds replicas that have silently drifted apart: a broken rank, a missed reduction, bad memory.
// And ranks that were started with different options or files.
#pragma once

#include <cstdint>
#include <string>

#include "dist/comm.h"

namespace t2r {

/// XXH3 (64 bits) of the elements' bytes; rows may be strided.
std::uint64_t hash_of(const Tensor& values);

/// Throws, on every rank, unless `values` holds the same bits on all ranks of `comm`; the sentence
/// begins with `what` and names the ranks that differ from most others. Collective; costs one pass
/// over the memory and 8 bytes a rank.
void check_replicas_equal(Comm& comm, Tensor values, const std::string& what);

/// Throws a usage error, on every rank, unless `text` is the same on all ranks of `comm`; the
/// sentence says which line of `what` the first rank that differs has, and which rank 0 has.
/// Collective; costs 8 bytes a rank where all agree.
void check_same_text(Comm& comm, const std::string& text, const std::string& what);

}  // namespace t2r

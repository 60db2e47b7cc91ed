// Whether a machine's ranks train what one rank trains: tiny models on every mesh.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dist/comm.h"

namespace t2r {

struct Equivalence {
  std::string model;  // its attention in words
  int dp = 1, cp = 1, tp = 1;
  double loss = 0;        // largest difference of an update's loss from one rank's
  double parameters = 0;  // largest difference of a parameter at the end, over max(1, its size)
};

/// Trains tiny language models (softmax, T2R, T2R with decay, ELU, RFA) and a translation model for
/// `steps` updates in fp64, with every dropout, label smoothing, an odd vocabulary and documents of
/// unlike length, on every mesh of the ranks of `world`, and compares with one rank. A world of one
/// rank is tried with four ranks as threads. The translation model is not tried with cp.
/// Collective; the same on every rank.
std::vector<Equivalence> measure_equivalence(Comm& world, std::int64_t steps);

}  // namespace t2r

// Work that one rank does for all: its failure becomes every rank's.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "dist/comm.h"

namespace t2r {

/// Runs `work` on rank 0; what it throws is thrown on every rank, so that none waits for the
/// others. Collective.
template <class F>
void on_leader(Comm& comm, F&& work) {
  std::string sentence;
  ExitStatus status = kExitFailure;
  if (comm.rank() == 0) {
    try {
      std::forward<F>(work)();
    } catch (const Error& error) {
      sentence = error.what();
      status = error.status();
    } catch (const std::exception& error) {
      sentence = error.what();
    }
    if (!sentence.empty()) sentence = (status == kExitUsage ? "u" : "f") + sentence;
  }
  sentence = comm.broadcast_text(sentence, 0);
  if (sentence.empty()) return;
  throw Error(sentence.substr(1), sentence[0] == 'u' ? kExitUsage : kExitFailure);
}

}  // namespace t2r

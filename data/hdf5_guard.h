// HDF5's C library in a form that is safe here: one thread at a time, no messages of its own on the
// terminal, and identifiers that close themselves.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <utility>

namespace t2r {

/// Held around every use of HDF5: Debian's serial build may be entered by one thread only.
class Hdf5Guard {
 public:
  Hdf5Guard() : lock_(mutex()) {
    // A file that could not be closed (full disk) makes HDF5's clean-up at exit crash. Nothing
    // relies on that clean-up, so it is switched off; this must be the first call into HDF5.
    static const herr_t no_clean_up = H5dont_atexit();
    static_cast<void>(no_clean_up);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  std::lock_guard<std::mutex> lock_;
};

/// An HDF5 identifier with its closing function.
class Hdf5Id {
 public:
  Hdf5Id(hid_t id, herr_t (*closer)(hid_t)) : id_(id), closer_(closer) {}
  ~Hdf5Id() { close(); }
  Hdf5Id(const Hdf5Id&) = delete;
  Hdf5Id& operator=(const Hdf5Id&) = delete;

  operator hid_t() const { return id_; }  // NOLINT(google-explicit-constructor): as in C
  /// Negative when it fails, as HDF5 has it.
  herr_t close() { return id_ >= 0 ? closer_(std::exchange(id_, -1)) : 0; }

 private:
  hid_t id_;
  herr_t (*closer_)(hid_t);
};

}  // namespace t2r

#include "data/logits_file.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/hdf5_guard.h"

namespace t2r {
namespace {

constexpr const char* kHint = "check the folder and the space left on the disk";

}  // namespace

LogitsFile::LogitsFile(std::string path)
    : path_(std::move(path)), temporary_(fmt::format("{}.tmp-{}", path_, getpid())) {
  const Hdf5Guard guard;
  file_ = H5Fcreate(temporary_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  check(file_ >= 0, "cannot create {}: {}", temporary_, kHint);
  group_ = H5Gcreate2(file_, "logits", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  check(group_ >= 0, "cannot write {}: {}", temporary_, kHint);
}

LogitsFile::~LogitsFile() {
  if (file_ < 0) return;
  const Hdf5Guard guard;
  H5Gclose(group_);
  H5Fclose(file_);
  unlink(temporary_.c_str());
}

void LogitsFile::write(std::int64_t sequence, const Tensor& logits) {
  check(logits.shape.rank() == 2 && logits.contiguous(),
        "logits of the shape {}: (rows, "
        "vocabulary) is needed",
        logits.shape.text());
  std::vector<float> narrowed;
  const void* data = logits.data;
  if (logits.dtype == DType::f64) {
    const double* values = logits.as<double>();
    narrowed.assign(values, values + logits.size());
    data = narrowed.data();
  } else {
    check(logits.dtype == DType::f32, "logits in {}: fp32 or fp64 is needed",
          name_of(logits.dtype));
  }
  const Hdf5Guard guard;
  const hsize_t dims[] = {static_cast<hsize_t>(logits.shape[0]),
                          static_cast<hsize_t>(logits.shape[1])};
  const Hdf5Id space(H5Screate_simple(2, dims, nullptr), H5Sclose);
  Hdf5Id set(H5Dcreate2(group_, std::to_string(sequence).c_str(), H5T_IEEE_F32LE, space,
                        H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
             H5Dclose);
  check(set >= 0 && H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0 &&
            set.close() >= 0,
        "cannot write the logits of sequence {} to {}: {}", sequence, temporary_, kHint);
}

void LogitsFile::commit() {
  check(file_ >= 0, "{} was committed twice", path_);
  {
    const Hdf5Guard guard;
    const bool closed = H5Gclose(group_) >= 0 && H5Fclose(file_) >= 0;
    file_ = -1;
    if (!closed) unlink(temporary_.c_str());
    check(closed, "cannot write {}: {}", temporary_, kHint);
  }
  publish_file(temporary_, path_);
}

}  // namespace t2r

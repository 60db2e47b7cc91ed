#include "core/train/average.h"

#include "core/train/checkpoint_reader.h"
#include "core/train/model_folder.h"

namespace t2r {

std::vector<std::int64_t> newest_checkpoints(const std::string& run_folder, std::int64_t last) {
  check_usage(last >= 1, "the mean of {} checkpoints: there must be at least 1", last);
  std::vector<std::int64_t> steps = list_checkpoints(run_folder);
  check_usage(
      std::ssize(steps) >= last,
      "{} has {} checkpoints, not {}: train with --keep {} and --checkpoint-every, or average "
      "fewer",
      run_folder, steps.size(), last, last);
  steps.erase(steps.begin(), steps.end() - last);
  return steps;
}

std::unique_ptr<Transformer> average_checkpoints(const std::string& run_folder,
                                                 const std::vector<std::int64_t>& steps,
                                                 DType dtype) {
  auto model = load_model(run_folder + "/model", dtype, TrainedPart::nothing);
  ParamStore& params = model->params();
  std::vector<double> sums(static_cast<std::size_t>(params.span_size()));
  for (const std::int64_t step : steps)
    add_checkpoint_values(checkpoint_folder(run_folder, step), fingerprint(model->config()), params,
                          sums);
  for (int p = 0; p < params.count(); ++p) {
    const Tensor value = params.value(ParamId{p});
    const double* sum = sums.data() + params.offset(ParamId{p});
    dispatch(dtype, [&]<class T>() {
      T* out = value.as<T>();
      for (std::int64_t i = 0; i < value.size(); ++i)
        out[i] = static_cast<T>(
            static_cast<accumulate_t<T>>(sum[i] / static_cast<double>(steps.size())));
    });
  }
  params.touch();
  return model;
}

}  // namespace t2r

// Data-parallel training on real MPI ranks against one rank alone, in fp64; and a run that is
// stopped by a signal to one rank, then resumed. Run under mpirun. MPI is up: nothing here may
// fork.
#include <signal.h>

#include <filesystem>

#include "core/base/log.h"
#include "dist/launcher.h"
#include "dist/self_comm.h"
#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

void check_same(const Outcome& got, const Outcome& expected, double limit, const char* what) {
  check(got.steps.size() == expected.steps.size(), "{}: {} updates, expected {}", what,
        got.steps.size(), expected.steps.size());
  const auto near = [&](double a, double b, const char* name, std::int64_t step) {
    check(std::abs(a - b) <= limit, "{}, update {}: {} is {:.17g}, expected {:.17g}", what, step,
          name, a, b);
  };
  for (std::size_t i = 0; i < got.steps.size(); ++i) {
    const StepFigures &a = got.steps[i], &b = expected.steps[i];
    check(a.tokens == b.tokens, "{}: {} tokens, expected {}", what, a.tokens, b.tokens);
    near(a.loss, b.loss, "the loss", a.step);
    near(a.objective, b.objective, "the objective", a.step);
    near(a.grad_norm, b.grad_norm, "the gradient norm", a.step);
  }
  const double difference = largest_difference(got.values, expected.values);
  check(difference <= limit, "{}: parameters differ by {}", what, difference);
}

void equivalence(Comm& world) {
  for (std::int64_t bucket : {std::int64_t{1}, std::int64_t{1} << 30})
    for (std::int64_t micro_batch : {1, 3}) {
      TrainOptions options = tiny_options(5);
      options.bucket_bytes = bucket;
      options.micro_batch = micro_batch;
      options.optimizer_sharding = micro_batch == 3;
      const Outcome got = train(world, tiny_config(), DType::f64, options);
      if (world.rank() == 0) {
        SelfComm alone;
        check_same(got, train(alone, tiny_config(), DType::f64, tiny_options(5)), 1e-10,
                   "against one rank");
      }
      check_same(train(world, tiny_config(), DType::f64, options), got, 0, "the same run again");
    }
  const Outcome pairs =
      train(world, tiny_translation_config(), DType::f64, tiny_options(5), {}, ragged_pair_data());
  if (world.rank() != 0) return;
  SelfComm alone;
  check_same(
      pairs,
      train(alone, tiny_translation_config(), DType::f64, tiny_options(5), {}, ragged_pair_data()),
      1e-10, "sentence pairs against one rank");
}

void stop_and_resume(Comm& world) {
  const std::string folder = world.broadcast_text(
      (std::filesystem::temp_directory_path() / fmt::format("t2r-train-ranks-{}", getpid()))
          .string(),
      0);
  const Outcome whole = train(world, tiny_config(), DType::f32, tiny_options(6));
  TrainOptions options = tiny_options(6);
  options.run_folder = folder;
  Outcome parts;
  {
    // The helper's callback is rank 0's; the signal goes to the last rank.
    Mesh mesh = make_mesh(world, world.size(), 1);
    Transformer model(tiny_config(), DType::f32, TrainedPart::all);
    model.params().initialize(5);
    Trainer trainer(model, mesh, ragged_data(), options);
    trainer.on_step = [&](const StepFigures& figures) {
      parts.steps.push_back(figures);
      if (figures.step == 2 && world.rank() + 1 == world.size()) raise(SIGUSR1);
    };
    check(trainer.run().stopped && trainer.state().step == 3, "not stopped after update 3 but {}",
          trainer.state().step);
  }
  const Outcome rest = train(world, tiny_config(), DType::f32, options);
  parts.steps.insert(parts.steps.end(), rest.steps.begin(), rest.steps.end());
  parts.values = rest.values;
  check_same(parts, whole, 0, "stopped and resumed");
  world.barrier();
  if (world.rank() == 0) std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace t2r::testing

int main() {
  using namespace t2r;
  try {
    const auto world = make_world_comm(false);
    log_rank(world->rank(), world->size());
    try {
      t2r::testing::equivalence(*world);
      t2r::testing::stop_and_resume(*world);
    } catch (const Error& error) {
      warn("{}", error.what());
      world->abort(error.status());
    }
    info("passed: training on {} ranks of {}", world->size(), world->kind());
  } catch (const Error& error) {
    warn("{}", error.what());
    return error.status();
  }
  return 0;
}

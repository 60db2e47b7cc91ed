// t2r COMMAND [options]: finds the command, parses its options, runs it; the only place that
// catches errors.
#include <fmt/format.h>

#include <array>
#include <new>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "launch/version.h"

namespace t2r {
namespace {

struct Command {
  const char* name;
  const char* summary;
  Run (*add)(CLI::App&);
};

constexpr std::array<Command, 11> kCommands{{
    {"prepare", "Make a dataset of text or sentence pairs: tokenizer and sharded HDF5",
     add_prepare},
    {"train", "Pretrain or finetune a model; alone, under mpirun or under srun", add_train},
    {"import", "A model of another program as a model folder", add_import},
    {"convert", "Swap a model's softmax attention for linear recurrent attention", add_convert},
    {"evaluate", "Loss and perplexity of a model, or scores of translations", add_evaluate},
    {"generate", "Continue prompts with a model", add_generate},
    {"translate", "Translate sentences with an encoder-decoder model", add_translate},
    {"average", "The mean of a run's last checkpoints as a model", add_average},
    {"export", "A model as a folder for Hugging Face's transformers", add_export},
    {"report", "Quality and cost of several runs side by side", add_report},
    {"doctor", "Check ranks, processors, libraries and disk of this machine", add_doctor},
}};

void print_help() {
  fmt::print(
      "t2r finetunes pretrained transformers into recurrent networks.\n\n"
      "Usage: t2r COMMAND [options]\n\nCommands:\n");
  for (const Command& command : kCommands)
    fmt::print("  {:<10}{}\n", command.name, command.summary);
  fmt::print(
      "\n  t2r COMMAND --help  lists the options of a command\n"
      "  t2r --version       prints the version\n\n"
      "Exit status: 0 done, 1 failure, 2 wrong usage or configuration, 75 saved and stopped "
      "on request.\n");
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (name == command.name) return command;
    names.emplace_back(command.name);
  }
  const std::string near = nearest_name(name, names);
  fail_usage("unknown command '{}': {}", name,
             near.empty() ? std::string("'t2r --help' lists them all")
                          : fmt::format("did you mean {}?", near));
}

int run_command(Session& session, const std::vector<std::string>& arguments) {
  if (arguments.empty()) fail_usage("no command given: 't2r --help' lists them all");
  if (arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    print_help();
    return kExitDone;
  }
  if (arguments[0] == "--version") {
    fmt::print("t2r {}\n", version());
    return kExitDone;
  }
  const Command& command = find_command(arguments[0]);
  CLI::App app(command.summary, fmt::format("t2r {}", command.name));
  prepare_options(app);
  const Run run = command.add(app);
  if (!parse_options(app, {arguments.begin() + 1, arguments.end()})) return kExitDone;
  return run(session);
}

}  // namespace
}  // namespace t2r

int main(int argc, char** argv) {
  t2r::Session session;
  try {
    return t2r::run_command(session, {argv + 1, argv + argc});
  } catch (const t2r::CollectiveTimeout& error) {
    return session.fail_job(error.what(), error.status());
  } catch (const t2r::Error& error) {
    return session.fail(error.what(), error.status());
  } catch (const std::bad_alloc&) {
    return session.fail("out of memory: use smaller batches, a smaller model or more ranks",
                        t2r::kExitFailure);
  } catch (const std::exception& error) {
    return session.fail(error.what(), t2r::kExitFailure);
  }
}

// t2r report: quality and cost of several runs side by side; measures their decoding speed.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/base/log.h"
#include "core/train/decoding_speed.h"
#include "core/train/model_folder.h"
#include "data/atomic_file.h"
#include "launch/commands.h"
#include "launch/report_data.h"

namespace t2r {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out, baseline, precision = "fp32";
  std::vector<std::int64_t> lengths;
  std::int64_t batch = 1;
  double seconds = 0.5;
  int threads = 0;
  bool json = false;
};

/// Two runs of one name (of different folders) are told apart by their folders.
void make_names_unique(std::vector<ReportRun>& runs) {
  std::set<std::string> names, repeated;
  for (const ReportRun& run : runs)
    if (!names.insert(run.name).second) repeated.insert(run.name);
  names.clear();
  for (ReportRun& run : runs) {
    if (repeated.contains(run.name)) run.name = run.folder;
    check_usage(names.insert(run.name).second, "the run {} is given twice", run.folder);
  }
}

void measure(const Options& options, Report& report) {
  report.decoding_batch = options.batch;
  for (const ReportRun& run : report.runs) {
    info("measuring the decoding speed of {}", run.name);
    const auto model =
        load_model(run.folder + "/model", parse_dtype(options.precision), TrainedPart::nothing);
    for (const DecodingSpeed& speed :
         measure_decoding(*model, options.batch, options.lengths, options.seconds))
      report.decoding.push_back({.name = run.name,
                                 .length = speed.length,
                                 .tokens_per_second = speed.tokens_per_second,
                                 .state_bytes = static_cast<double>(speed.state_bytes) /
                                                static_cast<double>(speed.batch)});
  }
}

int run(Session& session, const Options& options) {
  session.require_single("report");
  for (const std::int64_t length : options.lengths)
    check_usage(length >= 1, "--decoding-lengths has {}: a length is at least 1", length);
  check_usage(options.batch >= 1, "--decoding-batch is {}: it must be at least 1", options.batch);
  session.set_threads(options.threads);
  Report report;
  for (const std::string& folder : options.runs) report.runs.push_back(read_run(folder));
  make_names_unique(report.runs);
  choose_references(report, options.baseline);
  if (!options.lengths.empty()) measure(options, report);

  make_folders(options.out);
  const std::string json = report_json(report).dump(2) + "\n";
  write_file_atomically(options.out + "/report.json", json);
  write_file_atomically(options.out + "/report.html", report_html(report));
  fmt::print("{}", options.json ? json : report_table(report));
  info("report: {}/report.html", options.out);
  return kExitDone;
}

}  // namespace

Run add_report(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("runs,--runs", options->runs, "Run folders, in the order they are shown")
      ->required()
      ->type_name("RUN")
      ->default_str("");
  app.add_option("--out", options->out, "Folder for report.html and report.json")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--baseline", options->baseline,
                 "Run whose cost is 100 % (not given: the linear run from scratch that cost most)");
  app.add_option("--decoding-lengths", options->lengths,
                 "Lengths to measure decoding at, such as 64,256,1024")
      ->delimiter(',')
      ->default_str("");
  app.add_option("--decoding-batch", options->batch, "Sequences decoded at once");
  app.add_option("--decoding-seconds", options->seconds, "Seconds a length and run");
  app.add_option("--precision", options->precision, "Of the decoding: fp32, bf16 or fp64");
  app.add_option("--threads", options->threads, "Threads (0: one a core)");
  app.add_flag("--json", options->json, "Print report.json instead of the table");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r

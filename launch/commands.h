// The subcommands of t2r, a source file each.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "launch/session.h"

namespace t2r {

/// Runs the command with the options parsed before; returns the exit status.
using Run = std::function<int(Session&)>;

// Each adds the command's options to `app`.
Run add_prepare(CLI::App& app);
Run add_train(CLI::App& app);
Run add_convert(CLI::App& app);
Run add_evaluate(CLI::App& app);
Run add_generate(CLI::App& app);
Run add_translate(CLI::App& app);
Run add_average(CLI::App& app);
Run add_import(CLI::App& app);
Run add_export(CLI::App& app);
Run add_report(CLI::App& app);
Run add_doctor(CLI::App& app);

}  // namespace t2r

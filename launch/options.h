// Options of a command: every flag is also a key of the same name in a TOML file given by --config.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace t2r {

/// Changes of one character (insert, delete, replace) that turn `a` into `b`.
std::size_t edit_distance(const std::string& a, const std::string& b);

/// The candidate that `name` is probably a slip of; empty when none is near.
std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates);

/// Makes the defaults of options that are added later show in --help and in the effective
/// configuration; given twice, an option has its last value. Adds --config.
void prepare_options(CLI::App& app);

/// Parses `arguments` (without program and command). Flags win over the file of --config. Throws a
/// usage error of one sentence; an unknown flag or key is named with the nearest known one.
/// Returns false when the help was asked for: it has then been printed.
bool parse_options(CLI::App& app, std::vector<std::string> arguments);

/// The values of all options as TOML, in the order of --help: what --config reads back.
std::string effective_configuration(const CLI::App& app);

}  // namespace t2r

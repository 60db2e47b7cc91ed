#include "launch/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/base/error.h"

namespace t2r {
namespace {

/// Names of all options, without dashes.
std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  return names;
}

[[noreturn]] void fail_unknown(const CLI::App& app, const std::string& what,
                               const std::string& name, const std::string& dashes) {
  const std::string near = nearest_name(name, option_names(app));
  const std::string advice = near.empty()
                                 ? fmt::format("'{} --help' lists them all", app.get_name())
                                 : fmt::format("did you mean {}{}?", dashes, near);
  fail_usage("unknown {} {}{}: {}", what, dashes, name, advice);
}

/// The first key of the configuration file that is no option's name; empty when all are known.
std::string unknown_key(const CLI::App& app, const std::string& file) {
  const std::vector<std::string> names = option_names(app);
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(file)) {
    if (item.name == "++" || item.name == "--") return item.fullname();
    if (std::find(names.begin(), names.end(), item.fullname()) == names.end())
      return item.fullname();
  }
  return {};
}

/// A string as TOML: literal ('...') where escapes would be needed.
std::string quoted(const std::string& text) {
  const bool literal = text.find_first_of("\"\\") != std::string::npos;
  check_usage(
      text.find('\n') == std::string::npos && !(literal && text.find('\'') != std::string::npos),
      "the value <{}> cannot be written to a configuration file: leave out line breaks and "
      "quotes",
      text);
  return literal ? "'" + text + "'" : "\"" + text + "\"";
}

std::string toml_value(const CLI::Option& option, const std::string& value) {
  const std::string type = option.get_type_name();
  if (option.get_expected_min() == 0 || type == "INT" || type == "UINT" || type == "FLOAT" ||
      type == "BOOLEAN")
    return value;
  return quoted(value);
}

}  // namespace

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row[b.size()];
}

std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    std::size_t distance = edit_distance(name, candidate);
    // "rate" is near "learning-rate", "sequence_length" near "sequence-length".
    if (name.size() > 2 && candidate.find(name) != std::string::npos) distance = 2;
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

void prepare_options(CLI::App& app) {
  app.option_defaults()->always_capture_default();
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_help_flag("-h,--help", "Print this help");
  app.set_config("--config", "", "TOML file with options; flags win over it")
      ->type_name("FILE")
      ->configurable(false);
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.get_formatter()->column_width(34);
}

bool parse_options(CLI::App& app, std::vector<std::string> arguments) {
  // Before anything else: a slip in a required option's name is not a missing option.
  const std::vector<std::string> names = option_names(app);
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument.rfind("--", 0) != 0) continue;
    const std::string name = argument.substr(2, argument.find('=') - 2);
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail_unknown(app, "option", name, "--");
  }
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return false;
  } catch (const CLI::ExtrasError&) {
    const std::vector<std::string> extras = app.remaining();
    fail_usage("unexpected argument '{}': '{} --help' shows what is expected",
               extras.empty() ? std::string() : extras.front(), app.get_name());
  } catch (const CLI::ConfigError& error) {
    const std::string file = app.get_config_ptr()->as<std::string>();
    const std::string key = unknown_key(app, file);
    if (key.empty()) fail_usage("configuration file {}: {}", file, error.what());
    fail_unknown(app, fmt::format("key in the configuration file {}:", file), key, "");
  } catch (const CLI::FileError& error) {
    fail_usage("the configuration file cannot be read: {}", error.what());
  } catch (const CLI::ParseError& error) {
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    fail_usage("{} ('{} --help' shows what is expected)", text, app.get_name());
  }
  return true;
}

std::string effective_configuration(const CLI::App& app) {
  std::string text;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_configurable() || option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    const bool flag = option->get_expected_min() == 0;
    const bool list = option->get_items_expected_max() > 1;
    std::vector<std::string> values;
    if (option->count() > 0)
      values = option->reduced_results();
    else if (!option->get_default_str().empty() && !list)
      values = {option->get_default_str()};
    if (flag) values = {!values.empty() && values.front() != "false" ? "true" : "false"};
    if (values.empty() || (values.size() == 1 && values.front().empty())) continue;
    std::string joined;
    for (const std::string& value : values)
      joined += (joined.empty() ? "" : ", ") + toml_value(*option, value);
    text += fmt::format("{} = {}\n", name, list ? "[" + joined + "]" : joined);
  }
  return text;
}

}  // namespace t2r

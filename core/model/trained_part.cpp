#include "core/model/trained_part.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/base/error.h"

namespace t2r {

bool TrainedPart::trains(ParamGroup group) const {
  switch (kind) {
    case nothing:
      return false;
    case all:
      return true;
    case attention:
      return group != ParamGroup::model;
    case feature_maps:
      return group == ParamGroup::feature_map;
    case lora:
      return is_new(group);
  }
  return false;
}

bool TrainedPart::adapts(const std::string& projection) const {
  if (kind != lora) return false;
  const std::string last = projection.substr(projection.rfind('.') + 1);
  return std::any_of(lora_options.targets.begin(), lora_options.targets.end(),
                     [&](const std::string& target) { return last == target + "_proj"; });
}

TrainedPart parse_trained_part(const std::string& name) {
  for (const TrainedPart::Kind kind :
       {TrainedPart::all, TrainedPart::attention, TrainedPart::feature_maps})
    if (name == name_of(kind)) return kind;
  if (name == "lora") return TrainedPart::lora;
  fail_usage("train '{}': choose all, attention, feature-maps or lora", name);
}

std::vector<std::string> parse_lora_targets(const std::string& names) {
  std::vector<std::string> targets;
  const auto add = [&](const std::string& name) {
    if (std::find(targets.begin(), targets.end(), name) == targets.end()) targets.push_back(name);
  };
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = std::min(names.find(',', begin), names.size());
    const std::string name = names.substr(begin, end - begin);
    begin = end + 1;
    if (name == "fc") {
      for (const char* part : {"gate", "up", "down"}) add(part);
      continue;
    }
    const char* const known[] = {"q", "k", "v", "o", "gate", "up", "down"};
    check_usage(
        std::find(std::begin(known), std::end(known), name) != std::end(known),
        "LoRA target '{}': choose among q, k, v, o, gate, up, down and fc (the last three), "
        "with commas between them",
        name);
    add(name);
  }
  return targets;
}

std::string name_of(const TrainedPart& part) {
  switch (part.kind) {
    case TrainedPart::nothing:
      break;
    case TrainedPart::all:
      return "all";
    case TrainedPart::attention:
      return "attention";
    case TrainedPart::feature_maps:
      return "feature-maps";
    case TrainedPart::lora:
      return fmt::format("lora of rank {}, alpha {}, on {}", part.lora_options.rank,
                         part.lora_options.alpha, fmt::join(part.lora_options.targets, ","));
  }
  return "nothing";
}

}  // namespace t2r

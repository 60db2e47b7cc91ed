#include "core/model/trained_part.h"

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
  }
  return false;
}

TrainedPart parse_trained_part(const std::string& name) {
  for (const TrainedPart::Kind kind :
       {TrainedPart::all, TrainedPart::attention, TrainedPart::feature_maps})
    if (name == name_of(kind)) return kind;
  fail_usage("train '{}': choose all, attention or feature-maps", name);
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
  }
  return "nothing";
}

}  // namespace t2r

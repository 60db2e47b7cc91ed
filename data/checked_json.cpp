#include "data/checked_json.h"

#include "core/base/error.h"

namespace t2r {

nlohmann::json parse_checked_json(std::string_view text, const std::string& where, int max_depth) {
  using Json = nlohmann::json;
  std::vector<std::size_t> names;  // given so far, of each object that is still open
  bool repeated = false, deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    deep = deep || depth > max_depth;
    if (event == Json::parse_event_t::object_start) names.push_back(0);
    if (event == Json::parse_event_t::key && !names.empty()) ++names.back();
    if (event == Json::parse_event_t::object_end && !names.empty()) {
      repeated = repeated || (!deep && value.size() != names.back());
      names.pop_back();
    }
    return !deep;
  };
  Json json = Json::parse(text, watch, false);
  check(!deep, "{} is nested deeper than {} levels: it is damaged", where, max_depth);
  check(!json.is_discarded() && json.is_object(), "{} is not valid JSON: it is cut off or damaged",
        where);
  check(!repeated, "{} gives a name twice in one object: it is damaged", where);
  return json;
}

}  // namespace t2r

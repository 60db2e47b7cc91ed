// JSON of others: what nlohmann's parser lets pass and a damaged or hostile file may hold.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace t2r {

/// The JSON object in `text`. Throws one sentence, beginning with `where`, when it is not valid
/// JSON, no object, nested deeper than `max_depth`, or gives a name twice in one object.
nlohmann::json parse_checked_json(std::string_view text, const std::string& where,
                                  int max_depth = 16);

}  // namespace t2r

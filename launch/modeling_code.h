// launch/hugging_face/modeling_t2r.py, which is part of the program.
#pragma once

#include <string_view>

namespace t2r {

std::string_view modeling_code();

}  // namespace t2r

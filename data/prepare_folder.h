// The folder that a dataset is made in.
#pragma once

#include <string>

namespace t2r {

/// Removes what a former or interrupted preparation left in `folder`, dataset.json first: from then
/// on the folder is no dataset. Other files stay.
void remove_dataset_files(const std::string& folder);

}  // namespace t2r

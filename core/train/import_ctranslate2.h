// Translation models of CTranslate2 (https://github.com/OpenNMT/CTranslate2) as ours.
#pragma once

#include <string>

#include "core/model/config.h"

namespace t2r {

/// Whether `folder` looks like one: it has a model.bin.
bool is_ctranslate2_folder(const std::string& folder);

/// Reads FOLDER/model.bin (binary version 2, TransformerBase or TransformerBig: pre-norm,
/// sinusoidal positions from 1, sources without an end mark) with its vocabularies of characters
/// (source_vocabulary.txt and target_vocabulary.txt, or shared_vocabulary.txt) and writes the model
/// folder `out`. Every variable must be of the shape that the model asks for, and none may be left
/// over. Throws one sentence otherwise.
ModelConfig import_ctranslate2(const std::string& folder, const std::string& out,
                               const std::string& version);

}  // namespace t2r

// Sentence pairs to a dataset folder: tokenizers, filters, shards with both sides.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace t2r {

/// The files of one split: sources and targets line by line, or both in one file with tabs.
struct PairFiles {
  std::vector<std::string> source, target, tsv;
  bool empty() const { return source.empty() && target.empty() && tsv.empty(); }
};

struct PreparePairsOptions {
  PairFiles train, valid, test;
  std::string out;  // the dataset folder

  bool joint_vocabulary = true;        // one tokenizer for both sides
  std::string tokenizer;               // of the target, or of both; empty: train one
  std::string source_tokenizer;        // where the vocabularies are separate
  std::int64_t vocab_size = 8192;      // of trained tokenizers
  std::int64_t source_vocab_size = 0;  // 0: as vocab_size
  std::string model_type = "bpe";
  bool source_eos = true;  // sources end with an end mark, as models of most programs want it

  // Training pairs with more tokens on a side (end marks left out), or with one side more than
  // max_ratio times the other where that has more than 10, are left out and counted. Valid and test
  // pairs stay, as scores are of all of them; pairs with an empty side go everywhere.
  std::int64_t max_length = 256;
  double max_ratio = 3;  // 0: any

  std::int64_t shards = 1;
  int workers = 1;  // threads; the result does not depend on it
  std::uint64_t seed = 0;
  double valid_fraction = 0, test_fraction = 0;  // of the training pairs, by a hash of each
  bool overwrite = false;
};

/// Makes options.out a dataset and returns what its dataset.json says; an interrupted call leaves
/// no dataset. Usage errors name files and lines.
DatasetInfo prepare_pairs(const PreparePairsOptions& options);

}  // namespace t2r

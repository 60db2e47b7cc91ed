// Text to a dataset folder: trains or loads a tokenizer, then several processes write the shards.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/text_reader.h"

namespace t2r {

struct PrepareOptions {
  std::vector<std::string> train, valid, test;  // text files
  DocumentSplit document_split = DocumentSplit::blank_line;
  std::string out;  // the dataset folder

  std::string tokenizer;           // a file or folder, "bytes", or empty: train one
  std::int64_t vocab_size = 8192;  // of a trained tokenizer
  std::string model_type = "bpe";  // bpe, unigram or char

  std::int64_t shards = 1;  // of the train split; valid and test have one
  int workers = 1;          // processes; the result does not depend on it
  std::uint64_t seed = 0;   // of the tokenizer's sample of the text
  // Shares taken from `train` where no valid or test text is given, chosen by a hash of the
  // document (document_split file: of the file's name): the same document always goes the same way.
  double valid_fraction = 0.0, test_fraction = 0.0;
  bool add_bos = true, add_eos = true;  // around each document
  // Each line end counts as a word too. WikiText's own figures (perplexity per word) need this and
  // document_split file, where every line end, blank lines included, is a token to predict.
  bool count_line_ends = false;
  bool overwrite = false;
};

/// Makes options.out a dataset and returns what its dataset.json says. The folder is a dataset only
/// once everything is there: an interrupted call may simply be repeated. The same options give the
/// same bytes for any number of workers. Workers are forked: call it from a process without other
/// threads.
DatasetInfo prepare_dataset(const PrepareOptions& options);

}  // namespace t2r

// Datasets: made from text, the same bytes for any number of workers, refused when damaged.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/prepare.h"
#include "data/shard.h"
#include "tests/data/random_text.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files[entry.path().filename().string()] = get(entry.path().string());
  return files;
}

std::vector<std::string> texts_of(const Dataset& dataset, const std::string& split) {
  const TokenStream stream = dataset.stream(split);
  std::vector<std::string> texts;
  for (std::int64_t d = 0; d < stream.documents(); ++d) {
    const std::int64_t begin = stream.document_begin(d), end = stream.document_begin(d + 1);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(end - begin));
    stream.copy_tokens(begin, end, ids.data());
    EXPECT_EQ(ids.front(), dataset.tokenizer().bos());
    EXPECT_EQ(ids.back(), dataset.tokenizer().eos());
    EXPECT_EQ(stream.document_of(begin), d);
    EXPECT_EQ(stream.document_of(end - 1), d);
    texts.push_back(dataset.tokenizer().decode(ids));
  }
  return texts;
}

std::vector<std::string> texts_in(const std::string& path, DocumentSplit split) {
  std::vector<std::string> texts;
  for_each_document(path, split, [&](const Document& d) { texts.emplace_back(d.text); });
  return texts;
}

class Prepare : public testing::Test {
 protected:
  void SetUp() override {
    put(folder / "train.txt", random_text(1, 3000));
    put(folder / "more.txt", random_text(2, 500));
    put(folder / "valid.txt", random_text(3, 300));
    options.train = {folder / "train.txt", folder / "more.txt"};
    options.valid = {folder / "valid.txt"};
    options.vocab_size = 400;
    options.shards = 3;
    options.out = folder / "dataset";
  }

  TemporaryFolder folder;
  PrepareOptions options;
};

TEST_F(Prepare, KeepsTheText) {
  for (const char* tokenizer : {"", "bytes"})
    for (const auto split : {DocumentSplit::blank_line, DocumentSplit::line, DocumentSplit::file}) {
      options.tokenizer = tokenizer;
      options.document_split = split;
      options.shards = split == DocumentSplit::file ? 2 : 5;
      options.overwrite = true;
      const DatasetInfo info = prepare_dataset(options);
      const Dataset dataset = Dataset::open(options.out);
      std::vector<std::string> train = texts_in(options.train[0], split);
      for (const auto& text : texts_in(options.train[1], split)) train.push_back(text);
      EXPECT_EQ(texts_of(dataset, "train"), train);
      EXPECT_EQ(texts_of(dataset, "valid"), texts_in(options.valid[0], split));
      EXPECT_FALSE(dataset.has_split("test"));
      EXPECT_EQ(dataset.vocab_size(), *tokenizer ? 258 : 400);
      std::int64_t bytes = 0, words = 0;
      for (const auto& text : train) bytes += std::ssize(text), words += count_words(text);
      EXPECT_EQ(dataset.split("train").bytes, bytes);
      EXPECT_EQ(dataset.split("train").words, words);
      EXPECT_EQ(dataset.split("train").documents, std::ssize(train));
      EXPECT_EQ(dataset.split("train").tokens, dataset.stream("train").tokens());
      EXPECT_EQ(info.splits.at("train").tokens, dataset.split("train").tokens);
      dataset.stream("train").verify();
    }
}

TEST_F(Prepare, TheSameBytesForAnyNumberOfWorkersAndWhenRepeated) {
  options.valid.clear();
  options.valid_fraction = 0.2;
  options.test_fraction = 0.1;
  prepare_dataset(options);
  const auto expected = contents(options.out);
  EXPECT_EQ(expected.size(), 7u);  // 3 + 1 + 1 shards, dataset.json, tokenizer.model
  options.overwrite = true;
  for (const int workers : {1, 2, 3, 8}) {
    options.workers = workers;
    prepare_dataset(options);
    EXPECT_EQ(contents(options.out), expected) << workers << " workers";
  }
}

TEST_F(Prepare, OptionsChangeWhatTheySay) {
  options.add_bos = options.add_eos = false;
  options.count_line_ends = true;
  options.tokenizer = "bytes";
  options.document_split = DocumentSplit::file;
  options.shards = 1;
  const DatasetInfo info = prepare_dataset(options);
  const SplitInfo& valid = info.splits.at("valid");
  const std::string text = get(options.valid[0]);
  EXPECT_EQ(valid.tokens, std::ssize(text));
  EXPECT_EQ(valid.bytes, std::ssize(text));
  EXPECT_EQ(valid.words, count_words(text) + std::count(text.begin(), text.end(), '\n'));
}

TEST_F(Prepare, TheHashSplitFollowsTheDocumentAlone) {
  options.train = {folder / "train.txt"};
  options.valid.clear();
  options.tokenizer = "bytes";
  options.document_split = DocumentSplit::line;
  options.valid_fraction = 0.2;
  options.test_fraction = 0.1;
  prepare_dataset(options);
  std::map<std::string, std::string> place;
  std::map<std::string, double> share;
  {
    const Dataset dataset = Dataset::open(options.out);
    for (const char* split : {"train", "valid", "test"})
      for (const auto& text : texts_of(dataset, split)) {
        EXPECT_TRUE(place.emplace(text, split).second || place[text] == split);
        ++share[split];
      }
  }
  const double all = share["train"] + share["valid"] + share["test"];
  EXPECT_NEAR(share["valid"] / all, 0.2, 0.06);
  EXPECT_NEAR(share["test"] / all, 0.1, 0.05);
  // More text around them moves no document.
  options.train = {folder / "more.txt", folder / "train.txt"};
  options.overwrite = true;
  options.shards = 7;
  prepare_dataset(options);
  const Dataset dataset = Dataset::open(options.out);
  for (const char* split : {"train", "valid", "test"})
    for (const auto& text : texts_of(dataset, split))
      EXPECT_TRUE(!place.contains(text) || place[text] == split);
}

TEST_F(Prepare, ADatasetIsNotOverwrittenUnasked) {
  options.tokenizer = "bytes";
  prepare_dataset(options);
  const auto before = contents(options.out);
  EXPECT_ERROR(prepare_dataset(options), "already holds a dataset");
  EXPECT_EQ(contents(options.out), before);
  options.overwrite = true;
  options.shards = 1;
  prepare_dataset(options);
  EXPECT_EQ(contents(options.out).size(), 4u) << "the former shards are gone";
  // A tokenizer may come from the folder that is overwritten.
  options.tokenizer = options.out;
  prepare_dataset(options);
  EXPECT_EQ(Dataset::open(options.out).vocab_size(), 258);
}

TEST_F(Prepare, AnInterruptedCallIsNoDatasetAndMayBeRepeated) {
  prepare_dataset(options);
  const auto expected = contents(options.out);
  std::filesystem::remove_all(options.out);
  put(folder / "train.txt", random_text(1, 3000));
  // Killed at several moments.
  for (int delay = 0; delay < 6; ++delay) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      try {
        options.workers = 2;
        options.overwrite = true;
        prepare_dataset(options);
      } catch (...) {
      }
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(delay * 30000));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    if (std::filesystem::exists(options.out + "/dataset.json"))
      Dataset::open(options.out).stream("train").verify();
    else if (std::filesystem::exists(options.out))
      EXPECT_ERROR(Dataset::open(options.out), "is no dataset");
  }
  ::usleep(50000);  // the workers of the last one end with it
  options.overwrite = true;
  prepare_dataset(options);
  EXPECT_EQ(contents(options.out), expected);
}

TEST_F(Prepare, WrongOptionsAreOneSentence) {
  const auto refused = [&](auto change, const char* part) {
    PrepareOptions wrong = options;
    change(wrong);
    EXPECT_ERROR(prepare_dataset(wrong), part);
    EXPECT_FALSE(std::filesystem::exists(options.out + "/dataset.json"));
  };
  refused([](PrepareOptions& o) { o.train.clear(), o.valid.clear(); }, "no text to prepare");
  refused([](PrepareOptions& o) { o.train.clear(); }, "there is none");
  refused([](PrepareOptions& o) { o.out.clear(); }, "no folder");
  refused([](PrepareOptions& o) { o.shards = 0; }, "0 shards");
  refused([](PrepareOptions& o) { o.shards = 99999; }, "99999 shards but only");
  refused([](PrepareOptions& o) { o.workers = 0; }, "0 worker");
  refused([](PrepareOptions& o) { o.valid_fraction = 0.1; }, "choose one");
  refused([](PrepareOptions& o) { o.test_fraction = 1; }, "leave something");
  refused([](PrepareOptions& o) { o.test_fraction = 1e-9; }, "test split is empty");
  refused([](PrepareOptions& o) { o.vocab_size = 10; }, "vocabulary of 10");
  refused([](PrepareOptions& o) { o.tokenizer = "/none"; }, "cannot open");
  refused([&](PrepareOptions& o) { o.train.push_back(folder / "none"); }, "cannot open");
  put(folder / "empty.txt", "");
  refused([&](PrepareOptions& o) { o.valid = {folder / "empty.txt"}; }, "is empty");
  put(folder / "broken.txt", "fine\n\xC3(\n");
  refused([&](PrepareOptions& o) { o.train.push_back(folder / "broken.txt"); }, "in line 2");
  put(folder / "file", "");
  refused([&](PrepareOptions& o) { o.out = folder / "file/x"; }, "cannot create");
}

TEST_F(Prepare, AWorkersErrorIsTheErrorOfAll) {
  options.tokenizer = "bytes";
  options.workers = 3;
  // A folder with the name of a shard cannot be replaced by it.
  std::filesystem::create_directories(options.out + "/train-00001-of-00003.h5/x");
  EXPECT_ERROR(prepare_dataset(options), "cannot rename");
  EXPECT_ERROR(Dataset::open(options.out), "is no dataset");
}

TEST_F(Prepare, DamagedDatasetsAreRefused) {
  prepare_dataset(options);
  const std::string json_path = options.out + "/dataset.json";
  const auto good = nlohmann::json::parse(get(json_path));
  const auto open = [&] {
    const Dataset dataset = Dataset::open(options.out);
    for (const auto& split : dataset.info().splits) dataset.stream(split.first).verify();
  };
  open();
  const auto refused = [&](auto change, const char* part) {
    auto json = good;
    change(json);
    put(json_path, json.dump());
    EXPECT_ERROR(open(), part);
    put(json_path, good.dump());
  };
  using Json = nlohmann::json;
  refused([](Json& j) { j["format"] = "other"; }, "format \"other\"");
  refused([](Json& j) { j["version"] = 2; }, "has version 2");
  refused([](Json& j) { j["version"] = "1"; }, "wrong type");
  refused([](Json& j) { j.erase("version"); }, "no \"version\"");
  refused([](Json& j) { j["task"] = "painting"; }, "task \"painting\"");
  refused([](Json& j) { j["vocab_size"] = 401; }, "tokenizer has 400");
  refused([](Json& j) { j["vocab_size"] = -1; }, "vocab_size is -1");
  refused([](Json& j) { j["tokenizer"]["sha256"] = "0"; }, "not the one");
  refused([](Json& j) { j["tokenizer"]["file"] = "../tokenizer.model"; }, "plain file name");
  refused([](Json& j) { j["splits"] = 1; }, "not an object");
  refused([](Json& j) { j["splits"]["train"]["shards"] = 2; }, "cannot open");
  refused([](Json& j) { j["splits"]["train"]["shards"] = 0; }, "make no sense");
  refused([](Json& j) { j["splits"]["train"]["tokens"] = 5; }, "do not belong together");
  refused([](Json& j) { j["splits"]["third"] = j["splits"]["train"]; }, "unknown split");
  const std::string text = good.dump();
  for (std::size_t size = 0; size < text.size(); size += 7) {
    put(json_path, text.substr(0, size));
    EXPECT_ERROR(open(), "not valid JSON");
  }
  put(json_path, text);

  // Another tokenizer, another dataset's shard, a missing shard, none at all.
  const std::string model = options.out + "/tokenizer.model", model_content = get(model);
  put(model, model_content + " ");
  EXPECT_ERROR(open(), "tokenizer");
  put(model, model_content);
  const std::string shard = options.out + "/train-00001-of-00003.h5", content = get(shard);
  put(shard, get(options.out + "/train-00000-of-00003.h5"));
  EXPECT_ERROR(open(), "do not belong together");
  std::string flipped = content;
  flipped[flipped.size() / 3] ^= 16;
  put(shard, flipped);
  EXPECT_ERROR(open(), "is damaged");
  std::filesystem::remove(shard);
  EXPECT_ERROR(open(), "cannot open");
  put(shard, content);
  open();
  EXPECT_ERROR(Dataset::open(folder / "none"), "not there");
  EXPECT_ERROR(Dataset::open(folder.path()), "is no dataset");
  EXPECT_ERROR(Dataset::open(options.out).split("test"), "only: train, valid");
}

TEST_F(Prepare, FingerprintNamesTheContent) {
  options.tokenizer = "bytes";
  prepare_dataset(options);
  const std::string first = Dataset::open(options.out).fingerprint();
  EXPECT_EQ(first.size(), 16u);
  const std::string moved = folder / "moved";
  std::filesystem::rename(options.out, moved);
  EXPECT_EQ(Dataset::open(moved).fingerprint(), first);
  std::string text = get(options.train[0]);
  text[text.size() / 2] = text[text.size() / 2] == 'a' ? 'b' : 'a';
  put(options.train[0], text);
  prepare_dataset(options);
  EXPECT_NE(Dataset::open(options.out).fingerprint(), first);
}

}  // namespace
}  // namespace t2r

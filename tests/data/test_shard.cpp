// Shards: what is written comes back, and nothing that is damaged does.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <chrono>
#include <thread>

#include "core/base/random.h"
#include "data/shard.h"
#include "tests/data/temporary_folder.h"

/// HDF5 itself leaks a little for each damaged file that it refuses; LeakSanitizer asks here.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5";
}

namespace t2r {
namespace {

const std::string kHash(64, 'a');

using Documents = std::vector<std::vector<std::int32_t>>;

Documents random_documents(std::uint64_t seed, int count, std::int64_t vocab_size,
                           std::uint32_t longest) {
  Documents documents;
  std::uint64_t counter = 0;
  for (int d = 0; d < count; ++d) {
    documents.emplace_back(1 + random_bits(seed, 1, counter++)[0] % longest);
    for (auto& token : documents.back())
      token = static_cast<std::int32_t>(random_bits(seed, 2, counter++)[0] %
                                        static_cast<std::uint64_t>(vocab_size));
  }
  return documents;
}

void write(const std::string& path, const Documents& documents, std::int64_t vocab_size) {
  ShardWriter writer(path, {vocab_size, kHash});
  for (const auto& document : documents) writer.add_document(document);
  writer.finish();
}

std::vector<std::int32_t> joined(const Documents& documents) {
  std::vector<std::int32_t> tokens;
  for (const auto& document : documents)
    tokens.insert(tokens.end(), document.begin(), document.end());
  return tokens;
}

std::vector<std::int32_t> all_tokens(const Shard& shard) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.tokens()));
  shard.copy_tokens(0, shard.tokens(), tokens.data());
  return tokens;
}

TEST(Shard, RoundTrip) {
  TemporaryFolder folder;
  for (const std::int64_t vocab_size : {1, 300, 65536, 65537, 2147483647}) {
    for (const int count : {0, 1, 2, 31}) {
      const Documents documents = random_documents(1, count, vocab_size, 97);
      const std::vector<std::int32_t> tokens = joined(documents);
      write(folder / "shard.h5", documents, vocab_size);
      const Shard shard = Shard::open(folder / "shard.h5", {vocab_size, kHash});
      ASSERT_EQ(shard.documents(), count);
      ASSERT_EQ(all_tokens(shard), tokens);
      shard.verify();
      std::int64_t begin = 0;
      for (int d = 0; d < count; ++d) {
        EXPECT_EQ(shard.document_begin(d), begin);
        for (std::int64_t i = 0; i < std::ssize(documents[d]); ++i)
          ASSERT_EQ(shard.document_of(begin + i), d);
        begin += std::ssize(documents[d]);
      }
      EXPECT_EQ(shard.document_begin(count), begin);
      EXPECT_ERROR(shard.document_begin(count + 1), "document");
      EXPECT_ERROR(shard.token_at(begin), "tokens [");
      EXPECT_ERROR(shard.document_of(-1), "token -1");
    }
  }
}

TEST(Shard, SeveralBlocks) {
  TemporaryFolder folder;
  for (const std::int64_t vocab_size : {5000, 70000}) {
    const Documents documents = random_documents(2, 40, vocab_size, 60000);
    const std::vector<std::int32_t> tokens = joined(documents);
    ASSERT_GT(tokens.size(), 1u << 20);
    write(folder / "shard.h5", documents, vocab_size);
    const Shard shard = Shard::open(folder / "shard.h5", {vocab_size, kHash});
    for (std::uint64_t i = 0; i < 200; ++i) {
      const auto r = random_bits(3, 0, i);
      const auto begin = static_cast<std::int64_t>(r[0] % tokens.size());
      const std::int64_t end = std::min<std::int64_t>(begin + r[1] % 3000, std::ssize(tokens));
      std::vector<std::int32_t> part(static_cast<std::size_t>(end - begin));
      shard.copy_tokens(begin, end, part.data());
      ASSERT_TRUE(std::equal(part.begin(), part.end(), tokens.begin() + begin));
    }
    EXPECT_EQ(all_tokens(shard), tokens);
  }
}

TEST(Shard, TheSameBytesEveryTime) {
  TemporaryFolder folder;
  const Documents documents = random_documents(4, 10, 300, 50);
  write(folder / "first.h5", documents, 300);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 keeps whole seconds
  write(folder / "second.h5", documents, 300);
  EXPECT_EQ(get(folder / "first.h5"), get(folder / "second.h5"));
}

TEST(Shard, WritersRefuseWrongTokens) {
  TemporaryFolder folder;
  ShardWriter writer(folder / "shard.h5", {300, kHash});
  const std::vector<std::int32_t> large{5, 300}, negative{-1}, none;
  EXPECT_ERROR(writer.add_document(large), "token id 300");
  EXPECT_ERROR(writer.add_document(negative), "token id -1");
  EXPECT_ERROR(writer.add_document(none), "without tokens");
}

TEST(Shard, OtherIdentityIsRefused) {
  TemporaryFolder folder;
  write(folder / "shard.h5", random_documents(5, 3, 300, 9), 300);
  EXPECT_ERROR(Shard::open(folder / "shard.h5", {301, kHash}), "vocabulary of 300 entries");
  EXPECT_ERROR(Shard::open(folder / "shard.h5", {300, "other"}), "another tokenizer");
  EXPECT_ERROR(Shard::open(folder / "none.h5", {300, kHash}), "cannot open");
}

TEST(Shard, ForeignFilesAreRefused) {
  TemporaryFolder folder;
  const auto refused = [&](const std::string& content) {
    put(folder / "foreign.h5", content);
    EXPECT_ERROR(Shard::open(folder / "foreign.h5", {300, kHash}), "foreign.h5 is");
  };
  refused("");
  refused("plain text\n");
  refused(std::string(10000, '\0'));
  refused("\x89HDF\r\n\x1a\n" + std::string(3000, '\xFF'));
  const hid_t file = H5Fcreate((folder / "foreign.h5").c_str(), H5F_ACC_TRUNC, 0, 0);
  H5Fclose(file);
  EXPECT_ERROR(Shard::open(folder / "foreign.h5", {300, kHash}), "it has no format_version");
}

/// Overwrites one attribute or array of a shard through HDF5.
template <class F>
void tamper(const std::string& path, F&& change) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  change(file);
  ASSERT_GE(H5Fclose(file), 0);
}

void set_attribute(hid_t file, const char* name, std::uint64_t value) {
  const hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
  ASSERT_GE(H5Awrite(attribute, H5T_NATIVE_UINT64, &value), 0);
  H5Aclose(attribute);
}

TEST(Shard, ConsistentLiesAreRefused) {
  TemporaryFolder folder;
  const std::string path = folder / "shard.h5";
  const auto fresh = [&] { write(path, random_documents(6, 5, 300, 9), 300); };
  const auto open = [&] { Shard::open(path, {300, kHash}); };

  fresh();
  tamper(path, [](hid_t file) { set_attribute(file, "format_version", 2); });
  EXPECT_ERROR(open(), "format version 2");
  for (const std::uint64_t documents : {std::uint64_t{4}, std::uint64_t{6}, UINT64_MAX}) {
    fresh();
    tamper(path, [&](hid_t file) { set_attribute(file, "documents", documents); });
    EXPECT_ERROR(open(), "document offsets for");
  }
  fresh();
  tamper(path, [](hid_t file) {
    const std::uint64_t offsets[6] = {0, 3, 3, 4, 5, 6};
    const hid_t dataset = H5Dopen2(file, "offsets", H5P_DEFAULT);
    H5Dwrite(dataset, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, offsets);
    H5Dclose(dataset);
  });
  EXPECT_ERROR(open(), "checksum of its document offsets");
  tamper(path, [](hid_t file) { H5Adelete(file, "offsets_checksum"); });
  EXPECT_ERROR(open(), "do not rise");
  fresh();
  tamper(path, [](hid_t file) { H5Ldelete(file, "checksums", H5P_DEFAULT); });
  EXPECT_ERROR(open(), "no checksums");
  // Chunked tokens, as another program might write them.
  fresh();
  tamper(path, [](hid_t file) {
    H5Ldelete(file, "tokens", H5P_DEFAULT);
    const hsize_t size = 20;
    const hid_t space = H5Screate_simple(1, &size, nullptr);
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, 1, &size);
    const hid_t dataset =
        H5Dcreate2(file, "tokens", H5T_STD_U16LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Dclose(dataset), H5Pclose(properties), H5Sclose(space);
  });
  EXPECT_ERROR(open(), "not a contiguous array");
}

TEST(Shard, TokensOutsideTheVocabularyAreFoundWhenRead) {
  TemporaryFolder folder;
  const std::string path = folder / "shard.h5";
  write(path, {{1, 2, 299}}, 300);
  // The checksums are right, but for a smaller vocabulary.
  tamper(path, [](hid_t file) { set_attribute(file, "vocab_size", 299); });
  const Shard shard = Shard::open(path, {299, kHash});
  EXPECT_ERROR(shard.token_at(0), "token id 299, outside its vocabulary of 299");
}

TEST(Shard, EveryTruncationIsFound) {
  TemporaryFolder folder;
  write(folder / "shard.h5", random_documents(7, 20, 300, 50), 300);
  const std::string whole = get(folder / "shard.h5");
  for (std::size_t size = 0; size < whole.size(); size += size < 64 ? 1 : 61) {
    put(folder / "torn.h5", whole.substr(0, size));
    EXPECT_ERROR(Shard::open(folder / "torn.h5", {300, kHash}), "torn.h5 is");
  }
}

TEST(Shard, EveryFlippedByteIsFoundOrHarmless) {
  TemporaryFolder folder;
  write(folder / "shard.h5", random_documents(8, 20, 300, 20), 300);
  const std::string whole = get(folder / "shard.h5");
  const Shard original = Shard::open(folder / "shard.h5", {300, kHash});
  const std::vector<std::int32_t> tokens = all_tokens(original);
  int found = 0, harmless = 0;
  put(folder / "flipped.h5", whole);
  for (std::size_t place = 0; place < whole.size(); ++place) {
    put_byte(folder / "flipped.h5", place, static_cast<char>(whole[place] ^ (1 << (place % 8))));
    try {
      const Shard shard = Shard::open(folder / "flipped.h5", {300, kHash});
      ASSERT_EQ(all_tokens(shard), tokens) << "byte " << place;
      for (std::int64_t d = 0; d <= shard.documents(); ++d)
        ASSERT_EQ(shard.document_begin(d), original.document_begin(d)) << "byte " << place;
      ++harmless;
    } catch (const Error&) {
      ++found;
    }
    put_byte(folder / "flipped.h5", place, whole[place]);
  }
  // Tokens, offsets and checksums at least.
  EXPECT_GE(found, static_cast<int>(2 * tokens.size() + 8 * 21 + 8));
  RecordProperty("harmless", harmless);
}

TEST(Shard, ADamagedBlockIsFoundWhereItIsTouched) {
  TemporaryFolder folder;
  write(folder / "shard.h5", random_documents(9, 70, 300, 50000), 300);
  std::string whole = get(folder / "shard.h5");
  const std::int64_t tokens = Shard::open(folder / "shard.h5", {300, kHash}).tokens();
  ASSERT_GT(tokens, 3 << 19);
  whole[whole.size() / 2] ^= 1;  // in a block in the middle
  put(folder / "shard.h5", whole);
  const Shard shard = Shard::open(folder / "shard.h5", {300, kHash});
  EXPECT_GE(shard.token_at(0), 0);
  EXPECT_GE(shard.token_at(tokens - 1), 0);
  EXPECT_ERROR(shard.verify(), "does not match");
  EXPECT_ERROR(shard.token_at(tokens / 2), "does not match");
}

TEST(Shard, ThreadsReadAtOnce) {
  TemporaryFolder folder;
  const Documents documents = random_documents(10, 30, 300, 60000);
  const std::vector<std::int32_t> tokens = joined(documents);
  write(folder / "shard.h5", documents, 300);
  const Shard shard = Shard::open(folder / "shard.h5", {300, kHash});
  std::vector<std::thread> threads;
  std::vector<std::vector<std::int32_t>> results(4);
  for (auto& result : results) threads.emplace_back([&] { result = all_tokens(shard); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, tokens);
}

}  // namespace
}  // namespace t2r

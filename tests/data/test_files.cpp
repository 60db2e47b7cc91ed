// Atomic files and SHA-256.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include "data/atomic_file.h"
#include "data/mapped_file.h"
#include "data/sha256.h"
#include "data/shard.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

/// Files of this process may not grow past `bytes`: writing fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  sighandler_t handler_;
};

std::int64_t files_in(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

TEST(AtomicFile, ReplacesTheOldFile) {
  TemporaryFolder folder;
  write_file_atomically(folder / "file", "old");
  write_file_atomically(folder / "file", "");
  EXPECT_EQ(get(folder / "file"), "");
  const std::string content(100000, 'x');
  write_file_atomically(folder / "file", content);
  EXPECT_EQ(read_file(folder / "file"), content);
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(AtomicFile, AFailureLeavesTheOldFile) {
  TemporaryFolder folder;
  write_file_atomically(folder / "file", "old");
  {
    AtomicFile file(folder / "file");
    file.write("half");
    EXPECT_EQ(files_in(folder.path()), 2);
  }
  EXPECT_EQ(get(folder / "file"), "old");
  EXPECT_EQ(files_in(folder.path()), 1);
  EXPECT_ERROR(write_file_atomically(folder / "none/file", "x"), "cannot create");
}

TEST(AtomicFile, AFullDiskIsOneSentence) {
  TemporaryFolder folder;
  write_file_atomically(folder / "file", "old");
  const std::string content(1 << 20, 'x');
  {
    const FileSizeLimit limit(5000);
    EXPECT_ERROR(write_file_atomically(folder / "file", content), "cannot write");
    ShardWriter writer(folder / "shard.h5", {100, "hash"});
    const std::vector<std::int32_t> document(10000, 7);
    writer.add_document(document);
    EXPECT_ERROR(writer.finish(), "cannot write");
  }
  EXPECT_EQ(get(folder / "file"), "old");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(ReadFile, RefusesWhatIsNotThere) {
  TemporaryFolder folder;
  EXPECT_ERROR(read_file(folder / "none"), "cannot open");
  EXPECT_ERROR(read_file(folder.path()), "cannot read");
  put(folder / "file", "12345");
  EXPECT_EQ(read_file(folder / "file", 5), "12345");
  EXPECT_ERROR(read_file(folder / "file", 4), "longer than 4 bytes");
}

TEST(MappedFile, MapsAndMoves) {
  TemporaryFolder folder;
  put(folder / "file", "content");
  put(folder / "empty", "");
  MappedFile file(folder / "file"), empty(folder / "empty");
  EXPECT_TRUE(empty.bytes().empty());
  empty = std::move(file);
  EXPECT_EQ(empty.bytes().size(), 7u);
  EXPECT_EQ(static_cast<char>(empty.bytes()[6]), 't');
  empty.will_need(3, 100);
  empty.will_need(100, 1);
  EXPECT_ERROR(MappedFile(folder / "none"), "cannot open");
}

TEST(MappedFile, ReadsWithoutTheMapping) {
  TemporaryFolder folder;
  put(folder / "file", "content");
  MappedFile first(folder / "file", true);
  const MappedFile file = std::move(first);
  std::string text(4, ' ');
  file.read(2, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "nten");
  EXPECT_ERROR(file.read(4, std::as_writable_bytes(std::span(text))), "bytes [4, 8)");
  EXPECT_ERROR(file.read(SIZE_MAX, std::as_writable_bytes(std::span(text))), "which has 7");
  EXPECT_ERROR(MappedFile(folder / "file").read(0, std::as_writable_bytes(std::span(text))),
               "not opened");
  std::filesystem::resize_file(folder / "file", 3);
  EXPECT_ERROR(file.read(2, std::as_writable_bytes(std::span(text))), "has become shorter");
}

TEST(Sha256, KnownValues) {  // FIPS 180-4's examples
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

}  // namespace
}  // namespace t2r

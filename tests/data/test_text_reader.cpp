// Documents, words and faults of text files.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include "data/text_reader.h"
#include "tests/data/random_text.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

struct Found {
  std::vector<std::string> texts;
  std::vector<std::int64_t> line_ends;
};

Found documents_of(const std::string& content, DocumentSplit split) {
  TemporaryFolder folder;
  put(folder / "text", content);
  Found found;
  for_each_document(folder / "text", split, [&](const Document& document) {
    found.texts.emplace_back(document.text);
    found.line_ends.push_back(document.line_ends);
  });
  return found;
}

using Texts = std::vector<std::string>;
using Counts = std::vector<std::int64_t>;

TEST(TextReader, SplitsAtBlankLines) {
  const std::string text = "\n\none\n two \n \t\n\nthree\n\nfour";
  const Found found = documents_of(text, DocumentSplit::blank_line);
  EXPECT_EQ(found.texts, (Texts{"one\n two ", "three", "four"}));
  EXPECT_EQ(found.line_ends, (Counts{2, 1, 1}));
}

TEST(TextReader, SplitsAtLines) {
  const Found found = documents_of("\none\n\n two \nthree\n\n", DocumentSplit::line);
  EXPECT_EQ(found.texts, (Texts{"one", " two ", "three"}));
  EXPECT_EQ(found.line_ends, (Counts{1, 1, 1}));
}

TEST(TextReader, WholeFileIsKeptAsItIs) {
  const std::string text = "\r\n one\r\n\n two";
  const Found found = documents_of(text, DocumentSplit::file);
  EXPECT_EQ(found.texts, Texts{text});
  EXPECT_EQ(found.line_ends, Counts{4});
  EXPECT_EQ(documents_of("a\n", DocumentSplit::file).line_ends, Counts{1});
}

TEST(TextReader, ByteOrderMarkAndCarriageReturns) {
  const std::string text = "\xEF\xBB\xBFone\r\ntwo\r\n\r\nthree\r\n";
  EXPECT_EQ(documents_of(text, DocumentSplit::blank_line).texts, (Texts{"one\ntwo", "three"}));
  EXPECT_EQ(documents_of(text, DocumentSplit::line).texts, (Texts{"one", "two", "three"}));
  EXPECT_EQ(documents_of(text, DocumentSplit::file).texts, Texts{text.substr(3)});
}

TEST(TextReader, EveryLineOfADocumentIsCountedOnce) {
  std::string text("\n");
  text += random_text(5, 3000);
  text += "\n\n";
  const std::int64_t lines = std::count(text.begin(), text.end(), '\n');
  std::int64_t blank_lines = 1;  // the first
  for (std::size_t i = 1; i < text.size(); ++i)
    blank_lines += text[i] == '\n' && text[i - 1] == '\n';
  for (auto split : {DocumentSplit::blank_line, DocumentSplit::line, DocumentSplit::file}) {
    const Found found = documents_of(text, split);
    std::int64_t line_ends = 0, words = 0;
    for (std::int64_t n : found.line_ends) line_ends += n;
    for (const auto& document : found.texts) words += count_words(document);
    EXPECT_EQ(line_ends, split == DocumentSplit::file ? lines : lines - blank_lines);
    EXPECT_EQ(words, count_words(text)) << name_of(split);
    EXPECT_EQ(parse_document_split(name_of(split)), split);
  }
}

TEST(TextReader, GzipIsUnpacked) {
  TemporaryFolder folder;
  const std::string text = "\xEF\xBB\xBFone\r\ntwo\n\nthr\xC3\xA9" + std::string(5000, 'e');
  const gzFile file = gzopen((folder / "text").c_str(), "wb");  // no .gz: the content tells
  ASSERT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())),
            static_cast<int>(text.size()));
  gzclose(file);
  const auto documents = [&](DocumentSplit split) {
    Texts texts;
    for_each_document(folder / "text", split,
                      [&](const Document& document) { texts.emplace_back(document.text); });
    return texts;
  };
  for (auto split : {DocumentSplit::blank_line, DocumentSplit::line, DocumentSplit::file})
    EXPECT_EQ(documents(split), documents_of(text, split).texts);
  put(folder / "text", get(folder / "text").substr(0, 20));
  EXPECT_ERROR(documents(DocumentSplit::line), "truncated");
}

TEST(TextReader, CountsWords) {
  EXPECT_EQ(count_words(""), 0);
  EXPECT_EQ(count_words(" \n\t "), 0);
  EXPECT_EQ(count_words("one"), 1);
  EXPECT_EQ(count_words(" one  two\nthree\t\xC3\xA9 "), 4);
}

TEST(TextReader, FaultsNameThePlace) {
  TemporaryFolder folder;
  const auto read = [&](const std::string& content) {
    put(folder / "text", content);
    for_each_document(folder / "text", DocumentSplit::line, [](const Document&) {});
  };
  const auto ignore = [](const Document&) {};
  EXPECT_ERROR(for_each_document(folder / "none", DocumentSplit::line, ignore), "cannot open");
  EXPECT_ERROR(for_each_document(folder.path(), DocumentSplit::line, ignore), "not a regular file");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(for_each_document(folder / "pipe", DocumentSplit::line, ignore),
               "not a regular file");
  EXPECT_ERROR(read(""), "is empty");
  EXPECT_ERROR(read(" \n\n\t"), "is empty");
  EXPECT_ERROR(read(std::string("one\ntwo\0", 8)), "NUL byte in line 2 (byte offset 7)");
  EXPECT_ERROR(read("one\n\ntw\xFFo"), "byte 0xFF in line 3 (byte offset 7)");
  EXPECT_ERROR(parse_document_split("word"), "unknown document split");
}

TEST(TextReader, Utf8IsCheckedAsRfc3629Says) {
  // Every code point, then the sequences the standard forbids, at every place in a word of eight.
  std::string all;
  for (std::uint32_t c = 0; c < 0x110000; ++c)
    if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
  EXPECT_EQ(find_invalid_utf8(all), -1);
  const Texts wrong{"\x80",
                    "\xBF",
                    "\xC0\x80",
                    "\xC1\xBF",
                    "\xE0\x9F\xBF",
                    "\xED\xA0\x80",
                    "\xF0\x8F\xBF\xBF",
                    "\xF4\x90\x80\x80",
                    "\xF5\x80\x80\x80",
                    "\xFE",
                    "\xFF",
                    "\xC3",
                    "\xE2\x82",
                    "\xF0\x9F\x98",
                    "\xC3\x28",
                    "\xE2\x82\x28"};
  for (const std::string& sequence : wrong)
    for (std::size_t before = 0; before < 18; ++before) {
      const std::string text = std::string(before, 'a') + sequence;
      EXPECT_EQ(find_invalid_utf8(text), static_cast<std::int64_t>(before));
      EXPECT_EQ(find_invalid_utf8(text + "some more text"), static_cast<std::int64_t>(before));
    }
}

}  // namespace
}  // namespace t2r

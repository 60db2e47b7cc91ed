// Documents of a text file, checked: valid UTF-8, no NUL bytes. A plain file is mapped, never
// loaded; gzip is unpacked.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace t2r {

/// What ends a document: a blank line, every line end (blank lines are no documents), or only the
/// end of the file (then the document is the file's bytes as they are).
enum class DocumentSplit : std::uint8_t { blank_line, line, file };

/// "blank-line", "line" or "file"; anything else is a usage error.
DocumentSplit parse_document_split(std::string_view name);
std::string_view name_of(DocumentSplit split);

struct Document {
  std::string_view text;       // lines joined by \n, no line end at its end (file: as it is)
  std::int64_t line_ends = 0;  // its lines; blank lines between documents belong to none

  operator std::string_view() const { return text; }  // NOLINT(google-explicit-constructor)
};

/// Calls `callback` for each document in order; the text is valid during the call only. A byte
/// order mark at the start is skipped and \r\n ends a line like \n. Throws one sentence with the
/// place when the file is missing, empty, binary or not UTF-8.
void for_each_document(const std::string& path, DocumentSplit split,
                       const std::function<void(const Document&)>& callback);

/// Byte offset of the first byte of `text` that is not UTF-8 (RFC 3629), or -1.
std::int64_t find_invalid_utf8(std::string_view text);

/// Throws one sentence that names `where`, line and byte offset when `text` is not UTF-8 or
/// holds NUL bytes.
void check_utf8(std::string_view text, const std::string& where);

/// Runs of bytes between ASCII white space, as WikiText counts words.
std::int64_t count_words(std::string_view text);

}  // namespace t2r

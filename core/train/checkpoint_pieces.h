// What a checkpoint is made of: pieces of parameters and moments, each said in terms of the whole
// parameter, so that any mesh reads what any mesh wrote. And which rank writes which piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/model/params.h"
#include "core/train/optimizer.h"
#include "dist/comm.h"

namespace t2r {

/// What the optimizer keeps of a parameter: its value in master precision and Adam's two moments.
enum class CheckpointArray : std::uint8_t { values, first_moment, second_moment };
constexpr CheckpointArray kCheckpointArrays[] = {
    CheckpointArray::values, CheckpointArray::first_moment, CheckpointArray::second_moment};
/// "values", "adam_m" or "adam_v".
const char* name_of(CheckpointArray array);

/// A part of a whole parameter, and of that part, row-major, the elements [begin, end).
struct Stretch {
  Shape whole;
  ParamPart part;           // dim -1: the part is the whole
  std::int64_t length = 0;  // of the part along its dimension
  std::int64_t begin = 0, end = 0;

  /// Elements [begin, end) of what this rank holds of a parameter.
  static Stretch of(const ParamSpec& spec, std::int64_t begin, std::int64_t end);
  std::int64_t size() const { return end - begin; }
  /// Elements of the part.
  std::int64_t part_size() const;
};

/// Copies the elements that both have, `width` bytes each, from the memory of one stretch to that
/// of another of the same parameter, and returns their number.
std::int64_t copy_common(const Stretch& from, const std::byte* from_data, const Stretch& to,
                         std::byte* to_data, std::int64_t width);

/// Throws one sentence, which begins with `what`, unless each element of the parameter lies in
/// exactly one of the stretches. These come from files: nothing about them is taken for granted but
/// their `whole` and that sizes fit 63 bits (Stretch as parse_piece makes it).
void check_covered(std::vector<Stretch> stretches, const std::string& what);

/// A stretch of one array, and its elements in this rank's memory where it is to be written.
struct Piece {
  CheckpointArray array = CheckpointArray::values;
  std::string name;  // of the parameter
  Stretch stretch;
  DType dtype = DType::f32;
  std::byte* data = nullptr;
  std::string xxh3;  // 16 hexadecimal digits

  std::int64_t bytes() const { return stretch.size() * size_of(dtype); }
};

/// The file of one rank, as state.json names it.
struct PartFile {
  std::int64_t bytes = 0;
  std::uint64_t header_xxh3 = 0;
};

/// The pieces that this rank writes. Where several ranks keep the same elements they share them
/// out; what lies on all tensor-parallel ranks is written by the first. Together the ranks write
/// every element of what is trained once: checked. `owned` stays where it is. Collective over
/// `replicas`.
std::vector<Piece> pieces_to_write(Comm& replicas, bool first_of_model, const ParamStore& params,
                                   std::span<const OwnedRange> owned);

/// A piece as text, for the index in its file, and back. parse_piece throws one sentence, which
/// begins with `where`, unless the text describes a piece that can exist.
std::string piece_text(const Piece& piece);
Piece parse_piece(const std::string& text, const std::string& where);

std::uint64_t xxh3_of(std::span<const std::byte> bytes);
/// The same as 16 hexadecimal digits.
std::string xxh3_text(std::span<const std::byte> bytes);

}  // namespace t2r

#include "core/train/checkpoint_pieces.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

namespace t2r {
namespace {

using nlohmann::json;

// A piece is read, checked and written as one: large enough for the disk, small enough that many
// ranks can share the pieces out.
constexpr std::int64_t kMostElements = std::int64_t{4} << 20;
// Fewer elements that several replicas keep are written by the first of them.
constexpr std::int64_t kWorthSharing = 1024;

/// A part as a rectangle of the parameter, a matrix of its first dimension by the others.
struct Rectangle {
  std::int64_t row_begin, row_end, column_begin, column_end;

  explicit Rectangle(const Stretch& s) {
    const std::int64_t rows = s.whole.rank() > 0 ? s.whole[0] : 1;
    const std::int64_t columns = rows > 0 ? s.whole.size() / rows : 0;
    const bool by_rows = s.part.dim == 0, by_columns = s.part.dim == 1;
    row_begin = by_rows ? s.part.begin : 0;
    row_end = by_rows ? s.part.begin + s.length : rows;
    column_begin = by_columns ? s.part.begin : 0;
    column_end = by_columns ? s.part.begin + s.length : columns;
  }
  std::int64_t width() const { return column_end - column_begin; }
};

/// Elements [begin, end) of the span that one replica writes.
struct Share {
  std::int64_t begin, end;
  int writer;
};

/// Every replica's ranges, moved as 8-byte elements that are never read as numbers.
std::vector<std::vector<Share>> ranges_of_all(Comm& replicas, std::span<const OwnedRange> owned) {
  const auto most =
      replicas.all_reduce_value(static_cast<std::int64_t>(owned.size()), ReduceOp::max);
  std::vector<std::int64_t> mine(static_cast<std::size_t>(2 * most), 0);
  for (std::size_t i = 0; i < owned.size(); ++i) {
    mine[2 * i] = owned[i].begin;
    mine[2 * i + 1] = owned[i].end;
  }
  std::vector<std::int64_t> all(mine.size() * static_cast<std::size_t>(replicas.size()));
  if (most > 0)
    replicas.all_gather(Tensor(mine.data(), {2 * most}, DType::f64),
                        Tensor(all.data(), {2 * most * replicas.size()}, DType::f64), Queue{});
  std::vector<std::vector<Share>> ranges(static_cast<std::size_t>(replicas.size()));
  for (std::size_t i = 0; i < all.size(); i += 2) {
    const auto replica = static_cast<int>(i / mine.size());
    if (all[i] < all[i + 1])
      ranges[static_cast<std::size_t>(replica)].push_back({all[i], all[i + 1], replica});
  }
  return ranges;
}

/// The ranges made disjoint, ascending: what several keep is cut into a stretch for each.
std::vector<Share> share_out(const std::vector<std::vector<Share>>& ranges) {
  std::vector<std::int64_t> borders;
  for (const auto& of_replica : ranges)
    for (const Share& range : of_replica) {
      borders.push_back(range.begin);
      borders.push_back(range.end);
    }
  std::sort(borders.begin(), borders.end());
  borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
  std::vector<Share> shares;
  std::vector<std::size_t> next(ranges.size(), 0);  // ranges of each replica are ascending
  for (std::size_t i = 1; i < borders.size(); ++i) {
    const std::int64_t begin = borders[i - 1], end = borders[i], n = end - begin;
    std::vector<int> keepers;
    for (std::size_t r = 0; r < ranges.size(); ++r) {
      while (next[r] < ranges[r].size() && ranges[r][next[r]].end <= begin) ++next[r];
      if (next[r] < ranges[r].size() && ranges[r][next[r]].begin <= begin)
        keepers.push_back(static_cast<int>(r));
    }
    if (keepers.empty()) continue;
    if (n < kWorthSharing) keepers.resize(1);
    const auto count = std::ssize(keepers);
    for (std::int64_t k = 0; k < count; ++k)
      shares.push_back({begin + n * k / count, begin + n * (k + 1) / count,
                        keepers[static_cast<std::size_t>(k)]});
  }
  return shares;
}

/// Throws unless the shares, which are disjoint and ascending, hold every element of every
/// trained parameter.
void check_all_shared(const ParamStore& params, const std::vector<Share>& shares) {
  std::size_t next = 0;
  for (int i = 0; i < params.count(); ++i) {
    if (!params.trained(ParamId{i})) continue;
    std::int64_t at = params.offset(ParamId{i});
    const std::int64_t end = at + params.spec(ParamId{i}).shape.size();
    while (at < end) {
      while (next < shares.size() && shares[next].end <= at) ++next;
      check(next < shares.size() && shares[next].begin <= at,
            "no rank keeps the optimizer's state of element {} of {}: it cannot be saved",
            at - params.offset(ParamId{i}), params.spec(ParamId{i}).name);
      at = shares[next].end;
    }
  }
}

std::int64_t size_in(const json& value, const std::string& where) {
  check(value.is_number_unsigned() && value.get<std::uint64_t>() <= INT64_MAX,
        "{} names {}, which is no size", where,
        value.dump(-1, ' ', false, json::error_handler_t::replace));
  return value.get<std::int64_t>();
}

}  // namespace

const char* name_of(CheckpointArray array) {
  return array == CheckpointArray::values         ? "values"
         : array == CheckpointArray::first_moment ? "adam_m"
                                                  : "adam_v";
}

Stretch Stretch::of(const ParamSpec& spec, std::int64_t begin, std::int64_t end) {
  return {spec.whole_shape(), spec.part, spec.split() ? spec.shape[spec.part.dim] : 0, begin, end};
}

std::int64_t Stretch::part_size() const {
  return part.dim < 0 ? whole.size() : whole.with(part.dim, length).size();
}

std::int64_t copy_common(const Stretch& from, const std::byte* from_data, const Stretch& to,
                         std::byte* to_data, std::int64_t width) {
  const Rectangle a(from), b(to);
  std::int64_t rows_begin = std::max(a.row_begin, b.row_begin);
  std::int64_t rows_end = std::min(a.row_end, b.row_end);
  const std::int64_t left = std::max(a.column_begin, b.column_begin);
  const std::int64_t right = std::min(a.column_end, b.column_end);
  if (rows_begin >= rows_end || left >= right) return 0;
  // Rows that both have as a whole are one run; else each row is one.
  const bool whole_rows = a.column_begin == b.column_begin && a.column_end == b.column_end;
  const std::int64_t runs = whole_rows ? 1 : rows_end - rows_begin;
  const std::int64_t run = whole_rows ? (rows_end - rows_begin) * a.width() : right - left;
  std::int64_t copied = 0;
  for (std::int64_t i = 0; i < runs; ++i) {
    // Where the run begins, counted in each part.
    const std::int64_t in_a = (rows_begin + i - a.row_begin) * a.width() + left - a.column_begin;
    const std::int64_t in_b = (rows_begin + i - b.row_begin) * b.width() + left - b.column_begin;
    const std::int64_t first = std::max({std::int64_t{0}, from.begin - in_a, to.begin - in_b});
    const std::int64_t last = std::min({run, from.end - in_a, to.end - in_b});
    if (first >= last) continue;
    std::memcpy(to_data + (in_b + first - to.begin) * width,
                from_data + (in_a + first - from.begin) * width,
                static_cast<std::size_t>((last - first) * width));
    copied += last - first;
  }
  return copied;
}

void check_covered(std::vector<Stretch> stretches, const std::string& what) {
  check(!stretches.empty(), "{} has no piece", what);
  std::sort(stretches.begin(), stretches.end(), [](const Stretch& a, const Stretch& b) {
    return std::tuple(a.part.begin, a.length, a.begin) <
           std::tuple(b.part.begin, b.length, b.begin);
  });
  const Stretch& first = stretches.front();
  const std::int64_t along = first.part.dim < 0 ? 0 : first.whole[first.part.dim];
  std::int64_t part_end = 0;  // what lies before it along the dimension is covered
  std::int64_t at = 0;        // of the present part
  const Stretch* part = nullptr;
  const auto end_part = [&] {
    if (part) check(at == part->part_size(), "{}: elements from {} on are in no piece", what, at);
  };
  for (const Stretch& s : stretches) {
    check(s.part.dim == first.part.dim, "{} is cut along different dimensions", what);
    if (!part || s.part.begin != part->part.begin || s.length != part->length) {
      end_part();
      check(s.part.begin == part_end, "{}: parts overlap, or one is missing, at {}", what,
            std::min(s.part.begin, part_end));
      part_end += s.length;
      part = &s;
      at = 0;
    }
    check(s.begin == at, "{}: pieces overlap, or one is missing, at element {}", what,
          std::min(s.begin, at));
    at = s.end;
  }
  end_part();
  check(part_end == along, "{}: of {} there are only {}", what, along, part_end);
}

std::vector<Piece> pieces_to_write(Comm& replicas, bool first_of_model, const ParamStore& params,
                                   std::span<const OwnedRange> owned) {
  const std::vector<Share> shares = share_out(ranges_of_all(replicas, owned));
  check_all_shared(params, shares);
  std::vector<Piece> pieces;
  for (const CheckpointArray array : kCheckpointArrays)
    for (const OwnedRange& range : owned) {
      const Tensor& memory = array == CheckpointArray::values         ? range.master
                             : array == CheckpointArray::first_moment ? range.first_moment
                                                                      : range.second_moment;
      check(memory.size() == range.end - range.begin && memory.contiguous(),
            "the optimizer keeps {} elements for [{}, {})", memory.size(), range.begin, range.end);
      for (const Share& share : shares) {
        if (share.writer != replicas.rank() || share.begin >= range.end || share.end <= range.begin)
          continue;
        for (int i = 0; i < params.count(); ++i) {
          const ParamSpec& spec = params.spec(ParamId{i});
          if (!params.trained(ParamId{i}) || (!spec.split() && !first_of_model)) continue;
          const std::int64_t offset = params.offset(ParamId{i});
          std::int64_t begin = std::max({offset, share.begin, range.begin});
          const std::int64_t end = std::min({offset + spec.shape.size(), share.end, range.end});
          for (; begin < end; begin += kMostElements)
            pieces.push_back(
                {array, spec.name,
                 Stretch::of(spec, begin - offset, std::min(begin + kMostElements, end) - offset),
                 memory.dtype,
                 static_cast<std::byte*>(memory.data) +
                     (begin - range.begin) * size_of(memory.dtype),
                 ""});
        }
      }
    }
  return pieces;
}

std::string piece_text(const Piece& piece) {
  json whole = json::array();
  for (int i = 0; i < piece.stretch.whole.rank(); ++i) whole.push_back(piece.stretch.whole[i]);
  const Stretch& s = piece.stretch;
  json text = {{"array", name_of(piece.array)},
               {"parameter", piece.name},
               {"shape", whole},
               {"elements", {s.begin, s.end}},
               {"xxh3", piece.xxh3}};
  if (s.part.dim >= 0)
    text["part"] = {{"dim", s.part.dim}, {"begin", s.part.begin}, {"length", s.length}};
  return text.dump();
}

Piece parse_piece(const std::string& text, const std::string& where) {
  const json object = json::parse(text, nullptr, false);
  const auto has_text = [&](const char* key) {
    return object.contains(key) && object[key].is_string();
  };
  check(object.is_object() && has_text("array") && has_text("parameter") && has_text("xxh3") &&
            object.contains("shape") && object["shape"].is_array() && object.contains("elements") &&
            object["elements"].is_array() && object["elements"].size() == 2,
        "{} is no description of a piece", where);
  Piece piece;
  bool known = false;
  for (const CheckpointArray array : kCheckpointArrays)
    if (object["array"] == name_of(array)) {
      piece.array = array;
      known = true;
    }
  check(known, "{} is of an unknown array", where);
  piece.name = object["parameter"].get<std::string>();
  piece.xxh3 = object["xxh3"].get<std::string>();
  const json& dims = object["shape"];
  check(dims.size() >= 1 && dims.size() <= Shape::kMaxRank, "{} has {} dimensions", where,
        dims.size());
  std::int64_t d[Shape::kMaxRank] = {1, 1, 1, 1};
  for (std::size_t i = 0; i < dims.size(); ++i) d[i] = size_in(dims[i], where);
  Stretch& s = piece.stretch;
  s.whole = dims.size() == 1   ? Shape{d[0]}
            : dims.size() == 2 ? Shape{d[0], d[1]}
            : dims.size() == 3 ? Shape{d[0], d[1], d[2]}
                               : Shape{d[0], d[1], d[2], d[3]};
  static_cast<void>(s.whole.size());  // throws when it does not fit
  if (object.contains("part")) {
    const json& part = object["part"];
    check(part.is_object() && part.contains("dim") && part.contains("begin") &&
              part.contains("length"),
          "{} has a part without dim, begin or length", where);
    const std::int64_t dim = size_in(part["dim"], where);
    check(dim == 0 || (dim == 1 && s.whole.rank() == 2), "{} is cut along dimension {} of {}",
          where, dim, s.whole.text());
    s.part.dim = static_cast<int>(dim);
    s.part.begin = size_in(part["begin"], where);
    s.part.whole = s.whole[s.part.dim];
    s.length = size_in(part["length"], where);
    check(s.part.begin <= s.part.whole && s.length <= s.part.whole - s.part.begin,
          "{} is the part of {} from {} on of {}, which does not exist", where, s.length,
          s.part.begin, s.whole.text());
  }
  s.begin = size_in(object["elements"][0], where);
  s.end = size_in(object["elements"][1], where);
  check(s.begin <= s.end && s.end <= s.part_size(), "{} is the elements [{}, {}) of {}", where,
        s.begin, s.end, s.part_size());
  return piece;
}

std::uint64_t xxh3_of(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string xxh3_text(std::span<const std::byte> bytes) {
  return fmt::format("{:016x}", xxh3_of(bytes));
}

}  // namespace t2r

// metrics.jsonl across resumes, progress text, TensorBoard files parsed back, energy counters.
#include "core/train/metrics.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/train/machine.h"
#include "core/train/tensorboard.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

TEST(Metrics, ResumeCutsWhatIsTrainedAgain) {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  {
    MetricsFile file(path, 0);
    for (int step = 1; step <= 5; ++step) file.append({{"step", step}, {"loss", 0.1 * step}});
  }
  put(path, get(path) + "{\"step\": 6, \"lo");  // killed while writing
  {
    MetricsFile file(path, 3);
    file.append({{"step", 4}, {"loss", 7}});
  }
  std::istringstream lines(get(path));
  std::vector<int> steps;
  for (std::string line; std::getline(lines, line);)
    steps.push_back(nlohmann::json::parse(line)["step"]);
  EXPECT_EQ(steps, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(nlohmann::json::parse(get(path).substr(0, get(path).find('\n')))["loss"], 0.1);
  { MetricsFile anew(path, 0); }
  EXPECT_EQ(get(path), "");
}

TEST(Metrics, TextForPeople) {
  EXPECT_EQ(duration_text(0.4), "0 s");
  EXPECT_EQ(duration_text(75), "1 min 15 s");
  EXPECT_EQ(duration_text(3600 * 5 + 60 * 7), "5 h 7 min");
  EXPECT_EQ(duration_text(86400 * 2 + 3600), "2 d 1 h");
  EXPECT_EQ(duration_text(std::nan("")), "unknown time");
  const std::string text = progress_text({.step = 120,
                                          .total_steps = 1000,
                                          .loss = 3.4124,
                                          .tokens_per_second = 1234567,
                                          .flops_per_second = 2e11,
                                          .peak_flops_per_second = 4e11,
                                          .seconds_left = 180});
  EXPECT_EQ(
      text,
      "step 120/1000  loss 3.4124  1,234,567 tokens/s  200.0 GFLOP/s (50% of peak)  3 min 0 s "
      "left");
}

// A reader of event files that shares nothing with the writer.
struct Event {
  double wall_time = 0;
  std::int64_t step = 0;
  std::string version, tag;
  float value = 0;
  bool restart = false;
};

class Protobuf {
 public:
  explicit Protobuf(std::string_view bytes) : bytes_(bytes) {}
  bool next() {
    if (at_ >= bytes_.size()) return false;
    const std::uint64_t key = varint();
    field = static_cast<int>(key >> 3);
    const int type = key & 7;
    if (type == 0) number = varint();
    if (type == 1) take(8);
    if (type == 2) take(varint());
    if (type == 5) take(4);
    return true;
  }
  int field = 0;
  std::uint64_t number = 0;
  std::string_view content;

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_.at(at_++));
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }
  void take(std::size_t n) {
    EXPECT_LE(at_ + n, bytes_.size());
    content = bytes_.substr(at_, n);
    at_ += n;
  }
  std::string_view bytes_;
  std::size_t at_ = 0;
};

template <class T>
T read_as(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

std::vector<Event> read_events(const std::string& path) {
  const std::string bytes = get(path);
  std::vector<Event> events;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::string_view rest = std::string_view(bytes).substr(at);
    const auto length = read_as<std::uint64_t>(rest);
    EXPECT_EQ(read_as<std::uint32_t>(rest.substr(8)), masked_crc32c(rest.substr(0, 8)));
    EXPECT_EQ(read_as<std::uint32_t>(rest.substr(12 + length)),
              masked_crc32c(rest.substr(12, length)));
    Event event;
    for (Protobuf p(rest.substr(12, length)); p.next();) {
      if (p.field == 1) event.wall_time = read_as<double>(p.content);
      if (p.field == 2) event.step = static_cast<std::int64_t>(p.number);
      if (p.field == 3) event.version = p.content;
      if (p.field == 7) event.restart = p.content == std::string_view("\x08\x01", 2);
      if (p.field != 5) continue;
      for (Protobuf summary(p.content); summary.next();)
        for (Protobuf value(summary.content); value.next();) {
          if (value.field == 1) event.tag = value.content;
          if (value.field == 2) event.value = read_as<float>(value.content);
        }
    }
    events.push_back(event);
    at += 16 + length;
  }
  return events;
}

TEST(TensorBoard, Crc32cOfKnownText) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the check value of the polynomial
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
}

TEST(TensorBoard, FilesParseBack) {
  const TemporaryFolder folder;
  std::string path;
  {
    TensorBoardWriter writer(folder / "events", 0);
    path = writer.path();
    writer.scalar("train/loss", 1, 2.5);
    writer.scalar("train/loss", 300, -0.125);
    writer.flush();
    writer.scalar(std::string(200, 'x'), std::int64_t{1} << 40, 1e30);  // two-byte lengths
  }
  const auto events = read_events(path);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].tag, "train/loss");
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[1].value, 2.5f);
  EXPECT_GT(events[1].wall_time, 1.6e9);
  EXPECT_EQ(events[2].step, 300);
  EXPECT_EQ(events[2].value, -0.125f);
  EXPECT_EQ(events[3].tag, std::string(200, 'x'));
  EXPECT_EQ(events[3].step, std::int64_t{1} << 40);
  EXPECT_EQ(events[3].value, 1e30f);
}

TEST(TensorBoard, AResumedRunTellsWhereItStarts) {
  const TemporaryFolder folder;
  TensorBoardWriter first(folder / "events", 0), second(folder / "events", 42);
  EXPECT_NE(first.path(), second.path());
  const auto events = read_events(second.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(events[1].restart);
  EXPECT_EQ(events[1].step, 43);
}

TEST(Energy, CountersAreSummedAndWrap) {
  const TemporaryFolder folder;
  const auto counter = [&](const std::string& name, double value) {
    std::filesystem::create_directories(folder / name);
    put(folder / (name + "/energy_uj"), std::to_string(static_cast<long long>(value)) + "\n");
    put(folder / (name + "/max_energy_range_uj"), "10000000\n");
  };
  EXPECT_FALSE(EnergyMeter(folder / "nothing").available());
  EXPECT_FALSE(EnergyMeter(folder / "nothing").joules().has_value());
  counter("intel-rapl:0", 9e6);
  counter("intel-rapl:1", 1e6);
  counter("intel-rapl:0:0", 5e6);     // a part of package 0
  counter("intel-rapl-mmio:0", 5e6);  // package 0 by another way
  EnergyMeter meter(folder.path());
  EXPECT_EQ(meter.joules(), 0.0);
  counter("intel-rapl:0", 2e6);  // wrapped: 1 + 2 J
  counter("intel-rapl:1", 1.5e6);
  counter("intel-rapl:0:0", 9e6);
  EXPECT_NEAR(*meter.joules(), 3.5, 1e-9);
  counter("intel-rapl:1", 2e6);
  EXPECT_NEAR(*meter.joules(), 4.0, 1e-9);
}

TEST(Machine, MeasuresSomething) {
  for (DType dtype : {DType::f32, DType::bf16}) EXPECT_GT(measure_gemm_rate(dtype, 0.01), 1e8);
  EXPECT_GT(peak_memory_bytes(), 1 << 20);
  EXPECT_GT(machine_memory_bytes(), 1 << 20);
}

}  // namespace
}  // namespace t2r

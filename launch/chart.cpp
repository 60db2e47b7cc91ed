#include "launch/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace t2r {
namespace {

using Points = std::vector<std::pair<double, double>>;

constexpr double kWidth = 640, kHeight = 340;
constexpr double kLeft = 62, kRight = 14, kTop = 34, kBottom = 46, kLegendLine = 16;
constexpr std::size_t kMostPoints = 400;

/// One axis: values to a place in [begin, end] of the picture.
struct Axis {
  double low, high, begin, end;
  bool log;

  double scaled(double value) const { return log ? std::log10(value) : value; }
  double place(double value) const {
    return begin + (scaled(value) - scaled(low)) / (scaled(high) - scaled(low)) * (end - begin);
  }
};

/// About `wanted` round values inside [low, high].
std::vector<double> ticks(const Axis& axis, int wanted) {
  std::vector<double> result;
  if (axis.log && axis.high / axis.low >= 8) {
    const bool dense = axis.high / axis.low < 100;
    for (double decade = std::pow(10, std::floor(std::log10(axis.low))); decade <= axis.high;
         decade *= 10)
      for (const double factor : {1.0, 2.0, 5.0})
        if ((dense || factor == 1.0) && decade * factor >= axis.low * 0.999 &&
            decade * factor <= axis.high * 1.001)
          result.push_back(decade * factor);
    return result;
  }
  const double raw = (axis.high - axis.low) / wanted;
  const double unit = std::pow(10, std::floor(std::log10(raw)));
  const double step = unit * (raw / unit > 5 ? 10 : raw / unit > 2 ? 5 : raw / unit > 1 ? 2 : 1);
  for (double value = std::ceil(axis.low / step - 1e-9) * step; value <= axis.high + step * 1e-9;
       value += step)
    result.push_back(std::abs(value) < step * 1e-9 ? 0 : value);
  return result;
}

/// The points that can be drawn, averaged in runs so that at most kMostPoints are left.
Points drawable(const Chart& chart, const Points& points) {
  Points kept;
  for (const auto& [x, y] : points)
    if (std::isfinite(x) && std::isfinite(y) && (!chart.log_x || x > 0) && (!chart.log_y || y > 0))
      kept.emplace_back(x, y);
  if (kept.size() <= kMostPoints) return kept;
  Points thinned;
  for (std::size_t part = 0; part < kMostPoints; ++part) {
    const std::size_t begin = kept.size() * part / kMostPoints;
    const std::size_t end = kept.size() * (part + 1) / kMostPoints;
    double x = 0, y = 0;
    for (std::size_t i = begin; i < end; ++i) {
      x += kept[i].first;
      y += kept[i].second;
    }
    const auto count = static_cast<double>(end - begin);
    thinned.emplace_back(x / count, y / count);
  }
  return thinned;
}

Axis make_axis(double low, double high, double begin, double end, bool log, bool from_zero) {
  if (from_zero && !log && low > 0 && low < 0.3 * high) low = 0;
  if (low == high) {
    low = log ? low / 2 : low - 0.5;
    high = log ? high * 2 : high + 0.5;
  }
  const double margin = log ? 0 : (high - low) * 0.04;
  return {low == 0 ? 0 : low - margin, high + margin, begin, end, log};
}

std::string grid(const Axis& x, const Axis& y) {
  std::string svg;
  for (const double value : ticks(x, 6))
    svg += fmt::format(
        R"(<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/><text x="{0:.1f}" y="{3}" text-anchor="middle">{4}</text>)",
        x.place(value), y.begin, y.end, y.begin + 15, short_number(value));
  for (const double value : ticks(y, 5))
    svg += fmt::format(
        R"(<line class="grid" x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}"/><text x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>)",
        y.place(value), x.begin, x.end, x.begin - 6, y.place(value) + 4, short_number(value));
  return svg;
}

std::string line(const Series& series, const Points& points, const Axis& x, const Axis& y) {
  std::string path, marks;
  for (const auto& [px, py] : points) {
    path += fmt::format("{:.1f},{:.1f} ", x.place(px), y.place(py));
    if (series.marks)
      marks += fmt::format(
          R"(<circle class="c{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {} at {}</title></circle>)",
          series.color, x.place(px), y.place(py), html_escape(series.name), short_number(py),
          short_number(px));
  }
  return fmt::format(R"(<polyline class="c{}{}" points="{}"/>)", series.color,
                     series.thin ? " thin" : "", path) +
         marks;
}

}  // namespace

std::string html_escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&')
      escaped += "&amp;";
    else if (c == '<')
      escaped += "&lt;";
    else if (c == '>')
      escaped += "&gt;";
    else if (c == '"')
      escaped += "&quot;";
    else
      escaped += c;
  }
  return escaped;
}

std::string short_number(double value) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P", "E"};
  std::size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g}{}", value, kUnits[unit]);
}

std::string svg_chart(const Chart& chart) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<Points> lines;
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  int listed = 0;
  for (const Series& series : chart.series) {
    lines.push_back(drawable(chart, series.points));
    for (const auto& [x, y] : lines.back()) {
      x_low = std::min(x_low, x);
      x_high = std::max(x_high, x);
      y_low = std::min(y_low, y);
      y_high = std::max(y_high, y);
    }
    if (!lines.back().empty() && !series.name.empty()) ++listed;
  }
  if (x_low > x_high) return {};

  const int legend_rows = (listed + 2) / 3;
  const double bottom = kHeight - kBottom;
  const double height = kHeight + 6 + legend_rows * kLegendLine;
  const Axis x = make_axis(x_low, x_high, kLeft, kWidth - kRight, chart.log_x, true);
  const Axis y = make_axis(y_low, y_high, bottom, kTop, chart.log_y, true);

  std::string svg = fmt::format(
      R"(<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><text class="title" x="{}" y="18">{}</text>)",
      kWidth, height, html_escape(chart.title), kLeft, html_escape(chart.title));
  svg += grid(x, y);
  svg += fmt::format(
      R"svg(<text x="{}" y="{}" text-anchor="middle">{}</text><text transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>)svg",
      (kLeft + kWidth - kRight) / 2, bottom + 33, html_escape(chart.x_label), (kTop + bottom) / 2,
      html_escape(chart.y_label));
  int entry = 0;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Series& series = chart.series[i];
    if (lines[i].empty()) continue;
    svg += line(series, lines[i], x, y);
    if (series.name.empty()) continue;
    const double at_x = kLeft + (entry % 3) * (kWidth - kLeft) / 3;
    const double at_y = kHeight + 6 + (entry / 3) * kLegendLine;
    svg +=
        fmt::format(R"(<polyline class="c{}" points="{},{} {},{}"/><text x="{}" y="{}">{}</text>)",
                    series.color, at_x, at_y - 4, at_x + 18, at_y - 4, at_x + 24, at_y,
                    html_escape(series.name));
    ++entry;
  }
  return svg + "</svg>\n";
}

std::string chart_css() {
  // Okabe and Ito's palette, which colour-blind readers can tell apart; lighter on dark pages.
  static constexpr const char* kLight[kChartColors] = {"#0072b2", "#d55e00", "#009e73", "#b5508a",
                                                       "#8a6d00", "#2f9fd0", "#555555", "#7a3db8"};
  static constexpr const char* kDark[kChartColors] = {"#56a9e8", "#ff8b4d", "#3fcf9f", "#e394c4",
                                                      "#d9bd3c", "#8fd3f5", "#b5b5b5", "#bd93f0"};
  std::string css =
      ".chart{width:100%;max-width:760px;display:block;margin:1.2em 0}"
      ".chart text{font:12px system-ui,sans-serif;fill:currentColor}"
      ".chart text.title{font-weight:600;font-size:14px}"
      ".chart .grid{stroke:currentColor;stroke-opacity:.15}"
      ".chart polyline{fill:none;stroke-width:2}"
      ".chart polyline.thin{stroke-width:1;stroke-opacity:.45}\n";
  for (int i = 0; i < kChartColors; ++i)
    css += fmt::format(".chart polyline.c{0}{{stroke:{1}}}.chart circle.c{0}{{fill:{1}}}\n", i,
                       kLight[i]);
  css += "@media (prefers-color-scheme:dark){\n";
  for (int i = 0; i < kChartColors; ++i)
    css += fmt::format(".chart polyline.c{0}{{stroke:{1}}}.chart circle.c{0}{{fill:{1}}}\n", i,
                       kDark[i]);
  return css + "}\n";
}

}  // namespace t2r

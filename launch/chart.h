// Line charts as SVG text for the report: no program or library is needed to draw or to read them.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace t2r {

struct Series {
  std::string name;  // in the legend; empty: not listed there
  int color = 0;     // index into the page's palette: class "c0", "c1", ...
  bool thin = false;
  bool marks = false;                             // a dot a point, with its values as a tooltip
  std::vector<std::pair<double, double>> points;  // (x, y), x ascending
};

struct Chart {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<Series> series;
};

/// Colours of the page's palette.
constexpr int kChartColors = 8;

/// An <svg> element that scales to its container. Points that are not finite, or not positive on a
/// logarithmic axis, are left out; long series are averaged down. Empty when nothing is left.
std::string svg_chart(const Chart& chart);

/// CSS that the charts need, for light and dark pages.
std::string chart_css();

/// `text` with the characters escaped that HTML gives a meaning.
std::string html_escape(const std::string& text);

/// A number for a person: 1234567 is "1.23M", 0.0213 is "0.0213".
std::string short_number(double value);

}  // namespace t2r

// The report as one HTML file: charts are SVG inside it, so that it opens anywhere, also offline.
#include <fmt/format.h>

#include <cmath>

#include "launch/chart.h"
#include "launch/report_data.h"

namespace t2r {
namespace {

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f}%", 100 * *share) : std::string("-");
}

std::string joules_and_price(const ReportRun& run) {
  std::string text;
  if (run.joules) text += short_number(*run.joules) + " J";
  if (run.price) text += (text.empty() ? "" : ", ") + short_number(*run.price);
  return text.empty() ? "-" : text;
}

std::string cells(const char* tag, const std::vector<std::string>& values) {
  std::string row = "<tr>";
  for (const std::string& value : values)
    row += fmt::format("<{0}>{1}</{0}>", tag, html_escape(value));
  return row + "</tr>\n";
}

std::string runs_table(const Report& report) {
  const bool with_words = !report.runs.empty() && !report.runs[0].quality.empty() &&
                          report.runs[0].quality[0].perplexity_per_word.has_value();
  std::vector<std::string> head = {"run", "attention", "start", "parameters"};
  for (const SplitQuality& quality :
       report.runs.empty() ? std::vector<SplitQuality>{} : report.runs[0].quality) {
    head.push_back(quality.split + " loss");
    head.push_back("perplexity / token");
    if (with_words) head.push_back("perplexity / word");
  }
  const bool translated = has_scores(report);
  if (translated) head.insert(head.end(), {"BLEU", "chrF"});
  for (const char* name : {"to teacher", "tokens", "FLOPs", "rank-seconds", "cost share (FLOPs)",
                           "(tokens)", "(rank-seconds)", "energy, price"})
    head.emplace_back(name);
  std::string html = "<div class=wide><table>\n" + cells("th", head);
  for (const ReportRun& run : report.runs) {
    std::vector<std::string> row = {run.name, run.attention, run.start,
                                    short_number(static_cast<double>(run.parameters))};
    for (std::size_t i = 0; i < report.runs[0].quality.size(); ++i) {
      if (i >= run.quality.size()) {
        row.insert(row.end(), with_words ? 3 : 2, "-");
        continue;
      }
      const SplitQuality& quality = run.quality[i];
      row.push_back(fmt::format("{:.4f}", quality.loss));
      row.push_back(fmt::format("{:.3f}", quality.perplexity_per_token));
      if (with_words)
        row.push_back(quality.perplexity_per_word ? short_number(*quality.perplexity_per_word)
                                                  : "-");
    }
    if (translated)
      for (const auto& score : {run.bleu, run.chrf})
        row.push_back(score ? fmt::format("{:.2f}", *score) : "-");
    const std::optional<double> gap = gap_to_teacher(report, run);
    row.push_back(gap ? fmt::format("{:+.4f}", *gap) : std::string("-"));
    row.push_back(short_number(run.tokens));
    row.push_back(short_number(run.flops));
    row.push_back(fmt::format("{:.1f}", run.rank_seconds));
    row.push_back(percent(cost_share(report, &ReportRun::flops, run)));
    row.push_back(percent(cost_share(report, &ReportRun::tokens, run)));
    row.push_back(percent(cost_share(report, &ReportRun::rank_seconds, run)));
    row.push_back(joules_and_price(run));
    html += cells("td", row);
  }
  return html + "</table></div>\n";
}

/// Loss against `x` (a member of CurvePoint): training thin, validation in front of it.
std::string loss_chart(const Report& report, double CurvePoint::*x, const std::string& label) {
  Chart chart{.title = "Loss against " + label,
              .x_label = label,
              .y_label = "nats a token",
              .log_x = false,
              .log_y = false,
              .series = {}};
  for (std::size_t i = 0; i < report.runs.size(); ++i) {
    const ReportRun& run = report.runs[i];
    const int color = static_cast<int>(i) % kChartColors;
    const bool validated = !run.validation.empty();
    Series training{.name = validated ? "" : run.name,
                    .color = color,
                    .thin = validated,
                    .marks = false,
                    .points = {}};
    for (const CurvePoint& point : run.training) training.points.emplace_back(point.*x, point.loss);
    Series validation{.name = run.name, .color = color, .thin = false, .marks = true, .points = {}};
    for (const CurvePoint& point : run.validation)
      validation.points.emplace_back(point.*x, point.loss);
    chart.series.push_back(std::move(training));
    chart.series.push_back(std::move(validation));
  }
  return svg_chart(chart);
}

std::string decoding_chart(const Report& report, double DecodingPoint::*y, const std::string& title,
                           const std::string& label) {
  Chart chart{.title = title,
              .x_label = "length (tokens)",
              .y_label = label,
              .log_x = true,
              .log_y = true,
              .series = {}};
  for (std::size_t i = 0; i < report.runs.size(); ++i) {
    Series series{.name = report.runs[i].name,
                  .color = static_cast<int>(i) % kChartColors,
                  .thin = false,
                  .marks = true,
                  .points = {}};
    for (const DecodingPoint& point : report.decoding)
      if (point.name == series.name)
        series.points.emplace_back(static_cast<double>(point.length), point.*y);
    chart.series.push_back(std::move(series));
  }
  return svg_chart(chart);
}

std::string decoding_table(const Report& report) {
  std::string html = "<div class=wide><table>\n" +
                     cells("th", {"run", "length", "tokens / second", "state bytes a sequence"});
  for (const DecodingPoint& point : report.decoding)
    html += cells("td", {point.name, std::to_string(point.length),
                         fmt::format("{:.0f}", point.tokens_per_second),
                         fmt::format("{:.0f}", point.state_bytes)});
  return html + "</table></div>\n";
}

std::string operations_section(const Report& report) {
  std::string html = "<h2>Operations of a network pass</h2>\n";
  for (const ReportRun& run : report.runs) {
    if (run.operations.empty()) continue;
    double forward = 0, backward = 0;
    for (const OperationCost& operation : run.operations) {
      forward += operation.forward;
      backward += operation.backward;
    }
    html += fmt::format(
        "<details><summary>{}: {} FLOPs forward, {} backward, one sequence of {} tokens</summary>\n"
        "<table>\n",
        html_escape(run.name), short_number(forward), short_number(backward), run.sequence_length);
    html += cells("th", {"operation", "forward FLOPs", "backward FLOPs"});
    for (const OperationCost& operation : run.operations)
      html += cells("td", {operation.name, short_number(operation.forward),
                           short_number(operation.backward)});
    html += "</table></details>\n";
  }
  return html;
}

}  // namespace

std::string report_html(const Report& report) {
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<title>t2r report</title>\n<style>\n"
      ":root{color-scheme:light dark;--page:#fff;--ink:#1a1a1a;--line:#d5d5d5}\n"
      "@media (prefers-color-scheme:dark){:root{--page:#15181c;--ink:#e4e4e4;--line:#3a3f45}}\n"
      "body{background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif;"
      "max-width:1100px;margin:2em auto;padding:0 1em}\n"
      ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;"
      "font-size:14px}th,td{padding:.3em .7em;border-bottom:1px solid var(--line);"
      "text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}\n"
      "summary{cursor:pointer;margin:.4em 0}\n" +
      chart_css() + "</style></head><body>\n<h1>t2r report</h1>\n";
  for (const std::string& sentence : report_conclusions(report))
    html += "<p>" + html_escape(sentence) + "</p>\n";
  html += runs_table(report);
  if (report.baseline >= 0)
    html += fmt::format(
        "<p>Cost shares are of the run <b>{}</b>; a converted run's cost is its "
        "finetuning alone.</p>\n",
        html_escape(report.runs[static_cast<std::size_t>(report.baseline)].name));
  html += "<h2>Loss</h2>\n<p>Dots: validation. Thin lines: training.</p>\n";
  html += loss_chart(report, &CurvePoint::tokens, "tokens");
  html += loss_chart(report, &CurvePoint::flops, "FLOPs");
  if (!report.decoding.empty()) {
    html += fmt::format("<h2>Decoding</h2>\n<p>{} sequence{} at once.</p>\n", report.decoding_batch,
                        report.decoding_batch == 1 ? "" : "s");
    html += decoding_chart(report, &DecodingPoint::tokens_per_second,
                           "Decoding speed against length", "tokens / second");
    html += decoding_chart(report, &DecodingPoint::state_bytes,
                           "Memory of a sequence against length", "bytes");
    html += decoding_table(report);
  }
  html += operations_section(report);
  return html + "</body></html>\n";
}

}  // namespace t2r

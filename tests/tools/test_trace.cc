// SPDX-License-Identifier: Apache-2.0
// Timelines: what is written is read again, numbers are right on one that was computed by hand, and the command from outside.
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "support/catch.h"
#include "support/errors.h"
#include "support/fixture_model.h"
#include "support/process.h"
#include "support/temp_dir.h"
#include "tools/time_text.h"
#include "tools/timeline.h"
#include "tools/timeline_chart.h"
#include "tools/timeline_svg.h"
#include "tools/trace_file.h"

using namespace flexgen;
using namespace flexgen::tools;
using flexgen::testing::run_flexgen;
using flexgen::testing::RunResult;
using flexgen::testing::TempDir;
using Kind = TraceEvent::Kind;
using Json = nlohmann::json;

namespace {

std::string written(const Trace& trace) {
  std::string text;
  write_trace(trace, [&](std::string_view part) { text += part; });
  return text;
}

// 100 us: reads [0, 40) and [20, 60) and [60, 70), computing [50, 90), waiting [0, 50) for the disk and [90, 100) for a slot
void record_small(Trace& t) {
  const int64_t origin = 5'000'000'000'000;
  const auto add = [&](Kind kind, const char* what, int64_t from_us, int64_t to_us, uint64_t bytes, int32_t layer = -1, int32_t micro_batch = -1) {
    t.add({kind, what, layer, micro_batch, bytes, origin + from_us * 1000, origin + to_us * 1000});
  };
  add(Kind::read, "weights", 0, 40, 4000, 0);
  add(Kind::wait, "disk", 0, 50, 0);
  add(Kind::read, "weights", 20, 60, 4000, 1);
  add(Kind::read, "kv", 60, 70, 1000, 1, 2);
  add(Kind::compute, "fc1", 50, 90, 0, 3);
  add(Kind::wait, "slot", 90, 100, 0);
}

std::string events(const std::string& rows_and_events) { return "{\"traceEvents\":[" + rows_and_events + "]}"; }
const std::string kRow = R"({"ph":"M","tid":1,"name":"thread_name","args":{"name":"compute"}})";

}  // namespace

TEST_CASE("a trace that is written is read again", "[tools]") {
  Trace trace;
  record_small(trace);
  const std::string text = written(trace);
  const Json j = Json::parse(text);  // an independent reader takes it
  CHECK(j.at("otherData") == Json({{"format", "flexgen trace 1"}, {"events", 6}, {"dropped", 0}}));
  CHECK(j.at("traceEvents").size() == 6 + 1 + 2 * 4);
  const Timeline t = parse_timeline(text, "t");
  REQUIRE(t.rows.size() == 4);
  CHECK(t.rows[0].name == "compute");
  CHECK(t.rows[1].name == "wait");
  CHECK(t.rows[2].name == "read 1");
  CHECK(t.rows[3].name == "read 2");
  CHECK(t.end_ns == 100'000);
  CHECK(t.dropped == 0);
  REQUIRE(t.rows[2].events.size() == 2);
  const TimelineEvent& kv = t.rows[2].events[1];
  CHECK(t.names[kv.name] == "kv");
  CHECK(kv.start_ns == 60'000);
  CHECK(kv.end_ns == 70'000);
  CHECK(kv.bytes == 1000);
  CHECK(kv.layer == 1);
  CHECK(kv.micro_batch == 2);
  CHECK(t.rows[0].events[0].micro_batch == -1);
}

TEST_CASE("a trace says what was dropped; an empty one is a trace", "[tools]") {
  Trace trace(1);
  for (size_t i = 0; i < Trace::kChunkEvents + 3; ++i) trace.add({.what = "x", .start_ns = 7, .end_ns = 7});
  CHECK(parse_timeline(written(trace), "t").dropped == 3);
  const Timeline none = parse_timeline(written(Trace()), "t");
  CHECK(none.rows.empty());
  CHECK(none.end_ns == 0);
}

TEST_CASE("events that overlap get as few rows as there are at a time", "[tools]") {
  Trace trace;
  for (int64_t i = 0; i < 1000; ++i) trace.add({Kind::read, "weights", -1, -1, 1, i * 10, i * 10 + 75});
  const Timeline t = parse_timeline(written(trace), "t");
  CHECK(t.rows.size() == 8);
  size_t n = 0;
  for (const TimelineRow& r : t.rows) n += r.events.size();
  CHECK(n == 1000);
}

TEST_CASE("numbers of a timeline: busy, waited, hidden", "[tools]") {
  Trace trace;
  record_small(trace);
  const Timeline t = parse_timeline(written(trace), "t");
  const TimelineSummary s = summarize(t, {0, t.end_ns});
  CHECK(s.elapsed_ns == 100'000);
  CHECK(s.kind(Kind::read).busy_ns == 70'000);
  CHECK(s.kind(Kind::read).sum_ns == 90'000);
  CHECK(s.kind(Kind::read).bytes == 9000);
  CHECK(s.kind(Kind::compute).busy_ns == 40'000);
  CHECK(s.reading_hidden_ns == 20'000);  // [50, 70)
  CHECK(s.hidden_share() == Approx(2.0 / 7));
  CHECK(s.disk_ns == 70'000);
  CHECK(s.wait_ns == std::map<std::string, int64_t>{{"disk", 50'000}, {"slot", 10'000}});
  const std::string words = timeline_conclusion(s);
  CHECK_THAT(words, Catch::Contains("computing 40.0%, disk busy 70.0%") && Catch::Contains("28.6% of the reading was hidden behind computing"));
  CHECK_THAT(words, Catch::Contains("Waited 0.000 s for disk (50.0%), 0.000 s for slot (10.0%)"));

  const TimelineSummary part = summarize(t, {55'000, 65'000});
  CHECK(part.kind(Kind::read).busy_ns == 10'000);
  CHECK(part.kind(Kind::read).bytes == 1000);  // an eighth of 4000 and half of 1000
  CHECK(part.reading_hidden_ns == 10'000);
  CHECK(part.wait_ns.empty());
  CHECK(summarize(t, {0, 10'000}).hidden_share() == 0);
}

TEST_CASE("copies to and from a device have rows, numbers and a sentence of their own", "[tools]") {
  Trace trace;
  record_small(trace);
  const int64_t origin = 5'000'000'000'000;
  trace.add({Kind::copy_in, "weights", 0, -1, 20'000, origin + 40'000, origin + 50'000});
  trace.add({Kind::copy_in, "weights", 1, -1, 20'000, origin + 50'000, origin + 70'000});
  trace.add({Kind::copy_out, "kv", 1, 2, 5'000, origin + 45'000, origin + 50'000});
  const Timeline t = parse_timeline(written(trace), "t");
  REQUIRE(t.rows.size() == 6);
  CHECK(t.rows[4].name == "copy_in");
  CHECK(t.rows[5].name == "copy_out");
  const TimelineSummary s = summarize(t, {0, t.end_ns});
  CHECK(s.kind(Kind::copy_in).busy_ns == 30'000);
  CHECK(s.kind(Kind::copy_in).bytes == 40'000);
  CHECK(s.disk_ns == 70'000);
  CHECK_THAT(timeline_conclusion(s), Catch::Contains("\nCopying to the device 30.0% at 1.33 GB/s, from the device 5.0% at 1.00 GB/s.\n"));
  CHECK_THAT(timeline_svg(t, {0, t.end_ns}, "t"), Catch::Contains(">copying in 30.0%<") && Catch::Contains(">copying out 5.0%<"));
}

TEST_CASE("a chart has a line a row, shaded by share, and an axis", "[tools]") {
  Trace trace;
  record_small(trace);
  const Timeline t = parse_timeline(written(trace), "t");
  CHECK(timeline_chart(t, {0, t.end_ns}, {.width = 30, .ascii = true}) ==
        "compute |           ########  \n"
        "   wait | ##########        ##\n"
        " read 1 | ########    ##      \n"
        " read 2 |     ########        \n"
        "          +-------------------\n"
        "          0\n");
  CHECK_THAT(timeline_chart(t, {0, t.end_ns}, {.width = 30, .colour = true}),
             Catch::Contains("│ \x1b[32m") && Catch::Contains("████") && Catch::Contains("┴──"));
  CHECK(axis_label(0, 5) == "0");
  CHECK(axis_label(1'250'000, 250'000) == "1.25 ms");
  CHECK(axis_label(2'000'000'000, 500'000'000) == "2.0 s");
  CHECK(axis_label(40'000, 20'000) == "40 us");
  CHECK(axis_step({0, 1000}, 10) == 100);
  CHECK(axis_step({0, 1001}, 10) == 100);
  CHECK(axis_step({0, 1300}, 10) == 200);
}

TEST_CASE("an SVG draws what is wide enough and melts the rest; it stays small", "[tools]") {
  Trace trace;
  for (int64_t i = 0; i < 100'000; ++i) trace.add({Kind::compute, "fc1", static_cast<int32_t>(i), -1, 0, i * 1000, i * 1000 + 700});
  trace.add({Kind::wait, "<disk>", 3, 1, 0, 0, 50'000'000});
  const Timeline t = parse_timeline(written(trace), "t");
  const std::string svg = timeline_svg(t, {0, t.end_ns}, "a & b");
  CHECK(svg.size() < 200'000);
  CHECK_THAT(svg, Catch::Contains(">a &amp; b<") && Catch::Contains("waited for &lt;disk&gt;, layer 3, micro-batch 1\n50.000 ms from 0.000 ms on"));
  CHECK_THAT(svg, Catch::Contains("short events, 70% busy</title>") && !Catch::Contains("fc1"));
  const std::string close = timeline_svg(t, {1'000'000, 1'020'000}, "zoom");
  CHECK_THAT(close, Catch::Contains("<title>fc1, layer 1005\n0.001 ms from 1.005 ms on</title>") && Catch::Contains(">1.010 ms</text>"));
}

TEST_CASE("a file that is no trace is refused with its place", "[tools]") {
  const auto refused = [](const std::string& text, const std::string& message) {
    CHECK_FAULT(parse_timeline(text, "t.json"), Fault::checkpoint, message);
  };
  refused("", "t.json: invalid JSON at byte 0");
  refused("[]", "t.json: found a list, allowed an object with traceEvents");
  refused("7", "t.json: found a number, allowed an object with traceEvents");
  refused("{}", "t.json: traceEvents is missing, so this is no trace of flexgen generate --trace");
  refused("{\"traceEvents\":{}}", "t.json: traceEvents: found an object, which it cannot be");
  refused("{\"traceEvents\":[], \"traceEvents\":[]}", "t.json: 'traceEvents' is given twice");
  refused("{\"traceEvents\":[1]}", "t.json: event 0 near byte 17: found a number, allowed an object");
  refused(events("{\"ph\":\"X\""), "t.json: invalid JSON at byte 25");
  refused(events("{}"), "event 0 near byte 17: ph is missing");
  refused(events("{\"ph\":\"X\"}"), "name is missing");
  refused(events(R"({"ph":"B","name":"x"})"), "ph: found another phase, allowed M or X");
  refused(events(R"({"ph":"M","name":"x"})"), "name: found 'x', allowed process_name, thread_name or thread_sort_index");
  refused(events(R"({"ph":"M","tid":1,"name":"thread_name"})"), "args.name is missing");
  refused(events(R"({"ph":"M","tid":1,"name":"thread_name","args":{"name":"gpu"}})"),
          "row name: found 'gpu', allowed compute, wait, verify, read, write, copy_in, copy_out, perhaps with a number");
  refused(events(R"({"ph":"M","tid":1,"name":"thread_name","args":{"name":"read x"}})"), "row name: found 'read x'");
  refused(events(kRow + "," + kRow), "event 1 near byte 146: row 1 is named twice");
  refused(events(R"({"ph":"X","tid":1,"ts":0,"dur":1,"name":"x"})"), "tid: found 1, allowed a row that was named before");
  refused(events(R"({"ph":"X","tid":1,"ts":0,"name":"x"})"), "dur is missing");
  refused(events(R"({"ph":"X","tid":1,"tid":1,"ts":0,"dur":1,"name":"x"})"), "'tid' is given twice");
  refused(events(kRow + R"(,{"ph":"X","tid":1,"ts":-1,"dur":1,"name":"x"})"),
          "event 1 near byte 107: ts: found -1, allowed microseconds from 0 to 4000000000000");
  refused(events(kRow + R"(,{"ph":"X","tid":1,"ts":"0","dur":1,"name":"x"})"), "ts: found a string, which it cannot be");
  refused(events(kRow + R"(,{"ph":"X","tid":1,"ts":0,"dur":1,"name":"x","args":{"layer":1.5}})"),
          "layer: found 1.5, allowed a whole number from 0 to 2147483647");
  refused(events(kRow + R"(,{"ph":"X","tid":1,"ts":0,"dur":1,"name":""})"), "name: found '', allowed 1 to 64 bytes of text");
  refused(events(kRow + R"(,{"ph":"X","tid":1,"ts":0,"dur":1,"name":"\u001b[2J"})"), "name: found '\\x1b[2J', allowed 1 to 64 bytes of text");
  refused(events(kRow + R"(,{"ph":"X","tid":1,"ts":5,"dur":9,"name":"a"},{"ph":"X","tid":1,"ts":0,"dur":6,"name":"b"})"),
          "row 'compute': the event at 5.000 us begins before the one before it has ended");
  refused("{\"x\":" + std::string(40, '[') + std::string(40, ']') + "}", "JSON is nested deeper than 32 levels");
  refused("{\"x\":\"\xff\"}", "invalid UTF-8 at byte 6");
  CHECK_FAULT(parse_timeline(events(kRow + R"(,{"ph":"X","tid":1,"ts":0,"dur":1,"name":"a"},{"ph":"X","tid":1,"ts":1,"dur":1,"name":"a"})"), "t",
                             {.events = 1}),
              Fault::checkpoint, "found more than 1 events");
  CHECK_FAULT(parse_timeline(events(kRow), "t", {.rows = 0}), Fault::checkpoint, "found more than 0 rows");
  CHECK_FAULT(parse_timeline(events(kRow + R"(,{"ph":"X","tid":1,"ts":0,"dur":1,"name":"a"})"), "t", {.names = 0}), Fault::checkpoint,
              "found more than 0 different names");
  // what is unknown is skipped, in any place
  CHECK(
      parse_timeline(
          R"({"a":[{"ph":"Z"}],"traceEvents":[{"ph":"M","name":"thread_name","tid":2,"args":{"x":{"name":[]},"name":"write"},"y":[]}],"z":{}})", "t")
          .rows.at(0)
          .name == "write");
}

TEST_CASE("lengths of time", "[tools]") {
  CHECK(parse_time_ns("1.2s", "--to") == 1'200'000'000);
  CHECK(parse_time_ns("300 ms", "--to") == 300'000'000);
  CHECK(parse_time_ns("15us", "--to") == 15'000);
  CHECK(parse_time_ns("7ns", "--to") == 7);
  CHECK(parse_time_ns("2", "--to") == 2'000'000'000);
  for (const char* bad : {"", "s", "1h", "-1s", "nan", "1e30s"}) CHECK_FAULT(parse_time_ns(bad, "--to"), Fault::usage, "--to: found '");
}

TEST_CASE("flexgen trace from outside", "[tools]") {
  const TempDir dir;
  Trace trace;
  record_small(trace);
  const std::string file = dir.write("t.json", written(trace)), svg = dir / "t.svg";
  const RunResult chart = run_flexgen({"trace", file, "--width", "60", "--svg", svg});
  CHECK(chart.exit == 0);
  CHECK(chart.err.empty());
  CHECK_THAT(chart.out, Catch::Contains("compute │ ") && Catch::Contains("read, all") && Catch::Contains("28.6% of the reading was hidden"));
  CHECK_THAT(chart.out, !Catch::Contains("\x1b"));
  CHECK_THAT(read_text_file(svg),
             Catch::StartsWith("<svg ") && Catch::EndsWith("</svg>\n") && Catch::Contains("fc1, layer 3") && Catch::Contains(">t.json<"));
  const RunResult ascii = run_flexgen({"trace", file, "--ascii", "--from", "50us", "--to", "0.00009"});
  CHECK_THAT(ascii.out, Catch::Contains("compute | ####") && Catch::Contains("computing 100.0%, disk busy 50.0%") && !Catch::Contains("│"));
  const RunResult numbers = run_flexgen({"trace", file, "--json"});
  REQUIRE(numbers.exit == 0);
  const Json j = Json::parse(numbers.out);
  CHECK(j.at("elapsed_s").get<double>() == Approx(1e-4));
  CHECK(j.at("kinds").at("read").at("busy_s").get<double>() == Approx(7e-5));
  CHECK(j.at("wait_s").at("disk").get<double>() == Approx(5e-5));
  CHECK(j.at("reading_hidden_s").get<double>() == Approx(2e-5));
  CHECK(j.at("rows").size() == 4);

  CHECK(run_flexgen({"trace", dir.write("none.json", "{\"traceEvents\":[]}")}).out == "The trace has no events.\n");
  const auto check = [](const RunResult& r, int exit, const std::string& message) {
    CHECK(r.exit == exit);
    CHECK_THAT(r.err, Catch::Contains(message));
    CHECK(r.out.empty());
  };
  check(run_flexgen({"trace"}), 2, "FILE is required");
  check(run_flexgen({"trace", dir / "missing.json"}), 4, "missing.json: cannot be opened");
  check(run_flexgen({"trace", dir.write("bad.json", "{\"traceEvents\":[7]}")}), 3,
        "bad.json: event 0 near byte 17: found a number, allowed an object");
  check(run_flexgen({"trace", file, "--width", "20"}), 2, "--width: found 20, allowed 40 to 1000 columns");
  check(run_flexgen({"trace", file, "--width", "-5"}), 2, "--width: found -5, allowed 40 to 1000 columns");
  check(run_flexgen({"trace", file, "--from", "soon"}), 2, "--from: found 'soon', allowed a time such as 1.2s, 300ms or 15us");
  check(run_flexgen({"trace", file, "--from", "1s"}), 2, "--from: found 1s, but the trace ends after 0.0001 s");
  check(run_flexgen({"trace", file, "--from", "20us", "--to", "20us"}), 2, "--to: found 20us, allowed a time after --from");
  check(run_flexgen({"trace", file, "--svg", dir / "no/such/folder.svg"}), 4, "folder.svg: cannot be written");
}

TEST_CASE("generate writes a trace, also where it fails or is stopped", "[tools]") {
  const TempDir dir;
  const std::string file = dir / "run.json", model = testing::fixture_model("tiny-opt");
  const RunResult r = run_flexgen(
      {"generate", "--model", model, "--prompt", "In the", "--prompt", "HAMLET:", "--gpu-batch-size", "1", "--max-new-tokens", "3", "--trace", file});
  INFO(r.err);
  REQUIRE(r.exit == 0);
  const Timeline t = read_timeline(file);
  REQUIRE(!t.rows.empty());
  CHECK(t.rows[0].name == "compute");
  std::map<std::string, std::set<int32_t>> layers;
  bool second = false;
  for (const TimelineEvent& e : t.rows[0].events) layers[t.names[e.name]].insert(e.layer), second |= e.micro_batch == 1;
  CHECK(second);
  for (const char* name : {"qkv", "attend", "out", "fc1", "fc2"}) CHECK(layers[name] == layers["qkv"]);
  CHECK(layers["qkv"].size() > 1);
  CHECK(layers["logits"] == std::set<int32_t>{-1});
  CHECK(run_flexgen({"trace", file}).exit == 0);

  const std::string failed = dir / "failed.json";
  CHECK(run_flexgen({"generate", "--model", dir / "none.flex", "--prompt", "x", "--trace", failed}).exit == 4);
  CHECK_FALSE(std::filesystem::exists(failed));  // the model's settings could not be read: nothing began
  const RunResult cut = run_flexgen({"generate", "--model", model, "--prompt", "x", "--isa", "none", "--trace", failed});
  CHECK(cut.exit == 2);
  CHECK(read_timeline(failed).rows.empty());
  const std::string cut_short = dir / "stopped.json";
  const RunResult stopped =
      run_flexgen({"generate", "--model", model, "--prompt", "x", "--max-new-tokens", "500", "--threads", "1", "--isa", "ref", "--trace", cut_short},
                  {.signal = SIGINT, .signal_after_ms = 300});
  CHECK((stopped.exit == 130 || stopped.exit == 0));
  if (stopped.exit == 0 || stopped.err.find("interrupted") != std::string::npos) CHECK_NOTHROW(read_timeline(cut_short));
  CHECK(run_flexgen({"generate", "--model", model, "--prompt", "x", "--trace", dir / "no/folder.json"}).exit == 4);
}

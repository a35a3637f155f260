// SPDX-License-Identifier: Apache-2.0
// flexgen tokenize as a user runs it.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexgen/format/tokenizer_files.h"
#include "support/catch.h"
#include "support/process.h"
#include "support/small_model.h"
#include "support/temp_dir.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

RunResult tokenize(const std::string& input, std::vector<std::string> options = {}, const std::string& model = test_data("tiny-opt")) {
  options.insert(options.begin(), {"tokenize", "--model", model});
  RunOptions run;
  run.input = input;
  return run_flexgen(options, run);
}

void check_refused(const RunResult& r, int exit, const std::string& message) {
  CHECK(r.exit == exit);
  CHECK(r.err == message + "\n");
}

}  // namespace

TEST_CASE("tokenize prints an array of ids for each line", "[tools]") {
  const RunResult r = tokenize("the king\n\n</s>\nno newline");
  CHECK(r.exit == 0);
  CHECK(r.err.empty());
  CHECK(r.out.substr(0, 4) == "[2,2");
  CHECK(std::count(r.out.begin(), r.out.end(), '\n') == 4);
  CHECK(r.out.find("\n[2]\n") != std::string::npos);  // the empty line
  CHECK(tokenize("").out.empty());
  CHECK(tokenize("\n").out == "[2]\n");
}

TEST_CASE("tokenize --decode goes back", "[tools]") {
  const std::string text = "the king\n\n </s> <pad>\r\n\xE6\x97\xA5 \"quoted\"\t\\\n";
  const RunResult ids = tokenize(text);
  const RunResult back = tokenize(ids.out, {"--decode", "--skip-special"});
  CHECK(back.exit == 0);
  CHECK(back.out == "\"the king\"\n\"\"\n\" </s> <pad>\\r\"\n\"\xE6\x97\xA5 \\\"quoted\\\"\\t\\\\\"\n");
  CHECK(tokenize("[2,4,99999]\n[]\n", {"--decode"}).out == "\"</s>!\"\n\"\"\n");
}

TEST_CASE("tokenize gives HuggingFace's ids for JSON lines", "[tools]") {
  const std::string lines = read_text_file(test_data("tokenizer/tiny-opt.jsonl"));
  for (const bool parse_special : {false, true}) {
    const RunResult r = tokenize(lines, parse_special ? std::vector<std::string>{"--jsonl", "--parse-special"} : std::vector<std::string>{"--jsonl"});
    REQUIRE(r.exit == 0);
    std::string want;
    for (size_t at = 0; at < lines.size(); at = lines.find('\n', at) + 1)
      want += nlohmann::json::parse(lines.substr(at, lines.find('\n', at) - at))[parse_special ? "ids_special" : "ids"].dump() + "\n";
    CHECK(r.out == want);
  }
}

TEST_CASE("tokenize takes any bytes of a line", "[tools]") {
  CHECK(tokenize(std::string("a\xFF" "b\n")).out == tokenize("a\xEF\xBF\xBD" "b\n").out);
  const RunResult zero = tokenize(std::string("a\0b\n", 4), {});
  CHECK(zero.exit == 0);
  CHECK(tokenize(zero.out, {"--decode", "--skip-special"}).out == "\"a\\u0000b\"\n");
}

TEST_CASE("tokenize reads the tokenizer of a model file", "[tools]") {
  TempDir dir;
  const nlohmann::json description = {{"model", {{"family", "opt"}}}, {"tokenizer", read_tokenizer_files(test_data("tiny-opt"))}};
  write_small_model(dir / "m.flex", description.dump());
  CHECK(tokenize("the king\n", {}, dir / "m.flex").out == tokenize("the king\n").out);
  write_small_model(dir / "none.flex", R"({"model":{"family":"opt"}})");
  check_refused(
      tokenize("x\n", {}, dir / "none.flex"), 3,
      "error[E-checkpoint]: " + dir.path() + "/none.flex: holds no tokenizer. Convert the model again from a folder with its tokenizer's files");
}

TEST_CASE("tokenize names the line that it cannot use", "[tools]") {
  const std::string start = "error[E-usage]: standard input: line 2: ";
  const auto refused = [&](const std::string& line, const char* option) {
    return tokenize((option == std::string("--decode") ? "[1]\n" : "{\"text\": \"\"}\n") + line + "\n", {option});
  };
  check_refused(refused("{\"text\": 5}", "--jsonl"), 2, start + "text: found 5, allowed a string");
  check_refused(refused("{\"txt\": \"x\"}", "--jsonl"), 2, start + "text is missing");
  check_refused(refused("[]", "--jsonl"), 2, start + "found a list, allowed an object");
  check_refused(refused("{\"text\": \"\xFF\"}", "--jsonl"), 2, start + "invalid UTF-8 at byte 10");
  check_refused(refused("[1, -1]", "--decode"), 2, start + "token id 1: found -1, allowed a whole number from 0 to 2147483647");
  check_refused(refused("[2147483648]", "--decode"), 2, start + "token id 0: found 2147483648, allowed a whole number from 0 to 2147483647");
  check_refused(refused("[\"1\"]", "--decode"), 2, start + "token id 0: found \"1\", allowed a whole number from 0 to 2147483647");
  check_refused(refused("7", "--decode"), 2, start + "found 7, allowed a list of token ids");
  const RunResult r = refused("", "--jsonl");
  CHECK(r.exit == 2);
  CHECK(r.err.starts_with(start + "invalid JSON at byte 0"));
  CHECK(r.out == "[2]\n");  // the line before it is out
}

TEST_CASE("tokenize refuses options that do not go together, and models that are none", "[tools]") {
  CHECK(run_flexgen({"tokenize"}).exit == 2);
  CHECK(tokenize("", {"--decode", "--jsonl"}).exit == 2);
  CHECK(tokenize("", {"--decode", "--parse-special"}).exit == 2);
  CHECK(tokenize("", {"--skip-special"}).exit == 2);
  TempDir dir;
  check_refused(tokenize("", {}, dir.path()), 3,
                "error[E-checkpoint]: " + dir.path() +
                    ": tokenizer: found none of its files, allowed tokenizer.json, or vocab.json with merges.txt. Copy them from the model's folder");
  CHECK(tokenize("", {}, dir / "absent").exit == 4);
}

TEST_CASE("tokenize ends quietly when nobody reads", "[tools]") {
  const std::string script = "yes 'the king' | \"$0\" tokenize --model \"$1\" | head -n 1; echo ${PIPESTATUS[1]}";
  const RunResult r = run({"bash", "-c", script, FLEXGEN_PROGRAM, test_data("tiny-opt")});
  CHECK(r.err.empty());
  CHECK(r.out.ends_with("]\n0\n"));
}

TEST_CASE("tokenize says when its output cannot be written", "[tools]") {
  if (!std::filesystem::exists("/dev/full")) {
    WARN("skipped: no /dev/full");
    return;
  }
  const RunResult r = run({"bash", "-c", "echo x | \"$0\" tokenize --model \"$1\" > /dev/full", FLEXGEN_PROGRAM, test_data("tiny-opt")});
  check_refused(r, 5, "error[E-space]: standard output: cannot be written: No space left on device");
}

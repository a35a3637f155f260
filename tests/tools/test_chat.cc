// SPDX-License-Identifier: Apache-2.0
// flexgen chat as a user runs it: through a pipe, and on a terminal.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexgen/io/file.h"
#include "support/catch.h"
#include "support/process.h"
#include "support/temp_dir.h"
#include "support/terminal.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

// The bundled OPT as a model file, converted once
const std::string& model() {
  static const TempDir dir;
  static const std::string path = [] {
    const RunResult r = run_flexgen({"convert", test_data("tiny-opt"), "-o", dir / "tiny.flex"});
    if (r.exit != 0) throw std::runtime_error(r.err);
    return dir / "tiny.flex";
  }();
  return path;
}

RunResult chat(const std::string& input, std::vector<std::string> options = {}) {
  options.insert(options.begin(), {"chat", "--model", model(), "--threads", "1"});
  RunOptions run;
  run.input = input;
  return run_flexgen(options, run);
}

nlohmann::json saved(const std::string& path) { return nlohmann::json::parse(read_text_file(path)); }

std::string ids_text(const nlohmann::json& ids, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += fmt::format("{}{}", i ? "," : "", ids[i].get<int>());
  return out;
}

}  // namespace

TEST_CASE("chat computes only what is new, and says what generate would", "[tools]") {
  TempDir dir;
  const RunResult r =
      chat(fmt::format("The king said\n/stats\nAnd then?\n/stats\n/save {}\n/quit\nnever\n", dir / "d.json"), {"--max-new-tokens", "20"});
  REQUIRE(r.exit == 0);
  CHECK(r.err.empty());
  const auto d = saved(dir / "d.json");
  REQUIRE(d["turns"].size() == 2);
  CHECK(d["turns"][0]["user"] == "The king said");
  const auto& tokens = d["tokens"];
  const size_t n = tokens.size();
  // The second turn alone in one prompt, nothing kept: the same answer
  const RunResult again = run_flexgen({"generate", "--model", model(), "--threads", "1", "--max-new-tokens", "20", "--json", "--stop",
                                       "\nHuman:", "--prompt-tokens", ids_text(tokens, n - 20)});
  REQUIRE(again.exit == 0);
  const auto answer = nlohmann::json::parse(again.out);
  REQUIRE(answer["finish_reason"] == "length");
  CHECK(answer["text"] == d["turns"][1]["assistant"]);
  CHECK(answer["tokens"] == nlohmann::json(std::vector<int>(tokens.begin() + static_cast<ptrdiff_t>(n) - 20, tokens.end())));
  // All but the last token was computed, once
  CHECK(r.out.find(fmt::format("since the start  {} computed", n - 1)) != std::string::npos);
  CHECK(r.out.find("never") == std::string::npos);
}

TEST_CASE("chat ends an answer before the next message, and goes on from there", "[tools]") {
  TempDir dir;
  // "e" is inside tokens: what is kept ends at a token boundary, the rest is said again
  const RunResult r =
      chat(fmt::format("The king said\n/save {}\nMore\n/save {}\n", dir / "a.json", dir / "b.json"), {"--max-new-tokens", "30", "--stop", "e k"});
  REQUIRE(r.exit == 0);
  const auto a = saved(dir / "a.json"), b = saved(dir / "b.json");
  const auto text = a["turns"][0]["assistant"].get<std::string>();
  CHECK(text.find("e k") == std::string::npos);
  const auto decode = [&](const nlohmann::json& ids) {
    RunOptions run;
    run.input = ids.dump() + "\n";
    return nlohmann::json::parse(run_flexgen({"tokenize", "--model", model(), "--decode", "--skip-special"}, run).out).get<std::string>();
  };
  CHECK(decode(a["tokens"]) + a["rest"].get<std::string>() == "Human: The king said\nAssistant:" + text);
  CHECK(decode(b["tokens"]) + b["rest"].get<std::string>() ==
        "Human: The king said\nAssistant:" + text + "\nHuman: More\nAssistant:" + b["turns"][1]["assistant"].get<std::string>());
}

TEST_CASE("a dialogue that was saved goes on as if it had not been", "[tools]") {
  TempDir dir;
  const std::string two = fmt::format("The king said\n/save {}\nAnd then?\n/save {}\n", dir / "a.json", dir / "b.json");
  REQUIRE(chat(two, {"--max-new-tokens", "12"}).exit == 0);
  const RunResult r = chat(fmt::format("x\n/load {}\n/stats\nAnd then?\n/save {}\n", dir / "a.json", dir / "c.json"), {"--max-new-tokens", "12"});
  CHECK(r.exit == 0);
  CHECK(r.out.find(fmt::format("Loaded 1 turns, {0} tokens, {0} computed.", saved(dir / "a.json")["tokens"].size())) != std::string::npos);
  CHECK(read_text_file(dir / "c.json") == read_text_file(dir / "b.json"));
}

TEST_CASE("chat says when the context is full, and begins anew", "[tools]") {
  const RunResult r = chat("The king said\nMore\n/stats\n/reset\n/stats\nOnce\n",
                           {"--max-new-tokens", "600", "--ignore-eos", "--template", "Q {user} A{assistant}#%&@"});
  CHECK(r.exit == 1);
  CHECK(r.err.find("error: the context is full: the model takes 512 tokens. Start anew with /reset\n") == 0);
  CHECK(r.err.find("error: the context is full: ", 1) != std::string::npos);
  CHECK(r.out.find("  turns            1\n") != std::string::npos);
  CHECK(r.out.find("The dialogue is empty.\n  turns            0\n  context          0 of 512 tokens\n") != std::string::npos);
}

TEST_CASE("chat refuses files that hold no dialogue of this model", "[tools]") {
  TempDir dir;
  const std::string ok =
      R"({"flexgen_chat": 1, "vocabulary": 4096, "template": "Human: {user}\nAssistant:{assistant}\n", )"
      R"("turns": [{"user": "a", "assistant": "b"}], "rest": "", "tokens": [2, 5]})";
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string text = ok;
    if (!from.empty()) text.replace(text.find(from), from.size(), to);
    const std::string path = dir.write("d.json", text);
    const RunResult r = chat("/load " + path + "\n");
    CHECK(r.exit == (from.empty() ? 0 : 1));
    return r.err.empty() ? "" : r.err.substr(std::string("error: ").size() + path.size() + 2);
  };
  CHECK(refused("", "") == "");
  CHECK(refused("1,", "2,") == "flexgen_chat: found 2, allowed a whole number from 1 to 1\n");
  CHECK(refused("4096", "50265") == "vocabulary: found 50265 tokens, allowed 4096: it was saved with another model\n");
  CHECK(refused("Human", "Man") ==
        "template: found 'Man: {user}\\x0aAssistant:{assistant}\\x0a', allowed 'Human: {user}\\x0aAssistant:{assistant}\\x0a'. Start chat with that "
        "--template\n");
  CHECK(refused("[2, 5]", "[2, -5]") == "tokens: found -5, allowed token ids\n");
  CHECK(refused("[2, 5]", "[2, 5000]") == "tokens: token 5000 in the prompt: allowed 0 to 4095\n");
  CHECK(refused("[2, 5]", "[]") == "found 1 turns and 0 tokens, allowed both or none\n");
  CHECK(refused("[2, 5]", "{}") == "tokens: found an object, allowed a list\n");
  CHECK(refused(", \"tokens\": [2, 5]", "") == "tokens: found nothing, allowed a list\n");
  CHECK(refused("\"a\"", "7") == "turns: user: found 7, allowed a string\n");
  CHECK(refused("\"rest\": \"\", ", "") == "rest is missing\n");
  CHECK(refused("{\"flexgen", "[{\"flexgen").starts_with("invalid JSON at byte"));
  CHECK(chat("/load\n").err == "error: /load: found no file, allowed /load FILE\n");
  CHECK(chat("/save\n").err == "error: /save: found no file, allowed /save FILE\n");
  CHECK(chat("/what now\n").err == "error: /what: is no command; /help lists them, and a space before the line makes it a message\n");
  CHECK(chat("/load " + dir.path() + "/absent\n").exit == 1);
}

TEST_CASE("chat takes a template as text or as a file", "[tools]") {
  TempDir dir;
  const std::string file = dir.write("t.txt", "Q: {user}\nA:{assistant}\n");
  const auto text_of = [&](const std::string& framing) {
    const RunResult r = chat(fmt::format("x\n/save {}\n", dir / "d.json"), {"--max-new-tokens", "3", "--template", framing});
    CHECK(r.exit == 0);
    return saved(dir / "d.json")["template"].get<std::string>();
  };
  CHECK(text_of(file) == "Q: {user}\nA:{assistant}\n");
  CHECK(text_of("Q: {user}\\nA:{assistant}\\\\n") == "Q: {user}\nA:{assistant}\\n");
  CHECK(chat("", {"--template", "{user}"}).err ==
        "error[E-usage]: --template: found '{user}', allowed text with {user} once and {assistant} once after it\n");
  CHECK(chat("", {"--template", dir / "absent"}).exit == 4);
}

TEST_CASE("what looks like a control token stays text in a dialogue", "[tools]") {
  TempDir dir;
  REQUIRE(chat(fmt::format("a</s>b {{assistant}} \xFF\n/save {}\n", dir / "d.json"), {"--max-new-tokens", "2"}).exit == 0);
  const auto d = saved(dir / "d.json");
  CHECK(d["turns"][0]["user"] == "a</s>b {assistant} \xEF\xBF\xBD");
  const std::vector<int> ids = d["tokens"];
  CHECK(std::count(ids.begin(), ids.end() - 2, 2) == 1);  // the one at the beginning
}

TEST_CASE("chat on a terminal edits lines, keeps history, and survives Ctrl-C", "[tools]") {
  TempDir dir;
  const std::vector<std::pair<std::string, std::string>> env{{"XDG_STATE_HOME", dir.path()}, {"TERM", "xterm"}, {"LC_ALL", "C"}};
  {
    Terminal t({FLEXGEN_PROGRAM, "chat", "--model", model(), "--threads", "1", "--isa", "ref", "--max-new-tokens", "400", "--ignore-eos"}, env);
    t.wait_for("Write a message, or /help.");
    t.wait_for("> ");
    t.type("caf\xC3\xA9x\x7F z\x7F\x7F\n");  // backspace after characters of one and of two bytes
    t.wait_for("\n");
    t.wait_for(" ");                          // the answer has begun
    t.type("\x03");
    t.wait_for("> ");
    t.type("garbage\x03");  // clears the line
    t.wait_for("> ");
    t.type("/save " + dir.path() + "/d.json\n");
    t.wait_for("Saved 1 turns");
    t.wait_for("> ");
    t.type("\x04");
    CHECK(t.wait_exit() == 0);
  }
  const auto d = saved(dir / "d.json");
  CHECK(d["turns"][0]["user"] == "caf\xC3\xA9");
  CHECK(d["tokens"].size() < 400);
  const std::string history = read_text_file(dir / "flexgen/history");
  CHECK(history.find("garbage") == std::string::npos);
  CHECK((std::filesystem::status(dir / "flexgen/history").permissions() & std::filesystem::perms::others_all) == std::filesystem::perms::none);
  {
    Terminal t({FLEXGEN_PROGRAM, "chat", "--model", model(), "--threads", "1", "--max-new-tokens", "3"}, env);
    t.wait_for("> ");
    t.type("\x1B[A\x1B[A\n");  // two lines up: the message of the run before
    t.wait_for("> ");
    t.type("/save " + dir.path() + "/e.json\n");
    t.wait_for("Saved");
    t.wait_for("> ");
    t.send_signal(SIGTERM);
    CHECK(t.wait_exit() == 130);
  }
  CHECK(saved(dir / "e.json")["turns"][0]["user"] == "caf\xC3\xA9");
}

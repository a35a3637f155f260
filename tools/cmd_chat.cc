// SPDX-License-Identifier: Apache-2.0
// flexgen chat: a dialogue with a model, a line at a time. What was said stays computed: a turn costs its own tokens.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/format/json.h"
#include "flexgen/io/file.h"
#include "flexgen/text/chat_template.h"
#include "tools/command.h"
#include "tools/dialogue.h"
#include "tools/engine_options.h"
#include "tools/generation_options.h"
#include "tools/interrupt.h"
#include "tools/line_editor.h"
#include "tools/loaded_model.h"
#include "tools/settings_json.h"
#include "tools/small_file.h"
#include "tools/standard_output.h"
#include "tools/terminal_text.h"

namespace flexgen::tools {
namespace {

constexpr const char* kCommands =
    "  /reset       forget the dialogue and begin a new one\n"
    "  /save FILE   write the dialogue as JSON: its turns and token ids\n"
    "  /load FILE   go on with a dialogue that was saved\n"
    "  /stats       tokens of the dialogue, and what was computed for them\n"
    "  /help        this list\n"
    "  /quit        end; so does Ctrl-D\n"
    "A line that begins with a space is a message whatever follows. Ctrl-C stops an answer, or clears the line.\n";

struct ChatOptions {
  std::string model, framing;
  GenerationOptions generation;
  EngineFlags engine;
};

std::atomic<bool> ended{false};  // SIGTERM has come

// Ctrl-C stops what is running, however often it comes; SIGTERM ends the program, the second one at once.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = true; };
  ::sigaction(SIGINT, &action, nullptr);
  action.sa_handler = [](int) {
    if (ended.exchange(true)) ::_exit(exit_code(Fault::interrupted));
    interrupted = true;
  };
  ::sigaction(SIGTERM, &action, nullptr);
}

// --template: text with {user} in it, in which \n, \t and \\ are a newline, a tab and a backslash; or else a file
ChatTemplate read_template(const std::string& value) {
  if (value.empty()) return ChatTemplate::parse(ChatTemplate::kOpt, "--template");
  if (value.find("{user}") == value.npos) return ChatTemplate::parse(read_text_file(value, 1_MiB), value);
  std::string text;
  for (size_t i = 0; i < value.size(); ++i) {
    const char next = value[i] == '\\' && i + 1 < value.size() ? value[i + 1] : '\0';
    const char meant = next == 'n' ? '\n' : next == 't' ? '\t' : next == '\\' ? '\\' : '\0';
    text += meant ? meant : value[i];
    i += meant != '\0';
  }
  return ChatTemplate::parse(text, "--template");
}

GenerationSettings chat_settings(const ChatOptions& o, const ChatTemplate& framing) {
  GenerationSettings s;
  apply_generation_config(s, generation_config(o.model), o.model + ": generation_config.json");
  o.generation.apply(s);
  s.num_return_sequences = 1;
  if (const std::string stop = framing.stop(); !stop.empty()) s.stop.push_back(stop);
  check(s);
  if (const std::string unused = o.generation.unused(s); !unused.empty())
    fmt::print(stderr, "warning: {} {} no effect without --do-sample\n", unused, unused.find(',') == unused.npos ? "has" : "have");
  return s;
}

class Chat {
 public:
  Chat(LoadedModel& loaded, ChatTemplate framing, const GenerationSettings& settings)
      : loaded_(loaded), dialogue_(loaded.engine(), loaded.tokenizer(), std::move(framing), settings), editor_("> ", history_path(), ended) {}

  // 0; 1 where a message that did not come from a terminal could not be served
  int run() {
    if (editor_.on_terminal()) out_.write("Write a message, or /help.\n");
    while (!out_.closed()) {
      out_.flush();
      interrupted = false;
      if (ended) fail(Fault::interrupted, "interrupted");
      const auto line = editor_.next();
      if (!line) break;
      if (!handle(*line)) break;
    }
    if (editor_.on_terminal()) out_.write("\n");
    out_.flush();
    return failed_ && !editor_.on_terminal() ? 1 : 0;
  }

 private:
  // false: the user wants to end
  bool handle(const std::string& line) {
    if (!line.starts_with('/')) {
      if (line.find_first_not_of(" \t") != line.npos) answer(line);
      return true;
    }
    const size_t space = line.find(' ');
    const std::string command = line.substr(0, space);
    std::string argument = space == line.npos ? "" : line.substr(space + 1);
    while (argument.ends_with(' ')) argument.pop_back();
    if (command == "/quit") return false;
    try {
      if (command == "/help") out_.write(kCommands);
      else if (command == "/stats") stats();
      else if (command == "/reset") reset();
      else if (command == "/save") save(argument);
      else if (command == "/load") load(argument);
      else fail(Fault::usage, "{}: is no command; /help lists them, and a space before the line makes it a message", printable(command));
    } catch (const Error& e) {
      say_error(e.what());
    }
    return true;
  }

  void answer(const std::string& message) {
    bool begun = false;
    const auto show = [&](std::string_view text) {
      if (!begun) text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));  // "Assistant:" is followed by a space
      if (text.empty()) return;
      begun = true;
      out_.write(StandardOutput::is_terminal() ? terminal_safe(text) : std::string(text));
      out_.flush();
    };
    const Dialogue::Reply reply = dialogue_.say(message, show, interrupted);
    if (reply.reason == FinishReason::error) return say_error(reply.error);
    out_.write(reply.new_tokens > 0 ? "\n" : "Stopped before the answer began: the message is not part of the dialogue.\n");
    out_.flush();
    last_ = reply;
    const auto limit = static_cast<size_t>(loaded_.model().description().max_positions);
    if (reply.reason == FinishReason::length && dialogue_.tokens().size() >= limit)
      say_error(fmt::format("the context is full: the model takes {} tokens. Start anew with /reset", with_commas(limit)));
  }

  void stats() {
    const Statistics& all = loaded_.engine().statistics();
    const size_t n = dialogue_.tokens().size();
    out_.write(fmt::format("  {:<16} {}\n", "turns", dialogue_.turns().size()));
    out_.write(fmt::format("  {:<16} {} of {} tokens\n", "context", with_commas(n),
                           with_commas(static_cast<uint64_t>(loaded_.model().description().max_positions))));
    if (last_)
      out_.write(fmt::format("  {:<16} {} tokens of the message, {} new, {} computed in {:.2f} s\n", "last turn", with_commas(last_->prompt_tokens),
                             with_commas(last_->new_tokens), with_commas(last_->tokens_computed), last_->seconds));
    out_.write(fmt::format("  {:<16} {} computed in {:.2f} s, {} new\n", "since the start", with_commas(all.tokens_computed),
                           all.prefill_s + all.decode_s, with_commas(all.tokens_generated)));
  }

  void reset() {
    dialogue_.reset();
    last_.reset();
    out_.write("The dialogue is empty.\n");
  }

  void save(const std::string& path) {
    if (path.empty()) fail(Fault::usage, "/save: found no file, allowed /save FILE");
    SmallFile(path).commit(dialogue_.to_json().dump(1) + "\n");
    out_.write(fmt::format("Saved {} turns, {} tokens.\n", dialogue_.turns().size(), with_commas(dialogue_.tokens().size())));
  }

  void load(const std::string& path) {
    if (path.empty()) fail(Fault::usage, "/load: found no file, allowed /load FILE");
    JsonLimits limits;
    limits.fault = Fault::usage;
    last_.reset();
    const auto reply = dialogue_.load(parse_json(read_text_file(path, 64_MiB), path, limits), path, interrupted);
    out_.write(fmt::format("Loaded {} turns, {} tokens, {} computed.\n", dialogue_.turns().size(), with_commas(dialogue_.tokens().size()),
                           with_commas(reply.tokens_computed)));
  }

  void say_error(std::string_view what) {
    failed_ = true;
    out_.flush();
    fmt::print(stderr, "error: {}\n", what);
  }

  LoadedModel& loaded_;
  Dialogue dialogue_;
  LineEditor editor_;
  StandardOutput out_;
  std::optional<Dialogue::Reply> last_;
  bool failed_ = false;
};

int chat(const ChatOptions& o) {
  o.engine.check();
  catch_signals();
  const ChatTemplate framing = read_template(o.framing);
  const GenerationSettings settings = chat_settings(o, framing);
  LoadedModel loaded(o.model, o.engine);
  const int64_t context = loaded.model().description().max_positions;
  loaded.load({.sequences = 1, .tokens_per_sequence = context, .total_tokens = context, .sweep_tokens = context, .logits = 1});
  const int result = Chat(loaded, framing, settings).run();
  loaded.offload().check_disk();
  return result;
}

}  // namespace

void add_chat(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<ChatOptions>();
  CLI::App* c = program.add_subcommand("chat", "Talk with a model; what was said is not computed again");
  c->footer(fmt::format("Commands of the dialogue:\n{}\n", kCommands));
  c->add_option("--model", o->model, "Model file, or HuggingFace folder: converted once into a cache (flexgen cache)")
      ->required()
      ->type_name("PATH")
      ->group("Dialogue");
  c->add_option("--template", o->framing,
                "How a turn is written: text with {user} and {assistant}, or a file with such text [Human: {user}\\nAssistant:{assistant}\\n]")
      ->type_name("TEXT|FILE")
      ->group("Dialogue");
  add_generation_options(*c, o->generation);
  add_engine_options(*c, o->engine);
  c->callback([o, &selected] { selected = [o] { return chat(*o); }; });
}

}  // namespace flexgen::tools

// SPDX-License-Identifier: Apache-2.0
// flexgen generate: prompts in, their continuations out, all of them in one ragged batch.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "flexgen/memory/device_text.h"
#include "tools/answers.h"
#include "tools/command.h"
#include "tools/engine_options.h"
#include "tools/generation_options.h"
#include "tools/loaded_model.h"
#include "tools/progress.h"
#include "tools/prompts.h"
#include "tools/run_statistics.h"
#include "tools/small_file.h"
#include "tools/standard_output.h"
#include "tools/terminal_text.h"
#include "tools/trace_file.h"

namespace flexgen::tools {

namespace {

constexpr const char* kGenerateExamples =
    "Prompts come from --prompt, then --prompt-tokens, then --prompt-file; without any of them from standard input, one a line.\n"
    "A .jsonl file has an object a line: prompt or prompt_tokens, perhaps an id, and settings for that line under their HF names:\n"
    "  {\"prompt\": \"Once upon a time\", \"id\": \"tale\", \"do_sample\": true, \"temperature\": 0.8, \"stop\": [\"\\n\\n\"]}\n"
    "Settings: a line's own, else the command line's, else the model's generation_config.json, else HF's defaults.\n"
    "\n"
    "Examples:\n"
    "  flexgen generate --model opt-125m.flex --prompt \"In the beginning\"\n"
    "  flexgen generate --model opt-125m.flex --prompt \"HAMLET:\" --do-sample --temperature 0.8 --seed 7 --num-return-sequences 3\n"
    "  flexgen generate --model ./opt-125m --prompt-file prompts.jsonl --json > answers.jsonl\n"
    "\n";

struct GenerateOptions {
  std::string model;
  PromptSources sources;
  GenerationOptions generation;
  EngineFlags engine;
  bool json = false, stats = false, parse_special = false, hide_prompt = false;
  std::string stats_json, trace;
};

// Settings before any line's own
GenerationSettings run_settings(const GenerateOptions& o) {
  GenerationSettings s;
  apply_generation_config(s, generation_config(o.model), o.model + ": generation_config.json");
  o.generation.apply(s);
  if (o.generation.logprobs && !o.json) fail(Fault::usage, "--logprobs: found without --json, allowed with it: they are a field of its objects");
  check(s);
  if (const std::string unused = o.generation.unused(s); !unused.empty())
    fmt::print(stderr, "warning: {} {} no effect without --do-sample\n", unused, unused.find(',') == unused.npos ? "has" : "have");
  return s;
}

// Shows answers as they come from Answers, as text or as JSON
class Printer {
 public:
  // texts: of the prompts, filled as they are submitted; has_text: the model has a tokenizer
  Printer(const GenerateOptions& options, const std::vector<Prompt>& prompts, const std::vector<std::string>& texts, bool has_text,
          StandardOutput& out)
      : options_(options), prompts_(prompts), texts_(texts), has_text_(has_text), out_(out), terminal_(StandardOutput::is_terminal()) {}

  // An answer that has begun gets no more text.
  void close() {
    if (open_) end();
  }

  void operator()(const Answer& a, size_t from) {
    if (options_.json) {
      if (a.ended) out_.write(json(a) + "\n");
    } else if (a.reason == FinishReason::error) {
      show_error(a, from);
    } else {
      show_text(a, from);
    }
  }

 private:
  std::string json(const Answer& a) const {
    const Prompt& p = prompts_[a.index];
    return answer_json(a, p.id, has_text_ ? Json(texts_[a.index]) : Json(), p.tokens, p.settings.logprobs.has_value());
  }

  void show_text(const Answer& a, size_t from) {
    if (!has_text_) return show_tokens(a);
    if (!open_) begin(a);
    put(std::string_view(a.text).substr(from));
    if (a.ended) end();
  }

  // A model without a tokenizer: ids as --prompt-tokens takes them, the prompt's before the answer's
  void show_tokens(const Answer& a) {
    if (!a.ended) return;
    std::vector<int32_t> tokens = options_.hide_prompt ? std::vector<int32_t>() : prompts_[a.index].tokens;
    tokens.insert(tokens.end(), a.tokens.begin(), a.tokens.end());
    out_.write(fmt::format("{}\n", fmt::join(tokens, ",")));
  }

  // What there is of its text stays; the error goes to standard error.
  void show_error(const Answer& a, size_t from) {
    if (open_ || !a.text.empty()) show_text(a, from);
    out_.flush();
    fmt::print(stderr, "error: prompt {}{}: {}\n", a.index, a.tokens.empty() ? "" : fmt::format(", sample {}", a.sample), a.error);
  }

  void begin(const Answer& a) {
    open_ = true;
    if (n_shown_++ > 0) out_.write("\n");
    if (options_.hide_prompt) return;
    if (terminal_) out_.write("\x1b[1m");
    put(texts_[a.index]);
    if (terminal_) out_.write("\x1b[0m");
  }
  void end() {
    open_ = false;
    out_.write("\n");
  }
  void put(std::string_view text) {
    if (terminal_) out_.write(terminal_safe(text));
    else out_.write(text);
  }

  const GenerateOptions& options_;
  const std::vector<Prompt>& prompts_;
  const std::vector<std::string>& texts_;
  bool has_text_;
  StandardOutput& out_;
  bool terminal_;
  bool open_ = false;  // an answer has begun and not ended
  size_t n_shown_ = 0;
};

// Runs all prompts. Submits ahead of the engine, but not everything: what waits costs memory.
class Run {
 public:
  Run(const GenerateOptions& options, LoadedModel& loaded, std::vector<Prompt>& prompts)
      : options_(options),
        loaded_(loaded),
        prompts_(prompts),
        texts_(prompts.size()),
        printer_(options, prompts, texts_, loaded.model().tokenizer() != nullptr, out_),
        answers_([this](const Answer& a, size_t from) { printer_(a, from); }) {
    for (const Prompt& p : prompts)
      if (p.text) loaded.tokenizer();  // says that there is none before anything runs
    encode();
  }

  // What the memory must hold: as many sequences as run together, the longest ones of all
  Demand demand() const {
    const ModelDescription& m = loaded_.model().description();
    const auto block = static_cast<size_t>(loaded_.policy().gpu_batch_size * loaded_.policy().num_gpu_batches);
    std::vector<int64_t> lengths, prompts, kept;  // kept: prompts that several samples begin with
    for (const Prompt& p : prompts_) {
      const auto n = static_cast<int64_t>(p.tokens.size());
      const auto samples = std::min(static_cast<size_t>(p.settings.num_return_sequences), block);
      lengths.insert(lengths.end(), samples, std::min(m.max_positions, std::max<int64_t>(1, n + p.settings.max_new_tokens - 1)));
      prompts.push_back(std::min(n, m.max_positions));
      if (p.settings.num_return_sequences > 1) kept.push_back(prompts.back());
    }
    const auto largest = [block](std::vector<int64_t>& v) {
      std::sort(v.begin(), v.end(), std::greater<>());
      v.resize(std::min(v.size(), block));
      return std::accumulate(v.begin(), v.end(), int64_t{0});
    };
    Demand d;
    d.total_tokens = std::max<int64_t>(1, largest(lengths) + largest(kept));
    d.tokens_per_sequence = lengths.empty() ? 1 : lengths.front();
    d.sequences = std::max<int64_t>(1, static_cast<int64_t>(lengths.size() + kept.size()));
    d.least_sweep_tokens = d.logits = std::max<int64_t>(1, static_cast<int64_t>(lengths.size()));
    d.sweep_tokens = std::max(d.least_sweep_tokens, largest(prompts));
    return d;
  }

  // 0, 1 where prompts failed, 130 where the user stopped it
  int run() {
    uint64_t total = 0;
    for (const Prompt& p : prompts_) total += static_cast<uint64_t>(p.settings.num_return_sequences);
    std::atomic<uint64_t> done{0};
    // text on a terminal is its own progress
    std::optional<Progress> progress;
    if (!StandardOutput::is_terminal()) progress.emplace("generate", done, total, ProgressUnit::answers);
    try {
      while (!out_.closed() && (next_ < prompts_.size() || !loaded_.engine().idle())) {
        submit_ahead();
        for (const Event& e : loaded_.engine().step(&interrupted)) answers_.take(e);
        answers_.show();
        out_.flush();
        done.store(loaded_.engine().statistics().sequences_done, std::memory_order_relaxed);
      }
    } catch (const Error& e) {
      if (e.fault() != Fault::interrupted) throw;
      progress.reset();
      printer_.close();
      answers_.show_ended();
      out_.flush();
      fmt::print(stderr, "interrupted\n");
      return exit_code(Fault::interrupted);
    }
    return answers_.n_failed() > 0 ? 1 : 0;
  }

 private:
  void encode() {
    const Tokenizer* tokenizer = loaded_.model().tokenizer();
    for (size_t i = 0; i < prompts_.size(); ++i) {
      Prompt& p = prompts_[i];
      if (p.text) {
        texts_[i] = std::move(*p.text);
        p.tokens = tokenizer->encode(texts_[i], options_.parse_special);
      } else if (tokenizer) {
        texts_[i] = tokenizer->decode(p.tokens, /*skip_special=*/true);
      }
    }
  }

  void submit_ahead() {
    const EngineOptions& o = loaded_.engine().options();
    const auto ahead = static_cast<size_t>(2 * o.gpu_batch_size * o.num_gpu_batches);
    for (; next_ < prompts_.size() && answers_.n_pending() < ahead; ++next_) {
      const Prompt& p = prompts_[next_];
      const RequestId id = loaded_.engine().submit({p.key(next_), p.tokens, p.settings, std::nullopt});
      answers_.submitted(id, next_, p.settings.num_return_sequences);
    }
  }

  const GenerateOptions& options_;
  LoadedModel& loaded_;
  std::vector<Prompt>& prompts_;
  std::vector<std::string> texts_;
  size_t next_ = 0;
  StandardOutput out_;
  Printer printer_;
  Answers answers_;
};

// The timeline that --trace asks for: written when the run ends, however it ends
class TraceOutput {
 public:
  explicit TraceOutput(const std::string& path) {
    if (!path.empty()) file_.emplace(path), trace_.emplace();
  }
  Trace* trace() { return trace_ ? &*trace_ : nullptr; }

  // Nobody may record any more.
  void write() {
    if (!file_) return;
    write_trace(*trace_, [&](std::string_view text) { file_->append(text); });
    file_->commit();
    if (trace_->dropped() > 0) fmt::print(stderr, "note: the trace was full: {} more events were not recorded\n", with_commas(trace_->dropped()));
  }

 private:
  std::optional<SmallFile> file_;
  std::optional<Trace> trace_;
};

// What the parts have counted so far
FlowStatistics flow(LoadedModel& loaded) {
  const Engine& e = loaded.engine();
  const Offload& o = loaded.offload();
  FlowStatistics f = flow_statistics(e.sweep_statistics(), e.hidden_statistics(), o.weights().statistics(), e.kv_statistics(), o.io().statistics(),
                                     o.device_io(), o.device_queue());
  f.elapsed_s = e.statistics().prefill_s + e.statistics().decode_s;
  return f;
}

// Runs the model and tells how it went; the model is gone when this returns.
int run_prompts(const GenerateOptions& o, std::vector<Prompt>& prompts, SmallFile* stats_file, Trace* trace) {
  LoadedModel loaded(o.model, o.engine, trace);
  Run run(o, loaded, prompts);
  loaded.load(run.demand());
  const FlowStatistics before = flow(loaded);
  const Stopwatch watch;
  const int result = run.run();
  const RunStatistics statistics{.model = loaded.path(),
                                 .isa = std::string(loaded.isa().name),
                                 .device = loaded.device() ? to_string(loaded.device().device()->info()) : "cpu",
                                 .kv_dtype = std::string(name(loaded.engine().options().kv_dtype)),
                                 .threads = loaded.n_threads(),
                                 .load_s = loaded.load_s(),
                                 .generate_s = watch.seconds(),
                                 .engine = loaded.engine().statistics(),
                                 .flow = flow(loaded) - before,
                                 .plan = loaded.offload().plan()};
  if (o.stats || ::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\n{}", table(statistics));
  if (stats_file) stats_file->commit(to_json(statistics).dump(1) + "\n");
  if (result != exit_code(Fault::interrupted)) loaded.offload().check_disk();
  return result;
}

int generate(const GenerateOptions& o) {
  o.engine.check();
  catch_interrupts();
  const GenerationSettings settings = run_settings(o);
  if (o.sources.empty() && ::isatty(STDIN_FILENO) == 1) fmt::print(stderr, "prompts, one a line; end with Ctrl-D\n");
  std::vector<Prompt> prompts = collect_prompts(o.sources, settings);
  std::optional<SmallFile> stats_file;
  if (!o.stats_json.empty()) stats_file.emplace(o.stats_json);
  TraceOutput trace(o.trace);
  int result = 0;
  try {
    result = run_prompts(o, prompts, stats_file ? &*stats_file : nullptr, trace.trace());
  } catch (...) {
    try {
      trace.write();
    } catch (const Error& e) {  // what went wrong first is what the user must know
      fmt::print(stderr, "warning: {}\n", e.what());
    }
    throw;
  }
  trace.write();
  return result;
}

}  // namespace

void add_generate(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<GenerateOptions>();
  CLI::App* c = program.add_subcommand("generate", "Continue prompts: text that streams, or JSON");
  c->footer(kGenerateExamples);
  c->add_option("--model", o->model, "Model file, or HuggingFace folder: converted once into a cache (flexgen cache)")
      ->required()
      ->type_name("PATH")
      ->group("Model and prompts");
  add_text_list(*c, "--prompt", o->sources.texts, "A prompt; repeatable. Write --prompt=TEXT where TEXT begins with a dash")
      ->type_name("TEXT")
      ->group("Model and prompts");
  add_text_list(*c, "--prompt-tokens", o->sources.tokens, "A prompt as token ids, as in 2,100,5; repeatable")
      ->type_name("IDS")
      ->group("Model and prompts");
  add_text_list(*c, "--prompt-file", o->sources.files,
                "A prompt a line (blank ones are skipped), or JSON lines where the name ends in .jsonl; - is standard input; repeatable")
      ->type_name("FILE")
      ->group("Model and prompts");
  c->add_flag("--parse-special", o->parse_special, "Control tokens such as </s> that are spelled out in a prompt become that token")
      ->group("Model and prompts");

  add_generation_options(*c, o->generation);
  c->add_option("--num-return-sequences", o->generation.num_return_sequences, "Samples of each prompt, with --do-sample [1]")
      ->type_name("N")
      ->group("Choice of tokens");

  add_engine_options(*c, o->engine);

  c->add_flag("--json", o->json, "One JSON object a line and sequence, in the order of the prompts")->group("Output");
  c->add_option("--logprobs", o->generation.logprobs, "With --json: log-probability of each token and of the N likeliest")
      ->type_name("N")
      ->group("Output");
  c->add_flag("--hide-prompt", o->hide_prompt, "Print the continuations alone")->group("Output");
  c->add_flag("--stats", o->stats, "Print statistics on standard error, also where it is not a terminal")->group("Output");
  c->add_option("--stats-json", o->stats_json, "Write the statistics as JSON to this file")->type_name("FILE")->group("Output");
  c->add_option("--trace", o->trace, "Write a timeline as JSON to this file: for flexgen trace, or ui.perfetto.dev")
      ->type_name("FILE")
      ->group("Output");
  c->callback([o, &selected] { selected = [o] { return generate(*o); }; });
}

}  // namespace flexgen::tools

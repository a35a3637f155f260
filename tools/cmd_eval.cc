// SPDX-License-Identifier: Apache-2.0
// flexgen eval: perplexity of a model on a text.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "flexgen/engine/perplexity.h"
#include "flexgen/io/file.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/loaded_model.h"
#include "tools/progress.h"

namespace flexgen::tools {

namespace {

constexpr const char* kManual =
    "Windows begin every --stride tokens and are --max-length long; each token is scored once, in the first window that holds it, given\n"
    "all earlier tokens of that window. A token that opens its window is not scored. This is how HuggingFace's documentation defines\n"
    "perplexity with a stride, so results compare.\n"
    "\n"
    "Examples:\n"
    "  flexgen eval --model opt-125m.flex --text book.txt\n"
    "  flexgen eval --model ./opt-125m --text book.txt --max-length 2048 --stride 512 --json\n\n";

struct EvalOptions {
  std::string model, text;
  std::optional<int64_t> max_length, stride;
  bool json = false;
  EngineFlags engine;
};

int eval(const EvalOptions& o) {
  o.engine.check();
  catch_interrupts();
  const std::string text = read_text_file(o.text, 1_GiB);
  LoadedModel loaded(o.model, o.engine);
  const ModelDescription& model = loaded.model().description();
  const std::vector<int32_t> tokens = loaded.tokenizer().encode(text);

  PerplexityOptions p;
  p.max_length = o.max_length.value_or(std::min<int64_t>(512, model.max_positions));
  p.stride = o.stride.value_or(std::max<int64_t>(1, p.max_length / 2));
  p.gpu_batch_size = loaded.policy().gpu_batch_size;
  p.num_gpu_batches = loaded.policy().num_gpu_batches;
  p.micro_batch_tokens = loaded.policy().micro_batch_tokens;
  check(p, model, static_cast<int64_t>(tokens.size()));

  const auto windows = static_cast<int64_t>(tokens.size()) / p.stride + 1;
  const int64_t length = std::min(p.max_length, static_cast<int64_t>(tokens.size()));
  Demand demand{.tokens_per_sequence = length, .least_sweep_tokens = length};
  demand.sequences = std::min(windows, p.gpu_batch_size * p.num_gpu_batches);
  demand.total_tokens = demand.sweep_tokens = demand.logits = demand.sequences * length;
  loaded.load(demand);
  p.windows_at_once = std::min(demand.sequences, loaded.offload().plan().sweep_tokens / length);
  p.kv = loaded.offload().kv_options();
  p.sweep = loaded.offload().sweep_options();

  const Stopwatch watch;
  PerplexityResult result;
  {
    std::atomic<uint64_t> done{0};
    const Progress progress("eval", done, tokens.size() > 1 ? tokens.size() - 1 : 0, ProgressUnit::tokens);
    result = perplexity(model, loaded.operations(), loaded.pool(), loaded.offload().weights(), tokens, p,
                        [&](int64_t n) { done.store(static_cast<uint64_t>(n), std::memory_order_relaxed); }, &interrupted);
  }
  const double seconds = watch.seconds();
  loaded.offload().check_disk();
  if (o.json) {
    const nlohmann::ordered_json out{{"model", o.model},          {"text", o.text},          {"max_length", p.max_length},
                                     {"stride", p.stride},        {"tokens", result.tokens}, {"nll", result.nll},
                                     {"perplexity", result.perplexity()}, {"seconds", seconds}};
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("perplexity  {:.4f}\nnll         {:.6f}\ntokens      {}\n", result.perplexity(), result.nll, result.tokens);
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App* command = program.add_subcommand("eval", "Perplexity of a model on a text");
  command->footer(kManual);
  command->add_option("--model", o->model, "Model file, or HuggingFace folder (converted once, into the cache)")
      ->type_name("FILE|FOLDER")
      ->required();
  command->add_option("--text", o->text, "The text, UTF-8")->type_name("FILE")->required();
  command->add_option("--max-length", o->max_length, "Tokens of a window [512, or the model's context if that is less]")->type_name("N");
  command->add_option("--stride", o->stride, "Tokens from one window's beginning to the next one's [half of --max-length]")->type_name("N");
  command->add_flag("--json", o->json, "One JSON object on standard output: perplexity, nll, tokens and how they were made");
  add_engine_options(*command, o->engine);
  command->callback([o, &selected] { selected = [o] { return eval(*o); }; });
}

}  // namespace flexgen::tools

// SPDX-License-Identifier: Apache-2.0
// flexgen-bench end-to-end: FlexGen's benchmark (flexllmgen/flex_opt.py): so many prompts of one length, continued greedily by so many
// tokens, in blocks of gpu-batch-size x num-gpu-batches sequences. From a cold cache: everything is read past the page cache. With
// --synthetic-context the KV cache is filled with random values instead of being computed, so that decoding can be measured alone.
//
// Beside each time its roof, measured in the same run: per sweep
//   disk      (weights + KV - 0.95 x budget) / the disk's rate
//   compute   FLOP / max(our matrix product's rate for that many tokens, half the FMA peak)
// With --percent the bytes asked to be on disk take the place of what does not fit the budget. With a card, what does not fit its memory
// also has to come over its link, and the matrix product is the card's, with the rate that was measured for it and no peak beside it.
#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/command.h"
#include "bench/device_roofs.h"
#include "bench/disk_roof.h"
#include "bench/harness.h"
#include "bench/model_roofs.h"
#include "bench/process_usage.h"
#include "flexgen/engine/flow_statistics.h"
#include "flexgen/engine/offload.h"
#include "flexgen/engine/softmax.h"
#include "flexgen/memory/device_text.h"
#include "kernels/registry.h"
#include "tools/compute_device.h"
#include "tools/engine_options.h"
#include "tools/flow_report.h"
#include "tools/interrupt.h"
#include "tools/plan_table.h"
#include "tools/small_file.h"
#include "tools/trace_file.h"

namespace flexgen::bench {
namespace {

using Json = nlohmann::ordered_json;

struct EndToEndOptions {
  std::string model, trace;
  int64_t prompts = 1, prompt_len = 512, gen_len = 32, sweeps = 0, synthetic_context = 0;
  double roof_seconds = 3;
  uint64_t seed = 1;
  tools::EngineFlags engine;
  bool json = false;
};

void check(const EndToEndOptions& o) {
  const auto whole = [](const char* name, int64_t found, int64_t low, int64_t high) {
    if (found < low || found > high) fail(Fault::usage, "{}: found {}, allowed a whole number from {} to {}", name, found, low, high);
  };
  whole("--prompts", o.prompts, 1, 1 << 20);
  whole("--prompt-len", o.prompt_len, 1, 1 << 20);
  whole("--gen-len", o.gen_len, 1, 1 << 20);
  whole("--sweeps", o.sweeps, 0, 1 << 20);
  whole("--synthetic-context", o.synthetic_context, 0, 1 << 20);
  if (!(o.roof_seconds >= 0.01 && o.roof_seconds <= 3600)) fail(Fault::usage, "--roof-seconds: found {}, allowed 0.01 to 3600", o.roof_seconds);
  o.engine.check();
}

// A sweep that was timed
struct Timed {
  double seconds = 0;
  SweepRoof roof;
  int64_t tokens = 0;
};

class EndToEnd {
 public:
  explicit EndToEnd(const EndToEndOptions& o)
      : o_(o),
        backend_(backend(o.engine.isa)),
        model_(o.model),
        policy_(o.engine.policy(model_.default_kv_dtype())),
        pool_(o.engine.n_threads()),
        device_(o.engine),
        work_(model_work(model_.file(), description(), policy_.kv_dtype)) {
    const int64_t longest = first_length() + decode_sweeps();
    if (longest > description().max_positions)
      fail(Fault::usage, "{} positions are needed, allowed the model's {}. Lower --prompt-len, --synthetic-context or --gen-len", longest,
           description().max_positions);
    if (!device_.note().empty()) fmt::print(stderr, "{}\n", device_.note());
    if (!o.trace.empty()) trace_file_.emplace(o.trace), trace_.emplace();
    drop_cache();
    disk_ = measure_disk_roof(o_.model, o_.roof_seconds);
    tools::check_interrupted();
    if (device_) {
      link_ = link_rate(*device_.device());
    } else {
      fma_ = fma_peak(pool_, backend_.name);
    }
  }

  int run() {
    MemoryPlan plan = make_memory_plan(model_.file(), description(), policy_, demand(), process_memory(), device_.room());
    if (!o_.json) fmt::print("{}\n", tools::plan_table(plan));
    // before the run's memory is there, and not counted in its peak
    measure_products(demand().sequences);
    if (o_.synthetic_context == 0) measure_products(std::min(demand().sweep_tokens, plan.sweep_tokens));
    forget_peak_rss();
    const double load = seconds_now();
    Ended ended{plan};
    {
      Offload offload(model_, policy_, std::move(plan), pool_,
                      {.io_engine = o_.engine.io_engine,
                       .faults = o_.engine.faults(),
                       .spill_folder = o_.engine.offload_dir,
                       .device = device_.backend(),
                       .host = &backend_,
                       .trace = trace_ ? &*trace_ : nullptr,
                       .stop = &tools::interrupted});
      KvStore cache(offload.kv_options());
      Sweep sweep(description(), device_ ? device_.backend()->operations() : backend_, {&pool_}, offload.weights(), cache, offload.sweep_options());
      sweep_ = &sweep, cache_ = &cache, offload_ = &offload;
      load_s_ = seconds_now() - load;
      for (int64_t first = 0; first < o_.prompts; first += block()) run_block(first, std::min(block(), o_.prompts - first));
      ended.io_engine = offload.io().name(), ended.direct = offload.direct(), ended.coverage = offload.arena().huge_coverage();
      ended.loaded_bytes = offload.weights().statistics().loaded_bytes, ended.peak_rss = peak_rss_bytes();
      offload.check_disk();
    }
    measure_disk_again();
    report(ended);
    if (trace_file_) write_trace();
    return 0;
  }

 private:
  const ModelDescription& description() const { return model_.description(); }
  int64_t block() const { return policy_.gpu_batch_size * policy_.num_gpu_batches; }
  int64_t first_length() const { return o_.synthetic_context > 0 ? o_.synthetic_context : o_.prompt_len; }
  // the first token comes of the prompt, the last one is not computed
  int64_t decode_sweeps() const {
    const int64_t all = o_.synthetic_context > 0 ? o_.gen_len : o_.gen_len - 1;
    return o_.sweeps > 0 ? std::min(o_.sweeps, all) : all;
  }

  Demand demand() const {
    Demand d;
    d.sequences = std::min(o_.prompts, block());
    d.tokens_per_sequence = first_length() + decode_sweeps();
    d.total_tokens = d.sequences * d.tokens_per_sequence;
    d.least_sweep_tokens = d.logits = d.sequences;
    d.sweep_tokens = o_.synthetic_context > 0 ? d.sequences : d.sequences * o_.prompt_len;
    if (trace_) d.trace_bytes = trace_->most_bytes();
    return d;
  }

  // --- roofs

  void drop_cache() const { ::posix_fadvise(model_.file().file().fd(), 0, 0, POSIX_FADV_DONTNEED); }

  // A disk drifts, and a burst that it grants may end within a run: its roof is the mean of before and after. The run's memory is free again.
  void measure_disk_again() {
    disk_after_ = measure_disk_roof(o_.model, o_.roof_seconds).bytes_per_s;
    for (auto* all : {&prefill_, &decode_})
      for (Timed& t : *all) t.roof.disk_s *= disk_.bytes_per_s / disk_rate();
  }
  double disk_rate() const { return (disk_.bytes_per_s + disk_after_) / 2; }

  void measure_products(int64_t n_tok) {
    const int64_t n = std::min<int64_t>(n_tok, device_ ? 4096 : 512);
    if (auto& rate = product_rates_[n]; rate == 0)
      rate = device_ ? product_rate(*device_.backend(), layer_dtype(), description().ffn, description().width, n)
                     : product_rate(pool_, backend_, layer_dtype(), description().ffn, description().width, n);
  }
  // FLOP/s that may be expected with that many tokens: what was measured with no fewer, if there is such
  double flop_rate(double n_tok) const {
    const auto at = product_rates_.lower_bound(static_cast<int64_t>(n_tok));
    return std::max(at == product_rates_.end() ? product_rates_.rbegin()->second : at->second, fma_ / 2);
  }
  DType layer_dtype() const {
    const Program p = opt_program(description());
    for (const Operation& op : p.body[1].operations)
      if (op.kind == Operation::Kind::linear) return file_tensor(model_.file(), *op.weight).dtype;
    return DType::f16;
  }

  // of a sweep of n_tok tokens that see `seen` positions together, beside a cache of kv_positions
  SweepRoof roof(double n_tok, double n_logits, double seen, double kv_positions) {
    const double kv = kv_positions * work_.kv_bytes, weights = static_cast<double>(model_.file().weight_bytes());
    const MemoryPlan& plan = offload_->plan();
    const double card = device_ ? 0.95 * static_cast<double>(plan.device->budget_bytes) : 0;
    double bytes = weights + kv - card - 0.95 * static_cast<double>(plan.budget_bytes), over_link = weights + kv - card;
    if (policy_.shares) {
      bytes = weights * (1 - policy_.shares->weights.memory()) + kv * (1 - policy_.shares->cache.memory());
      over_link = weights * (1 - policy_.shares->weights.device) + kv * (1 - policy_.shares->cache.device);
    }
    const double flops = n_tok * work_.layer_flops + n_logits * work_.head_flops + seen * work_.attention_flops;
    return {std::max(0.0, bytes) / disk_.bytes_per_s, flops / flop_rate(n_tok), device_ ? std::max(0.0, over_link) / link_ : 0};
  }

  // --- the run

  struct Sequence {
    SequenceId id = 0;
    std::vector<int32_t> context;
  };

  void run_block(int64_t first, int64_t n) {
    std::vector<Sequence> block(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      Sequence& s = block[static_cast<size_t>(i)];
      std::mt19937_64 random(o_.seed * 1'000'003 + static_cast<uint64_t>(first + i));
      for (int64_t t = 0; t < first_length() + (o_.synthetic_context > 0 ? 1 : 0); ++t)
        s.context.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(description().vocab)));
      s.id = cache_->create();
      if (o_.synthetic_context > 0) cache_->fill_synthetic(s.id, o_.synthetic_context, o_.seed + static_cast<uint64_t>(first + i));
    }
    cache_->settle();  // what was made up is still being written
    const FlowStatistics before = flow();
    const double cpu = cpu_seconds(), machine = machine_cpu_seconds();
    for (bool more = o_.synthetic_context == 0; more;) prefill_.push_back(sweep(block, more, offload_->plan().sweep_tokens));
    for (int64_t i = 0; i < decode_sweeps(); ++i) {
      bool more = false;
      decode_.push_back(sweep(block, more, n));
    }
    cpu_s_ += cpu_seconds() - cpu;
    machine_cpu_s_ += machine_cpu_seconds() - machine;
    add(flow() - before);
    const KvStatistics kv = cache_->statistics();
    if (kv.memory_bytes + kv.disk_bytes > 0)
      kv_share_ = static_cast<double>(kv.memory_bytes) / static_cast<double>(kv.memory_bytes + kv.disk_bytes), kv_memory_ = kv.memory_bytes,
      kv_disk_ = kv.disk_bytes;
    for (Sequence& s : block) cache_->drop(s.id);
  }

  // One sweep over what is not computed yet, at most `room` tokens; more: something is left
  Timed sweep(std::vector<Sequence>& block, bool& more, int64_t room) {
    std::vector<Span> spans;
    std::map<SequenceId, Sequence*> by_id;
    double seen = 0, positions = 0;
    more = false;
    for (Sequence& s : block) {
      const int64_t done = cache_->length(s.id), left = static_cast<int64_t>(s.context.size()) - done, n = std::min(left, room);
      positions += static_cast<double>(done + n);
      more |= n < left;
      if (n == 0) continue;
      room -= n;
      const auto begin = s.context.begin() + done;
      spans.push_back({s.id, {begin, begin + n}, done, n == left ? n - 1 : n, Draw{}});
      by_id[s.id] = &s;
      seen += (static_cast<double>(done) + static_cast<double>(n + 1) / 2) * static_cast<double>(n);
    }
    const SweepPlan plan = pack(std::move(spans), policy_.gpu_batch_size, policy_.micro_batch_tokens);
    Timed t;
    double n_logits = 0;
    const double start = seconds_now();
    sweep_->run(plan,
                [&](const LogitsRow& row) {
                  by_id.at(plan.micro_batches[row.micro_batch].spans[row.span].sequence)
                      ->context.push_back(row.drawn ? *row.drawn : argmax(row.values));
                  ++n_logits;
                },
                &tools::interrupted);
    for (const MicroBatch& m : plan.micro_batches)
      for (const Span& s : m.spans) cache_->commit(s.sequence, s.n_tok());
    t.seconds = seconds_now() - start;
    t.tokens = plan.n_tok();
    t.roof = roof(static_cast<double>(t.tokens), n_logits, seen, positions);
    return t;
  }

  FlowStatistics flow() const {
    FlowStatistics f = flow_statistics(sweep_->statistics(), sweep_->hidden_statistics(), offload_->weights().statistics(), cache_->statistics(),
                                       offload_->io().statistics(), offload_->device_io(), offload_->device_queue());
    for (const auto* all : {&prefill_, &decode_})
      for (const Timed& t : *all) f.elapsed_s += t.seconds;
    return f;
  }
  void add(const FlowStatistics& f) { flow_ = n_blocks_++ == 0 ? f : flow_ + f; }

  // --- results

  static double seconds(const std::vector<Timed>& all) {
    return std::accumulate(all.begin(), all.end(), 0.0, [](double sum, const Timed& t) { return sum + t.seconds; });
  }
  static SweepRoof roofs(const std::vector<Timed>& all) {
    SweepRoof sum;
    for (const Timed& t : all) sum.disk_s += t.roof.disk_s, sum.compute_s += t.roof.compute_s, sum.link_s += t.roof.link_s;
    return sum;
  }
  static double share(const std::vector<Timed>& all) {
    double roof = 0;
    for (const Timed& t : all) roof += t.roof.s();
    return all.empty() ? 0 : roof / seconds(all);
  }

  // What is known when its memory has been given back
  struct Ended {
    MemoryPlan plan;
    std::string io_engine = {};
    bool direct = false;
    std::optional<double> coverage = {};
    uint64_t loaded_bytes = 0, peak_rss = 0;
  };

  void report(const Ended& ended) {
    const MemoryPlan& plan = ended.plan;
    const double prefill_s = seconds(prefill_), decode_s = seconds(decode_);
    const double decode_tokens =
        std::accumulate(decode_.begin(), decode_.end(), 0.0, [](double sum, const Timed& t) { return sum + static_cast<double>(t.tokens); });
    const double generated = decode_tokens + (o_.synthetic_context > 0 ? 0 : static_cast<double>(o_.prompts));
    const double prompt_tokens = o_.synthetic_context > 0 ? 0 : static_cast<double>(o_.prompts * o_.prompt_len);
    const auto& main = decode_.empty() ? prefill_ : decode_;
    const SweepRoof all_roofs = roofs(main);
    const double n = static_cast<double>(main.size());
    const auto rate = [](double count, double s) { return s > 0 ? count / s : 0; };
    const double activations = tools::realised(plan).activations / 100;
    const double memory_weights = static_cast<double>(plan.weights.memory_bytes() + plan.weights.host_bytes());

    Json asked = Json();
    if (policy_.shares) {
      const auto tier = [](const TierShare& s) { return Json{{"device", s.device}, {"host", s.host}, {"disk", 1 - s.memory()}}; };
      asked = Json{
          {"weights", tier(policy_.shares->weights)}, {"kv_cache", tier(policy_.shares->cache)}, {"activations", tier(policy_.shares->activations)}};
    }
    Json j{{"model", o_.model},
           {"prompts", o_.prompts},
           {"prompt_len", o_.synthetic_context > 0 ? 0 : o_.prompt_len},
           {"gen_len", o_.gen_len},
           {"synthetic_context", o_.synthetic_context},
           {"gpu_batch_size", policy_.gpu_batch_size},
           {"num_gpu_batches", policy_.num_gpu_batches},
           {"overlap", policy_.overlap},
           {"verify", o_.engine.verify},
           {"kv_dtype", name(policy_.kv_dtype)},
           {"memory_bytes", plan.budget_bytes},
           {"threads", pool_.size()},
           {"isa", backend_.name},
           {"device", device_ ? Json(to_string(device_.device()->info())) : Json("cpu")},
           {"gemm", o_.engine.gemm},
           {"deterministic", o_.engine.deterministic},
           {"gpu_memory_bytes", plan.device ? plan.device->budget_bytes : 0},
           {"planned_gpu_bytes", plan.device_bytes()},
           {"io_engine", ended.io_engine},
           {"direct", ended.direct},
           {"load_s", load_s_},
           {"prefill_s", prefill_s},
           {"prefill_tokens_per_s", rate(prompt_tokens, prefill_s)},
           {"prefill_sweeps", prefill_.size()},
           {"decode_s", decode_s},
           {"decode_tokens_per_s", rate(decode_tokens, decode_s)},
           {"total_tokens_per_s", rate(generated, prefill_s + decode_s)},
           {"sweeps", prefill_.size() + decode_.size()},
           {"decode_sweep_s", Json::array()},
           {"peak_rss_bytes", ended.peak_rss},
           {"planned_bytes", plan.memory_bytes()},
           {"bytes_read", flow_.bytes_read},
           {"bytes_written", flow_.bytes_written},
           {"bytes_loaded", ended.loaded_bytes},
           {"streamed_bytes_per_sweep", plan.weights.streamed_bytes()},
           {"cpu_s", cpu_s_},
           {"others_cpu_s", std::max(0.0, machine_cpu_s_ - cpu_s_)},
           {"huge_coverage", ended.coverage ? Json(*ended.coverage) : Json()},
           {"placement",
            {{"asked", asked},
             {"realised",
              {{"weights",
                {{"device", device_ ? plan.weights.share() : 0},
                 {"memory", plan.weights.share() + plan.weights.host_share()},
                 {"disk", 1 - plan.weights.share() - plan.weights.host_share()},
                 {"memory_bytes", memory_weights},
                 {"disk_bytes", plan.weights.disk_bytes()}}},
               {"kv_cache", {{"memory", kv_share_}, {"disk", 1 - kv_share_}, {"memory_bytes", kv_memory_}, {"disk_bytes", kv_disk_}}},
               {"activations", {{"memory", activations}, {"disk", 1 - activations}}}}}}},
           {"roof_disk_s_per_sweep", n > 0 ? all_roofs.disk_s / n : 0},
           {"roof_compute_s_per_sweep", n > 0 ? all_roofs.compute_s / n : 0},
           {"roof_link_s_per_sweep", n > 0 ? all_roofs.link_s / n : 0},
           {"share_of_roof", share(main)},
           {"prefill_share_of_roof", share(prefill_)},
           {"roofs",
            {{"disk_bytes_per_s", disk_rate()},
             {"disk_bytes_per_s_before", disk_.bytes_per_s},
             {"disk_bytes_per_s_after", disk_after_},
             {"disk_how", disk_.how},
             {"fma_flop_per_s", fma_},
             {"link_bytes_per_s", link_},
             {"product_flop_per_s", Json::object()}}},
           {"flow", tools::to_json(flow_)}};
    for (const Timed& t : decode_) j["decode_sweep_s"].push_back(t.seconds);
    for (const auto& [tokens, flops] : product_rates_) j["roofs"]["product_flop_per_s"][std::to_string(tokens)] = flops;
    if (o_.json) {
      fmt::print("{}\n", j.dump());
      return;
    }
    const auto line = [](std::string_view what, const std::string& value) { fmt::print("  {:<18} {}\n", what, value); };
    const auto sweeps = [&](const std::vector<Timed>& all, double tokens) {
      const SweepRoof r = roofs(all);
      const double k = static_cast<double>(all.size());
      return fmt::format("{:.2f} s, {:.3f} tokens/s, {} sweeps of {:.3f} s; roof {:.3f} s (disk {:.3f}, compute {:.3f}{}): {:.2f} of it",
                         seconds(all), rate(tokens, seconds(all)), all.size(), seconds(all) / k, share(all) * seconds(all) / k, r.disk_s / k,
                         r.compute_s / k, device_ ? fmt::format(", link {:.3f}", r.link_s / k) : "", share(all));
    };
    line("roofs", fmt::format("disk {:.2f} GB/s, {:.2f} before and {:.2f} after ({}), {}", disk_rate() * 1e-9, disk_.bytes_per_s * 1e-9,
                              disk_after_ * 1e-9, disk_.how,
                              device_ ? fmt::format("link {:.2f} GB/s", link_ * 1e-9) : fmt::format("FMA {:.0f} GFLOP/s", fma_ * 1e-9)));
    for (const auto& [tokens, flops] : product_rates_) line("", fmt::format("matrix product, {} tokens: {:.0f} GFLOP/s", tokens, flops * 1e-9));
    line("load", fmt::format("{:.2f} s", load_s_));
    if (!prefill_.empty()) line("prefill", sweeps(prefill_, prompt_tokens));
    if (!decode_.empty()) line("decode", sweeps(decode_, decode_tokens));
    line("in all", fmt::format("{:.3f} tokens/s", rate(generated, prefill_s + decode_s)));
    line("memory", fmt::format("{} at most, planned {}, budget {}", format_bytes(ended.peak_rss), format_bytes(plan.memory_bytes()),
                               format_bytes(plan.budget_bytes)));
    line("CPU", fmt::format("{:.2f} s, others {:.2f} s", cpu_s_, std::max(0.0, machine_cpu_s_ - cpu_s_)));
    fmt::print("{}", tools::table(flow_));
  }

  void write_trace() {
    tools::write_trace(*trace_, [&](std::string_view text) { trace_file_->append(text); });
    trace_file_->commit();
  }

  const EndToEndOptions o_;
  const Backend& backend_;
  LanguageModel model_;
  const Policy policy_;
  ThreadPool pool_;
  const tools::ComputeDevice device_;
  const ModelWork work_;
  std::optional<tools::SmallFile> trace_file_;
  std::optional<Trace> trace_;

  DiskRoof disk_;  // before the run
  double disk_after_ = 0;
  double fma_ = 0, link_ = 0;
  std::map<int64_t, double> product_rates_;  // by tokens

  Sweep* sweep_ = nullptr;
  KvStore* cache_ = nullptr;
  Offload* offload_ = nullptr;
  std::vector<Timed> prefill_, decode_;
  FlowStatistics flow_;
  int n_blocks_ = 0;
  double load_s_ = 0, cpu_s_ = 0, machine_cpu_s_ = 0;
  double kv_share_ = 1;
  uint64_t kv_memory_ = 0, kv_disk_ = 0;
};

}  // namespace

void add_end_to_end(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<EndToEndOptions>();
  CLI::App* c = program.add_subcommand("end-to-end", "Prefill and decoding of synthetic prompts from a cold cache, beside their roofs");
  c->add_option("--model", o->model, "Model file, such as flexgen synth makes")->required()->type_name("FILE");
  c->add_option("--prompts", o->prompts, "Prompts of random tokens")->capture_default_str();
  c->add_option("--prompt-len", o->prompt_len, "Tokens of each")->capture_default_str();
  c->add_option("--gen-len", o->gen_len, "Tokens that continue it")->capture_default_str();
  c->add_option("--sweeps", o->sweeps, "Decode at most so many of them [all]");
  c->add_option("--synthetic-context", o->synthetic_context, "Fill the cache with so many positions instead of computing prompts");
  c->add_option("--seed", o->seed, "Of the prompts")->capture_default_str();
  c->add_option("--roof-seconds", o->roof_seconds, "How long the disk's roof is measured")->capture_default_str();
  tools::add_engine_options(*c, o->engine);
  c->add_option("--trace", o->trace, "Write a timeline as JSON to this file: for flexgen trace")->type_name("FILE");
  c->add_flag("--json", o->json, "One JSON object");
  c->footer("Examples:\n"
            "  flexgen-bench end-to-end --model m.flex --memory 6GiB --prompts 16 --prompt-len 512 --gen-len 32\n"
            "  flexgen-bench end-to-end --model m.flex --percent 0 50 100 0 100 0 --prompts 48 --synthetic-context 128 --gen-len 3\n\n");
  c->callback([o, &selected] {
    selected = [o] {
      check(*o);
      return EndToEnd(*o).run();
    };
  });
}

}  // namespace flexgen::bench

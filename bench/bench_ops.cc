// SPDX-License-Identifier: Apache-2.0
// flexgen-bench ops: each operation's speed beside the roof that bounds it. Every line is checked against the reference before it is
// timed, and its roofs are measured again right before it, because on shared machines both drift.
//
// Operands come from memory, not from cache: repetitions rotate through copies that together take at least twice the last-level
// cache (a virtual machine is told its host's whole cache; then the rotation is bounded by a quarter of the memory, and the head
// of the output says which it was).
#include <fmt/core.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "bench/command.h"
#include "bench/harness.h"
#include "bench/roofs.h"
#include "flexgen/memory/buffer.h"
#include "flexgen/ops/ref/backend.h"
#include "kernels/registry.h"

namespace flexgen::bench {
namespace {

struct OpsOptions {
  std::string filter;
  std::string isa = "auto";
  int threads = 0;
  bool json = false;
};

// What a line did, for its roof: the time that the FMA units need, or that memory needs, whichever is longer
struct Work {
  double flops = 0, bytes = 0;
};

class OpsBench {
 public:
  explicit OpsBench(const OpsOptions& o)
      : options_(o), backend_(backend(o.isa)), pool_(o.threads > 0 ? o.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))),
        slow_(backend_.name == "portable" || backend_.name == "ref") {
    const uint64_t cache = last_level_cache(), total = std::strtoull(proc_value("/proc/meminfo", "MemAvailable").c_str(), nullptr, 10) << 10;
    size_t bytes = static_cast<size_t>(std::max<uint64_t>(2 * cache, 1_GiB));
    bool bounded = bytes > total / 4;
    if (bounded) bytes = static_cast<size_t>(total / 4);
    memory_ = Buffer(bytes);
    fill(DType::f32);
    machine_ = {{"cpu", proc_value("/proc/cpuinfo", "model name")},
                {"threads", pool_.size()},
                {"isa", backend_.name},
                {"last_level_cache_bytes", cache},
                {"rotation_bytes", bytes},
                {"rotation_is_bounded_by_memory", bounded},
                {"compiler", __VERSION__},
                {"build", "release"}};
    roofs_ = {{"read_bytes_per_s", read_bandwidth(pool_, memory_.bytes())}};
    for (const Backend* b : backends())
      if (b->name != "ref") roofs_["fma_flop_per_s"][std::string(b->name)] = fma_peak(pool_, b->name);
    if (options_.json) return;
    fmt::print("{}, {} threads, {}\n", std::string(machine_["cpu"]), pool_.size(), backend_.name);
    fmt::print("operands rotate through {}{}; the CPU reports a last-level cache of {}\n", format_bytes(bytes),
               bounded ? " (a quarter of the free memory)" : "", format_bytes(cache));
    fmt::print("roofs: read {:.1f} GB/s", roofs_["read_bytes_per_s"].get<double>() / 1e9);
    for (const auto& [isa, flops] : roofs_["fma_flop_per_s"].items()) fmt::print(", FMA {} {:.0f} GFLOP/s", isa, flops.get<double>() / 1e9);
    fmt::print("\n\n{:44} {:>10} {:>9} {:>9} {:>7} {:>9} {:>8} {:>6}\n", "operation", "median ms", "min", "max", "GB/s", "GFLOP/s", "roof ms",
               "share");
  }

  int run() {
    for (DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (auto [n, k] : {std::pair<int64_t, int64_t>{16384, 4096}, {4096, 16384}})
        for (int64_t t : {1, 4, 16, 48, 64, 128, 512}) bench_linear(dtype, slow_ ? n / 8 : n, slow_ ? k / 8 : k, t);
    for (DType dtype : {DType::f32, DType::f16}) bench_decode(dtype);
    for (DType dtype : {DType::f32, DType::f16}) bench_prefill(dtype);
    bench_layer_norm();
    if (options_.json) fmt::print("{}\n", nlohmann::ordered_json{{"machine", machine_}, {"roofs", roofs_}, {"lines", lines_}}.dump());
    return 0;
  }

 private:
  bool wanted(const std::string& title) const { return title.find(options_.filter) != std::string::npos; }

  // values in [-0.5, 0.5) of that format in all of memory
  void fill(DType dtype) {
    if (filled_ == dtype) return;
    filled_ = dtype;
    const size_t pattern = 4_MiB, size = size_of(dtype);
    uint64_t state = 1;
    for (size_t i = 0; i < std::min(pattern, memory_.size()) / size; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      store_element(dtype, memory_.data(), i, static_cast<float>(static_cast<int64_t>(state >> 40)) * 0x1p-24f - 0.5f);
    }
    for (size_t at = pattern; at < memory_.size(); at += pattern)
      std::memcpy(memory_.data() + at, memory_.data(), std::min(pattern, memory_.size() - at));
  }

  template <typename Fn>
  void line(const std::string& title, Work work, Fn&& fn) {
    const double bandwidth = read_bandwidth(pool_, memory_.bytes()), peak = fma_peak(pool_, backend_.name);
    const Timing t = measure(fn);
    const double compute = work.flops / peak, memory = work.bytes / bandwidth, roof = std::max(compute, memory);
    lines_.push_back({{"name", title},
                      {"median_s", t.median},
                      {"min_s", t.min},
                      {"max_s", t.max},
                      {"repetitions", t.repetitions},
                      {"flop", work.flops},
                      {"bytes", work.bytes},
                      {"flop_per_s", work.flops / t.median},
                      {"bytes_per_s", work.bytes / t.median},
                      {"roof", compute > memory ? "fma" : "read"},
                      {"roof_s", roof},
                      {"share", roof / t.median}});
    if (options_.json) return;
    fmt::print("{:44} {:10.3f} {:9.3f} {:9.3f} {:7.1f} {:9.1f} {:8.3f} {:6.2f} of {}\n", title, t.median * 1e3, t.min * 1e3, t.max * 1e3,
               work.bytes / t.median / 1e9, work.flops / t.median / 1e9, roof * 1e3, roof / t.median, compute > memory ? "FMA" : "read");
    std::fflush(stdout);
  }

  static void require(bool right, const std::string& title) {
    if (!right) fail(Fault::internal, "{}: its results differ from the reference's", title);
  }

  void bench_linear(DType dtype, int64_t n, int64_t k, int64_t t) {
    const std::string title = fmt::format("linear {} {}x{} T={}", name(dtype), n, k, t);
    if (!wanted(title)) return;
    fill(dtype);
    const size_t bytes = static_cast<size_t>(n * k) * size_of(dtype), copies = std::max<size_t>(1, memory_.size() / bytes);
    std::vector<float> x(static_cast<size_t>(t * k)), y(static_cast<size_t>(t * n)), want(y.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761u % 1000) / 500 - 1;
    const auto args = [&](size_t copy, int64_t rows, std::vector<float>& out) {
      block_ = {memory_.data() + copy % copies * bytes, 0, rows};
      return LinearArgs{{x.data(), t, k, k}, {dtype, n, k, {&block_, 1}}, nullptr, {out.data(), t, n, n}, Activation::none, false};
    };
    // 40 rows are compared: |error| <= (K/16 + 8) 2^-24 K max|x w|
    const int64_t rows = std::min<int64_t>(n, 40);
    linear(ref::kBackend, args(0, rows, want), {&pool_});
    linear(backend_, args(0, rows, y), {&pool_});
    const double tolerance = (static_cast<double>(k) / 16 + 8) * 0x1p-24 * static_cast<double>(k) * 0.5;
    for (int64_t i = 0; i < t; ++i)
      for (int64_t j = 0; j < rows; ++j)
        require(
            std::abs(static_cast<double>(y[static_cast<size_t>(i * n + j)]) - static_cast<double>(want[static_cast<size_t>(i * n + j)])) <= tolerance,
            title);
    line(title, {2.0 * static_cast<double>(n * k) * static_cast<double>(t), static_cast<double>(bytes)},
         [&](int i) { linear(backend_, args(static_cast<size_t>(i), n, y), {&pool_}); });
  }

  // Spans over pages that lie one after another in the rotation memory; K and V pages take turns
  struct Cache {
    KvLayout layout;
    std::vector<std::byte*> k, v;
    std::vector<KvSpan> spans;
  };
  Cache cache(DType dtype, int64_t heads, int64_t d, int64_t sequences, int64_t n_tok, int64_t first_position) {
    Cache c;
    c.layout = {dtype, heads, d, 64};
    const auto pages = static_cast<size_t>((first_position + n_tok + 63) / 64), all = pages * static_cast<size_t>(sequences);
    for (size_t p = 0; p < all; ++p) {
      c.k.push_back(memory_.data() + 2 * p * c.layout.page_bytes());
      c.v.push_back(memory_.data() + (2 * p + 1) * c.layout.page_bytes());
    }
    FG_CHECK(2 * all * c.layout.page_bytes() <= memory_.size(), "{} pages", all);
    for (int64_t s = 0; s < sequences; ++s)
      c.spans.push_back({s * n_tok, n_tok, first_position, c.k.data() + static_cast<size_t>(s) * pages, c.v.data() + static_cast<size_t>(s) * pages});
    return c;
  }

  void bench_attention(const std::string& title, const Cache& c, int64_t rows, Work work) {
    const int64_t width = c.layout.n_heads * c.layout.head_dim;
    std::vector<float> q(static_cast<size_t>(rows * width)), y(q.size()), want(q.size());
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(i * 2654435761u % 1000) / 500 - 1;
    const float scale = 1 / std::sqrt(static_cast<float>(c.layout.head_dim));
    const auto args = [&](std::vector<float>& out, std::span<const KvSpan> spans) {
      return AttentionArgs{{q.data(), rows, width, width}, {out.data(), rows, width, width}, c.layout.n_heads, scale, c.layout, spans};
    };
    KvSpan first = c.spans[0];
    first.n_tok = std::min<int64_t>(first.n_tok, 40);
    attention(ref::kBackend, args(want, {&first, 1}), {&pool_});
    attention(backend_, args(y, {&first, 1}), {&pool_});
    for (size_t i = 0; i < static_cast<size_t>(first.n_tok * width); ++i) require(std::abs(y[i] - want[i]) <= 1e-4f, title);
    line(title, work, [&](int) { attention(backend_, args(y, c.spans), {&pool_}); });
  }

  void bench_decode(DType dtype) {
    const int64_t heads = 32, d = 128, context = 1024;
    // as many sequences as the memory holds, so that nothing is in cache when its turn comes again
    const auto each = static_cast<double>(2 * heads * d * context) * static_cast<double>(size_of(dtype));
    const auto sequences = static_cast<int64_t>(static_cast<double>(memory_.size()) / each);
    const std::string title = fmt::format("attention decode {} {} x {} positions", name(dtype), sequences, context);
    if (!wanted(title)) return;
    fill(dtype);
    const double n = static_cast<double>(sequences);
    bench_attention(title, cache(dtype, heads, d, sequences, 1, context - 1), sequences,
                    {4.0 * n * static_cast<double>(heads * d * context), each * n});
  }

  void bench_prefill(DType dtype) {
    const int64_t heads = 32, d = 128, tokens = slow_ ? 128 : 1024;
    const std::string title = fmt::format("attention prefill {} {} tokens", name(dtype), tokens);
    if (!wanted(title)) return;
    fill(dtype);
    const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2;
    bench_attention(
        title, cache(dtype, heads, d, 1, tokens, 0), tokens,
        {4.0 * pairs * static_cast<double>(heads * d), static_cast<double>(2 * heads * d * tokens) * static_cast<double>(size_of(dtype))});
  }

  // read from memory, written to memory; the roof counts both directions at the speed of reading
  void bench_layer_norm() {
    const int64_t e = 4096, t = static_cast<int64_t>(memory_.size() / 2 / (e * sizeof(float)));
    const std::string title = fmt::format("layer_norm {}x{}", t, e);
    if (!wanted(title)) return;
    fill(DType::f32);
    float* const x = memory_.as<float>();
    std::vector<float> want(static_cast<size_t>(e));
    const auto args = [&](int64_t rows, float* out) { return LayerNormArgs{{x, rows, e, e}, nullptr, nullptr, {out, rows, e, e}, 1e-5f}; };
    layer_norm(ref::kBackend, args(1, want.data()), {&pool_});
    layer_norm(backend_, args(t, x + t * e), {&pool_});
    for (int64_t i = 0; i < e; ++i) require(std::abs(x[t * e + i] - want[static_cast<size_t>(i)]) <= 1e-5f, title);
    line(title, {8.0 * static_cast<double>(t * e), 8.0 * static_cast<double>(t * e)},
         [&](int) { layer_norm(backend_, args(t, x + t * e), {&pool_}); });
    filled_.reset();
  }

  OpsOptions options_;
  const Backend& backend_;
  ThreadPool pool_;
  bool slow_;  // smaller shapes for backends of about 1 GFLOP/s
  Buffer memory_;
  std::optional<DType> filled_;
  RowBlock block_;
  nlohmann::ordered_json machine_, roofs_, lines_ = nlohmann::ordered_json::array();
};

}  // namespace

void add_ops(CLI::App& program, Selected& selected) {
  auto options = std::make_shared<OpsOptions>();
  CLI::App* command = program.add_subcommand("ops", "Operations beside FMA peak and memory bandwidth, both measured in the same run");
  command->add_option("--filter", options->filter, "Only lines whose name holds this");
  command->add_option("--isa", options->isa, "auto, avx512, avx2, portable or ref")->capture_default_str();
  command->add_option("--threads", options->threads, "Threads, by default one per CPU")->check(CLI::PositiveNumber);
  command->add_flag("--json", options->json, "One JSON object with the machine, the roofs and every line");
  command->callback([options, &selected] { selected = [options] { return OpsBench(*options).run(); }; });
}

}  // namespace flexgen::bench

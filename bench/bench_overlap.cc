// SPDX-License-Identifier: Apache-2.0
// flexgen-bench overlap: how much of the reading is hidden behind computing. The row blocks of a model's layers pass through the weight
// stream as in a sweep, while something is computed: timed (waiting, as for a GPU) or real (matrix products on all threads).
//
//   E   max(T_io, T_compute) / T_total: 1 is perfect. The solo times are measured the same way right before each run.
//   E'  (T_sync - T_total) / (T_sync - max(T_io, T_compute)): of what could be hidden, how much was. 0: nothing, 1: all
//
// Schemes: "sync" reads when it needs (overlap off), "ring" reads ahead through a ring of slots with io_uring, "threads" is that ring on
// reading threads. Runs are in random order, so that whatever drifts on the machine meets all of them.
#include <fmt/core.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "bench/command.h"
#include "bench/harness.h"
#include "bench/numa.h"
#include "bench/overlap_results.h"
#include "bench/overlap_times.h"
#include "bench/process_usage.h"
#include "bench/scratch_model.h"
#include "flexgen/base/trace.h"
#include "flexgen/format/model_file.h"
#include "flexgen/io/io_file.h"
#include "flexgen/io/make_io_engine.h"
#include "flexgen/memory/arena.h"
#include "flexgen/runtime/sweep.h"
#include "flexgen/runtime/tiered_weights.h"
#include "kernels/registry.h"
#include "tools/interrupt.h"

namespace flexgen::bench {
namespace {

using Json = nlohmann::ordered_json;

struct OverlapOptions {
  std::string model, size = "2GiB", dir = "/var/tmp", isa = "auto", look_ahead = "64MiB", verify = "off", limit = "4GiB";
  std::vector<double> ratios{0.5, 1, 2};
  std::vector<std::string> schemes{"sync", "ring", "threads"}, compute{"timed", "cores"};
  int repeats = 5;
  std::optional<int> threads;
  uint64_t seed = 1;
  bool json = false;
};

// What is acquired at once: some row blocks of one matrix
struct Chunk {
  TensorRef matrix;
  size_t first = 0, last = 0;
  uint64_t bytes = 0;
  int64_t layer = -1;
};

double wait_until(double deadline) {  // on the clock of seconds_now()
  timespec t{};
  t.tv_sec = static_cast<time_t>(deadline);
  t.tv_nsec = static_cast<long>((deadline - static_cast<double>(t.tv_sec)) * 1e9);
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {}
  return seconds_now();
}

class OverlapBench {
 public:
  OverlapBench(const OverlapOptions& o, const std::string& path)
      : options_(o),
        file_(ModelFile::open(path)),
        model_(stored_description(file_)),
        program_(opt_program(model_)),
        io_file_(IoFile::open(file_.file())),
        backend_(backend(o.isa)),
        pool_(o.threads.value_or(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())))),
        placement_(WeightPlacement::within(file_, program_, 0)) {
    ::prctl(PR_SET_TIMERSLACK, 1UL);  // timed compute ends when it should
    choose_matrices();
    const size_t slot = TieredWeights::slot_bytes(file_);
    ring_bytes_ = std::max<size_t>(2 * kBlocksAtOnce, parse_bytes(o.look_ahead, "--look-ahead") / slot) * slot;
    const auto piece = [](size_t bytes) { return round_up<size_t>(bytes, Arena::kHugePage); };
    arena_ = Arena(piece(placement_.resident_bytes()) + piece(ring_bytes_));
    resident_ = arena_.take(piece(placement_.resident_bytes()), Arena::kHugePage);
    ring_ = arena_.take(ring_bytes_, Arena::kHugePage);
    huge_ = arena_.huge_coverage();
    numa_ = numa_nodes(ring_.data(), io_file_.fd());
  }

  int run() {
    struct Run {
      std::string scheme, compute;
      double ratio;
    };
    std::vector<Run> runs;
    for (int i = 0; i < options_.repeats; ++i)
      for (const std::string& c : options_.compute)
        for (const double r : options_.ratios)
          for (const std::string& s : options_.schemes)
            if (is_available(s)) runs.push_back({s, c, r});
    std::mt19937_64 random(options_.seed);
    std::shuffle(runs.begin(), runs.end(), random);
    calibrate();
    for (const Run& r : runs) results_.add({r.compute, r.ratio, r.scheme}, measure(r.scheme, r.compute, r.ratio));
    options_.json ? print_json() : print_table();
    return 0;
  }

 private:
  static constexpr size_t kBlocksAtOnce = 4;
  using Compute = std::function<void(size_t chunk, const WeightView&)>;

  // The layers' matrices in the order of a sweep, from the first on, as many as the limit allows
  void choose_matrices() {
    const uint64_t limit = parse_bytes(options_.limit, "--limit");
    for (const Step& step : program_.body)
      for (const Operation& op : step.operations) {
        if (op.kind != Operation::Kind::linear) continue;
        const FileTensor& t = file_tensor(file_, *op.weight);
        if (total_bytes_ + t.bytes > limit && !matrices_.empty()) return;
        matrices_.push_back(*op.weight);
        for (size_t first = 0; first < t.n_blocks; first += kBlocksAtOnce) {
          Chunk c{*op.weight, first, std::min(t.n_blocks, first + kBlocksAtOnce), 0, step.layer};
          for (size_t b = c.first; b < c.last; ++b) c.bytes += file_.blocks()[t.first_block + b].bytes;
          total_bytes_ += c.bytes;
          chunks_.push_back(c);
        }
        widest_ = {std::max(widest_.first, t.shape[0]), std::max(widest_.second, t.shape[1])};
      }
  }

  bool is_available(const std::string& scheme) {
    if (scheme == "threads") return true;
    if (!uring_) try {
        uring_ = make_io_engine({.engine = "uring"}) != nullptr;
      } catch (const Error&) {
        uring_ = false;
      }
    return *uring_ || scheme == "sync";
  }
  std::string engine_of(const std::string& scheme) const { return scheme == "threads" ? "threads" : "auto"; }

  struct Stream {
    std::unique_ptr<QueuedEngine> io;
    std::unique_ptr<TieredWeights> weights;
  };
  Stream stream(const std::string& scheme, Trace* trace) {
    Stream s;
    s.io = make_io_engine({.engine = engine_of(scheme), .memory = arena_.memory(), .trace = trace});
    if (const std::string note = s.io->note(); !note.empty()) fallbacks_.insert(note);
    const Verify verify = options_.verify == "always" ? Verify::always : options_.verify == "first" ? Verify::first : Verify::off;
    s.weights =
        std::make_unique<TieredWeights>(file_, placement_, resident_, ring_, std::span<std::byte>{}, *s.io, pool_,
                                        TieredWeightsOptions{.verify = verify, .look_ahead = scheme != "sync", .fd = io_file_.fd(), .trace = trace});
    return s;
  }

  // One pass over all chunks
  std::vector<ChunkTime> pass(TieredWeights& weights, const Compute& compute) {
    const double start = seconds_now();
    const auto since = [start] { return seconds_now() - start; };
    std::vector<ChunkTime> times;
    times.reserve(chunks_.size());
    weights.begin_sweep({matrices_, {}, 0});
    for (size_t i = 0; i < chunks_.size(); ++i) {
      tools::check_interrupted();
      ChunkTime t{chunks_[i].layer, chunks_[i].bytes, since()};
      const WeightView w = weights.acquire(chunks_[i].matrix, chunks_[i].first, chunks_[i].last);
      t.there = since();
      compute(i, w);
      weights.release(chunks_[i].matrix, chunks_[i].first, chunks_[i].last);
      t.released = since();
      times.push_back(t);
    }
    return times;
  }

  // The same computing over what lies in the ring
  double solo_compute(const Compute& compute) {
    const size_t slot = TieredWeights::slot_bytes(file_), n = ring_.size() / slot;
    size_t next = 0;
    std::vector<RowBlock> blocks;
    const double start = seconds_now();
    for (size_t i = 0; i < chunks_.size(); ++i) {
      tools::check_interrupted();
      const FileTensor& t = file_tensor(file_, chunks_[i].matrix);
      blocks.clear();
      for (size_t b = chunks_[i].first; b < chunks_[i].last; ++b) {
        const int64_t row = static_cast<int64_t>(b) * t.rows_per_block;
        blocks.push_back({ring_.data() + next++ % n * slot, row, std::min(t.rows_per_block, t.shape[0] - row)});
      }
      compute(i, {t.dtype, t.shape[0], t.shape[1], blocks});
    }
    return seconds_now() - start;
  }

  Compute timed(double seconds) const {
    auto overslept = std::make_shared<double>(0);
    return [this, seconds, overslept](size_t i, const WeightView&) {
      // a device would not have been late: what the last wait overslept is taken off this one
      const double start = seconds_now() - (i == 0 ? 0 : *overslept),
                   due = start + seconds * static_cast<double>(chunks_[i].bytes) / static_cast<double>(total_bytes_);
      *overslept = std::max(0.0, wait_until(due) - due);
    };
  }

  Compute products(int64_t n_tok) {
    x_.assign(static_cast<size_t>(n_tok * widest_.second), 0.01f);
    y_.resize(static_cast<size_t>(n_tok * widest_.first));
    return [this, n_tok](size_t, const WeightView& w) {
      linear(backend_, {{x_.data(), n_tok, w.cols, w.cols}, w, nullptr, {y_.data(), n_tok, w.rows, w.rows}, Activation::none, false}, {&pool_});
    };
  }

  // Solo times for orientation: what is timed exactly comes before each run
  void calibrate() {
    Stream s = stream("ring", nullptr);
    const double start = seconds_now();
    pass(*s.weights, [](size_t, const WeightView&) {});
    io_s_ = seconds_now() - start;
    for (const int64_t n : {8, 32, 128}) products_s_[n] = solo_compute(products(n));
  }
  // Tokens whose matrix products take about that long
  int64_t tokens_for(double seconds) const {
    auto above = products_s_.lower_bound(products_s_.begin()->first);
    while (above != std::prev(products_s_.end()) && above->second < seconds) ++above;
    const auto below = above == products_s_.begin() ? above : std::prev(above);
    const double per_token = above == below ? above->second / static_cast<double>(above->first)
                                            : (above->second - below->second) / static_cast<double>(above->first - below->first);
    const double n = static_cast<double>(above->first) + (seconds - above->second) / std::max(per_token, 1e-9);
    return std::clamp<int64_t>(std::llround(n), 1, 4096);
  }

  Measured measure(const std::string& scheme, const std::string& kind, double ratio) {
    Trace trace;
    Stream s = stream(scheme, &trace);
    Measured m;
    m.bytes = total_bytes_;
    {
      const double cpu = cpu_seconds(), start = seconds_now();
      pass(*s.weights, [](size_t, const WeightView&) {});
      m.solo.io_s = seconds_now() - start;
      m.solo.io_cpu_s = cpu_seconds() - cpu;
    }
    const double wanted = ratio * (scheme == "sync" ? io_s_ : m.solo.io_s);
    int64_t n_tok = tokens_for(wanted);
    Compute compute = kind == "timed" ? timed(wanted) : products(n_tok);
    m.solo.compute_s = solo_compute(compute);
    for (int i = 0; i < 3 && kind == "cores" && std::abs(m.solo.compute_s / wanted - 1) > 0.05; ++i) {  // the machine's speed has drifted
      n_tok = std::clamp<int64_t>(std::llround(static_cast<double>(n_tok) * wanted / m.solo.compute_s), 1, 4096);
      compute = products(n_tok);
      m.solo.compute_s = solo_compute(compute);
    }
    // the reading ahead for the next pass ends before the clock starts
    s.weights.reset();
    s.io.reset();
    s = stream(scheme, &trace);
    const IoStatistics io = s.io->statistics();
    const WeightStatistics weights = s.weights->statistics();
    const uint64_t switches = context_switches();
    const double cpu = cpu_seconds(), machine = machine_cpu_seconds(), start = seconds_now();
    const int64_t start_ns = monotonic_ns();
    const std::vector<ChunkTime> chunks = pass(*s.weights, compute);
    m.total_s = seconds_now() - start;
    const int64_t end_ns = monotonic_ns();
    const IoStatistics io_after = s.io->statistics();
    m.context_switches = context_switches() - switches;
    m.fill_s = chunks.front().there;
    m.first_layer_s = first_layer_there(chunks);
    m.layer_s = percentiles(layer_seconds(chunks));
    m.cpu_s = cpu_seconds() - cpu;
    m.others_cpu_s = std::max(0.0, machine_cpu_seconds() - machine - m.cpu_s);
    m.wait_s = s.weights->statistics().wait_disk_s - weights.wait_disk_s;
    m.verify_s = s.weights->statistics().verify_s - weights.verify_s;
    m.disk_s = io_after.busy_s - io.busy_s;
    m.bytes_in_flight = m.disk_s > 0 ? (io_after.byte_seconds - io.byte_seconds) / m.disk_s : 0;
    m.short_transfers = io_after.short_transfers - io.short_transfers;
    m.retries = io_after.retries - io.retries;
    s.weights.reset();  // what was read ahead for another pass ends, and is in the trace
    s.io.reset();
    std::vector<double> latency;
    std::vector<ReadTime> reads;
    trace.for_each([&](const TraceEvent& e) {
      if (e.kind != TraceEvent::Kind::read || e.start_ns < start_ns || e.start_ns > end_ns) return;
      reads.push_back({e.bytes, static_cast<double>(e.start_ns - start_ns) * 1e-9, static_cast<double>(e.end_ns - start_ns) * 1e-9});
      if (e.end_ns <= end_ns) latency.push_back(static_cast<double>(e.end_ns - e.start_ns) * 1e-9);
    });
    m.read_s = percentiles(std::move(latency));
    m.slots = slot_shares(reads, chunks, ring_bytes_, m.total_s);
    return m;
  }

  void print_table() const {
    fmt::print("{}, {} threads, {}; {} through {} of slots, verify {}; huge pages {}\n", proc_value("/proc/cpuinfo", "model name"), pool_.size(),
               backend_.name, format_bytes(total_bytes_), format_bytes(ring_bytes_), options_.verify,
               huge_ ? fmt::format("{:.0f} %", *huge_ * 100) : "unknown");
    fmt::print("median of {}; E in the range of all\n\n", options_.repeats);
    results_.print();
    fmt::print("\n");
    results_.print_flow();
    for (const std::string& f : fallbacks()) fmt::print("\nwithout: {}", f);
    fmt::print("\nNUMA nodes: {}, memory and disk {}; pinned: {}\n", numa_.nodes,
               !numa_.match() ? "on unknown ones" : *numa_.match() ? "on the same one" : "on different ones", format_bytes(pinned_bytes()));
  }

  // What the way of reading does without; none in a clean run
  std::vector<std::string> fallbacks() const {
    std::vector<std::string> all(fallbacks_.begin(), fallbacks_.end());
    if (!io_file_.direct()) all.push_back("direct reads are refused by the file system: the page cache is in between");
    return all;
  }
  uint64_t pinned_bytes() const { return arena_.pinned() ? arena_.size() : 0; }

  void print_json() const {
    fmt::print("{}\n",
               Json{{"machine",
                     {{"cpu", proc_value("/proc/cpuinfo", "model name")}, {"threads", pool_.size()}, {"isa", backend_.name}, {"build", "release"}}},
                    {"bytes", total_bytes_},
                    {"ring_bytes", ring_bytes_},
                    {"verify", options_.verify},
                    {"direct", io_file_.direct()},
                    {"fallbacks", fallbacks()},
                    {"huge_coverage", huge_ ? Json(*huge_) : Json()},
                    {"pinned_bytes", pinned_bytes()},
                    {"numa",
                     {{"nodes", numa_.nodes},
                      {"memory_node", numa_.memory ? Json(*numa_.memory) : Json()},
                      {"disk_node", numa_.disk ? Json(*numa_.disk) : Json()},
                      {"match", numa_.match() ? Json(*numa_.match()) : Json()}}},
                    {"seed", options_.seed},
                    {"lines", results_.lines()}}
                   .dump());
  }

  const OverlapOptions options_;
  const ModelFile file_;
  const ModelDescription model_;
  const Program program_;
  const IoFile io_file_;
  const Backend& backend_;
  ThreadPool pool_;
  const WeightPlacement placement_;
  std::vector<TensorRef> matrices_;
  std::vector<Chunk> chunks_;
  uint64_t total_bytes_ = 0;
  std::pair<int64_t, int64_t> widest_{0, 0};  // rows, columns

  Arena arena_;
  std::span<std::byte> resident_, ring_;
  size_t ring_bytes_ = 0;
  std::optional<double> huge_;
  NumaNodes numa_;
  std::set<std::string> fallbacks_;
  std::optional<bool> uring_;
  std::vector<float> x_, y_;
  double io_s_ = 0;
  std::map<int64_t, double> products_s_;  // by tokens
  OverlapResults results_;
};

int measure_overlap(const OverlapOptions& o) {
  const auto known = [](const char* name, const std::vector<std::string>& found, const std::vector<std::string>& allowed) {
    for (const std::string& f : found)
      if (std::find(allowed.begin(), allowed.end(), f) == allowed.end())
        fail(Fault::usage, "{}: found '{}', allowed {}", name, printable(f), fmt::join(allowed, ", "));
  };
  known("--schemes", o.schemes, {"sync", "ring", "threads"});
  known("--compute", o.compute, {"timed", "cores"});
  known("--verify", {o.verify}, {"off", "first", "always"});
  for (const double r : o.ratios)
    if (!(r >= 0.01 && r <= 100)) fail(Fault::usage, "--ratios: found {}, allowed numbers from 0.01 to 100", r);
  if (o.threads && (*o.threads < 1 || *o.threads > 1024))
    fail(Fault::usage, "--threads: found {}, allowed a whole number from 1 to 1024", *o.threads);
  if (o.repeats < 1 || o.repeats > 1000) fail(Fault::usage, "--repeats: found {}, allowed 1 to 1000", o.repeats);
  std::optional<ScratchModel> scratch;
  if (o.model.empty()) scratch.emplace(o.dir, parse_bytes(o.size, "--size"));
  return OverlapBench(o, scratch ? scratch->path() : o.model).run();
}

}  // namespace

void add_overlap(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<OverlapOptions>();
  CLI::App* c = program.add_subcommand("overlap", "How much reading the weight stream hides behind computing, beside reading and computing alone");
  c->add_option("--model", o->model, "Model file whose layers are read [random ones of OPT-6.7B's shape, removed afterwards]")->type_name("FILE");
  c->add_option("--size", o->size, "Of those random layers")->capture_default_str()->type_name("SIZE");
  c->add_option("--dir", o->dir, "Folder for them")->capture_default_str()->type_name("DIR");
  c->add_option("--limit", o->limit, "Bytes of layers a pass at most")->capture_default_str()->type_name("SIZE");
  c->add_option("--ratios", o->ratios, "Computing time over reading time")->delimiter(',')->capture_default_str();
  c->add_option("--schemes", o->schemes, "sync, ring, threads")->delimiter(',')->capture_default_str();
  c->add_option("--compute", o->compute, "timed (waiting, as for a GPU), cores (matrix products on all threads)")
      ->delimiter(',')
      ->capture_default_str();
  c->add_option("--repeats", o->repeats, "Runs of each")->capture_default_str();
  c->add_option("--seed", o->seed, "Of the order of the runs")->capture_default_str();
  c->add_option("--look-ahead", o->look_ahead, "Bytes of the ring of slots")->capture_default_str()->type_name("SIZE");
  c->add_option("--verify", o->verify, "off, first or always: compare hashes")->capture_default_str();
  c->add_option("--isa", o->isa, "auto, avx512, avx2, portable or ref")->capture_default_str();
  c->add_option("--threads", o->threads, "Threads [one per CPU]");
  c->add_flag("--json", o->json, "One JSON object with every run");
  c->footer("E: the longer one of reading and computing alone, over the time of both; E': of what could be hidden, how much was.\n\n"
            "Examples:\n"
            "  flexgen-bench overlap --size 2GiB\n"
            "  flexgen-bench overlap --model m.flex --ratios 1 --schemes sync,ring --verify always --json\n\n");
  c->callback([o, &selected] { selected = [o] { return measure_overlap(*o); }; });
}

}  // namespace flexgen::bench

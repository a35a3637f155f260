// SPDX-License-Identifier: Apache-2.0
// flexgen-bench io: direct sequential reads into an arena of huge pages, by size of a request, depth and engine, each beside fio with the
// same size and depth into huge pages. Ours and fio's runs take turns, because on shared machines disks drift.
#include <fmt/core.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "bench/command.h"
#include "bench/disk_roof.h"
#include "bench/harness.h"
#include "flexgen/io/make_io_engine.h"
#include "flexgen/memory/arena.h"
#include "tools/interrupt.h"

namespace flexgen::bench {
namespace {

struct IoOptions {
  std::string file, folder = ".", size = "4GiB";
  std::vector<std::string> chunks{"512KiB", "2MiB"};
  std::vector<int> depths{1, 8, 32};
  std::vector<std::string> engines{"uring", "threads"};
  double seconds = 1;
  int repeat = 3;
  bool json = false;
};

// A file without a name that this process and fio can open by its path; random, so that nothing below can shrink it
class ScratchFile {
 public:
  ScratchFile(const std::string& folder, uint64_t bytes)
      : file_(SpillFile::create(folder, round_up<uint64_t>(bytes, kPart))), path_(fmt::format("/proc/{}/fd/{}", ::getpid(), file_.fd())) {
    constexpr size_t kParts = 8;
    Arena arena(kParts * kPart);
    const auto engine = make_io_engine({.memory = arena.memory()});
    std::vector<IoTicket> tickets(kParts);
    std::mt19937_64 random(1);
    for (uint64_t at = 0; at < file_.size(); at += kPart) {
      tools::check_interrupted();
      const size_t i = at / kPart % kParts;
      check(tickets[i].wait(), folder);
      auto* words = reinterpret_cast<uint64_t*>(arena.memory().data() + i * kPart);
      for (size_t w = 0; w < kPart / sizeof(uint64_t); ++w) words[w] = random();
      const IoRequest r{IoRequest::Op::write, file_.fd(), at, arena.memory().data() + i * kPart, kPart, &tickets[i]};
      engine->submit({&r, 1});
    }
    for (const IoTicket& t : tickets) check(t.wait(), folder);
    if (::fsync(file_.fd()) != 0) check(errno, folder);
  }
  const std::string& path() const { return path_; }

 private:
  static constexpr size_t kPart = 2_MiB;

  static void check(int error, const std::string& folder) {
    if (error != 0) fail(error == ENOSPC ? Fault::space : Fault::io, "{}: the scratch file cannot be written: {}", folder, std::strerror(error));
  }

  SpillFile file_;
  std::string path_;
};

struct Series {
  std::vector<double> speed, cpu;
  void add(const ReadSpeed& s) { speed.push_back(s.bytes_per_s), cpu.push_back(s.cpu_s_per_gb); }
  static double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v.empty() ? 0 : v[v.size() / 2];
  }
  nlohmann::ordered_json json() const {
    return {{"median_bytes_per_s", median(speed)},
            {"min_bytes_per_s", *std::min_element(speed.begin(), speed.end())},
            {"max_bytes_per_s", *std::max_element(speed.begin(), speed.end())},
            {"median_cpu_s_per_gb", median(cpu)}};
  }
};

int measure_io(const IoOptions& o) {
  if (!(o.seconds >= 0.01 && o.seconds <= 3600)) fail(Fault::usage, "--seconds: found {}, allowed 0.01 to 3600", o.seconds);
  std::vector<size_t> chunks;
  size_t most = 0;
  for (const std::string& c : o.chunks) {
    chunks.push_back(parse_bytes(c, "--chunks"));
    if (chunks.back() == 0 || chunks.back() % kIoAlign != 0) fail(Fault::usage, "--chunks: found '{}', allowed multiples of 4 KiB", printable(c));
  }
  for (const size_t c : chunks)
    for (const int d : o.depths) most = std::max(most, read_buffers(d) * c);
  std::unique_ptr<ScratchFile> scratch;
  if (o.file.empty()) {
    const uint64_t size = parse_bytes(o.size, "--size");
    if (size == 0) fail(Fault::usage, "--size: found '{}', allowed a size above 0, such as 4GiB", printable(o.size));
    scratch = std::make_unique<ScratchFile>(o.folder, size);
  }
  const std::string path = o.file.empty() ? scratch->path() : o.file;
  const IoFile file = IoFile::open(File::open(path));
  if (file.size() < *std::max_element(chunks.begin(), chunks.end()))
    fail(Fault::usage, "{}: found {}, allowed no less than the largest of --chunks", path, format_bytes(file.size()));
  if (!file.direct())
    fail(Fault::usage, "{}: its file system refuses direct reads, so that only the page cache could be measured. Choose a file on a disk", path);
  const Arena arena(most);
  const DiskRoof roof = measure_disk_roof(path, o.seconds);

  nlohmann::ordered_json rows = nlohmann::ordered_json::array(), notes = nlohmann::ordered_json::object();
  std::string fio_note;
  const auto coverage = arena.huge_coverage();
  if (!o.json) {
    fmt::print("{}, {}, direct reads in order; {} of memory, {} of it in huge pages\n", o.file.empty() ? "scratch file in " + o.folder : path,
               format_bytes(file.size()), format_bytes(arena.size()), coverage ? fmt::format("{:.0f} %", *coverage * 100) : "an unknown share");
    fmt::print("roof: {:.2f} GB/s ({})\nmedians of {} runs of {} s, taking turns with fio's of the same chunk and depth\n\n", roof.bytes_per_s / 1e9,
               roof.how, o.repeat, o.seconds);
    fmt::print("{:>10} {:>6} {:>9} {:>8} {:>8} {:>8} {:>11} {:>10} {:>11} {:>8}\n", "chunk", "depth", "engine", "GB/s", "min", "max", "CPU s/GB",
               "fio GB/s", "fio s/GB", "of fio");
  }
  for (const size_t chunk : chunks)
    for (const int depth : o.depths) {
      struct Row {
        std::unique_ptr<QueuedEngine> engine;
        Series series;
      };
      std::vector<Row> ours;
      for (const std::string& name : o.engines)
        ours.push_back({make_io_engine({.engine = name,
                                        .limits = {.bytes_in_flight = chunk * static_cast<size_t>(depth), .piece_bytes = chunk, .depth = depth},
                                        .memory = arena.memory(),
                                        .files = {file.fd()}}),
                        {}});
      Series fio;
      for (int i = 0; i < o.repeat; ++i) {
        tools::check_interrupted();
        for (Row& row : ours)
          row.series.add(engine_read_speed(*row.engine, file, arena.memory().first(read_buffers(depth) * chunk), chunk, o.seconds));
        if (const auto s = fio_read_speed(path, file.size(), chunk, depth, o.seconds, fio_note)) fio.add(*s);
      }
      const bool beside = fio.speed.size() == static_cast<size_t>(o.repeat);
      for (const Row& row : ours) {
        const std::string name(row.engine->name());
        notes[name] = row.engine->note();
        nlohmann::ordered_json line{{"chunk_bytes", chunk}, {"depth", depth}, {"engine", name}};
        line.update(row.series.json());
        if (beside) line["fio"] = fio.json(), line["share_of_fio"] = Series::median(row.series.speed) / Series::median(fio.speed);
        rows.push_back(line);
        if (o.json) continue;
        const auto gb = [](double bytes) { return bytes / 1e9; };
        fmt::print("{:>10} {:>6} {:>9} {:>8.2f} {:>8.2f} {:>8.2f} {:>11.4f}", format_bytes(chunk), depth, name, gb(line["median_bytes_per_s"]),
                   gb(line["min_bytes_per_s"]), gb(line["max_bytes_per_s"]), line["median_cpu_s_per_gb"].get<double>());
        if (beside)
          fmt::print(" {:>10.2f} {:>11.4f} {:>8.3f}\n", gb(Series::median(fio.speed)), Series::median(fio.cpu), line["share_of_fio"].get<double>());
        else
          fmt::print(" {:>10} {:>11} {:>8}\n", "-", "-", "-");
        std::fflush(stdout);
      }
    }
  if (o.json) {
    nlohmann::ordered_json all{{"file_bytes", file.size()},
                               {"direct", file.direct()},
                               {"arena_bytes", arena.size()},
                               {"huge_coverage", coverage ? nlohmann::ordered_json(*coverage) : nlohmann::ordered_json()},
                               {"roofs", {{"disk_bytes_per_s", roof.bytes_per_s}, {"disk_how", roof.how}}},
                               {"seconds", o.seconds},
                               {"repetitions", o.repeat},
                               {"engines", notes},
                               {"fio_note", fio_note},
                               {"rows", rows}};
    fmt::print("{}\n", all.dump());
    return 0;
  }
  for (const auto& [name, note] : notes.items())
    if (!note.get<std::string>().empty()) fmt::print("\n{}: {}", name, note.get<std::string>());
  if (!fio_note.empty()) fmt::print("\nnot beside fio: {}", fio_note);
  fmt::print("\n");
  return 0;
}

}  // namespace

void add_io(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<IoOptions>();
  CLI::App* c = program.add_subcommand("io", "Direct reads into huge pages by chunk, depth and engine, beside fio in the same run");
  auto* file = c->add_option("--file", o->file, "A file to read, larger than caches on the way; without it one is made and gone afterwards")
                   ->type_name("FILE");
  c->add_option("--dir", o->folder, "Where that file is made")->type_name("FOLDER")->capture_default_str()->excludes(file);
  c->add_option("--size", o->size, "Its size")->capture_default_str()->excludes(file);
  c->add_option("--chunks", o->chunks, "Bytes of a request, comma-separated")->delimiter(',')->capture_default_str();
  c->add_option("--depths", o->depths, "Requests in flight, comma-separated")
      ->delimiter(',')
      ->check(CLI::Range(1, static_cast<int>(IoBackend::kMostAttempts)))
      ->capture_default_str();
  c->add_option("--engines", o->engines, "auto, uring, threads, comma-separated")
      ->delimiter(',')
      ->check(CLI::IsMember({"auto", "uring", "threads"}))
      ->capture_default_str();
  c->add_option("--seconds", o->seconds, "Length of one run")->capture_default_str();
  c->add_option("--repeat", o->repeat, "Runs of each row")->check(CLI::Range(1, 1000))->capture_default_str();
  c->add_flag("--json", o->json, "One JSON object with roofs, rows, coverage of huge pages and what the engines do without");
  c->footer("Example: flexgen-bench io --chunks 2MiB --depths 1,8 --engines uring,threads --repeat 5\n\n");
  c->callback([o, &selected] { selected = [o] { return measure_io(*o); }; });
}

}  // namespace flexgen::bench

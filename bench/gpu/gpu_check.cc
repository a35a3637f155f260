// SPDX-License-Identifier: Apache-2.0
// gpu_check: are the CUDA kernels right on this card, and how fast? bench/gpu/README.md says how it is used.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <optional>
#include <thread>

#include "bench/gpu/jobs.h"
#include "bench/gpu/report.h"
#include "bench/gpu/supervisor.h"
#include "bench/harness.h"
#include "tools/small_file.h"

namespace flexgen::bench {
namespace {

constexpr int kNoCard = 77;  // as test programs say that they could not test

struct Options {
  bool quick = false, smoke = false, list = false, one_process = false, faults = false;
  std::vector<std::string> filter, without;
  std::string json, last_known;
  double seconds = 420, job_seconds = 60;
  int card = 0;
};

Json read_last_known(const std::string& path) {
  if (path.empty()) return Json();
  std::ifstream file(path);
  const Json j = Json::parse(file, nullptr, false);
  if (!j.is_object() || j.value("schema", 0) != 1)
    fail(Fault::usage, "--last-known {}: found no results of gpu_check, allowed a file that --json wrote", printable(path));
  return j;
}

bool has(const std::vector<std::string>& parts, const std::string& name) {
  return std::any_of(parts.begin(), parts.end(), [&](const std::string& part) { return name.find(part) != std::string::npos; });
}

// What must not end the others: a process that dies, a card that is lost, a job that does not come back
std::vector<Job> faulty_jobs() {
  return {{"fault: dies", [](Session&) { std::raise(SIGSEGV); }},
          {"fault: card", [](Session&) { fail(Fault::gpu, "the card is lost"); }},
          {"fault: hangs", [](Session&) {
             for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
           }},
          {"fault: throws", [](Session&) { fail(Fault::internal, "a broken precondition"); }},
          {"fault: too large", [](Session& s) { s.memory(size_t{1} << 60); }},
          {"fault: none", [](Session& s) { s.emit(Check{"what comes behind", 1, 0, ""}); }}};
}

int run(const Options& o) {
  const double start = seconds_now();
  const Scale scale = o.smoke ? Scale::smoke : o.quick ? Scale::quick : Scale::full;
  std::vector<Job> jobs = o.faults ? faulty_jobs() : all_jobs(scale);
  std::erase_if(jobs, [&](const Job& job) {
    return job.name != "card" && ((!o.filter.empty() && !has(o.filter, job.name)) || has(o.without, job.name));
  });
  if (o.list) {
    for (const Job& job : jobs) fmt::print("{}\n", job.name);
    return 0;
  }
  const Json last_known = read_last_known(o.last_known);
  std::optional<tools::SmallFile> json;  // refused here where it cannot be written; all of it is there in the end, or nothing
  if (!o.json.empty()) json.emplace(o.json);
  const MakeSession make = [&](const Emit& emit, std::string& why_not) -> std::unique_ptr<Session> {
    OpenedCard card = open_card(o.card, why_not);
    return card.device ? std::make_unique<Session>(std::move(card), scale, emit) : nullptr;
  };
  const Results nothing;
  const Report plain(nothing, Json());
  const Progress progress = [&](const std::string& job, const Json* found) {
    if (found == nullptr) return;
    if (found->contains("card")) fmt::print("card: {}\n", (*found)["card"].dump());
    if (found->contains("row")) fmt::print("{}\n", plain.line((*found)["row"].get<Row>()));
    if (found->contains("skipped")) {
      const Skipped skipped = (*found)["skipped"].get<Skipped>();
      fmt::print("skipped {}: {}\n", skipped.name, skipped.reason);
    }
    if (found->contains("check")) {
      const Check c = (*found)["check"].get<Check>();
      fmt::print("{} {} ({:.1f} s): {} assertions\n", c.failed == 0 ? "passed" : "FAILED", c.name, seconds_now() - start, c.passed + c.failed);
      if (c.failed > 0) fmt::print("  {}: {}\n", job, c.message);
    }
    std::fflush(stdout);
  };
  const Supervised s = supervise(jobs, make, {o.seconds, o.job_seconds, o.one_process}, progress);
  if (s.no_card) {
    fmt::print("gpu_check: no card: {}\n", s.why_not);
    return kNoCard;
  }
  const Report report(s.results, last_known);
  if (json) {
    Json j = report.json();
    j["scale"] = o.smoke ? "smoke" : o.quick ? "quick" : "full", j["seconds"] = seconds_now() - start;
    json->commit(j.dump(1) + "\n");
  }
  fmt::print("{}", report.summary());
  if (last_known.is_null()) fmt::print("\nNo last known results to compare with\n");
  fmt::print("\n{} passed, {} failed\n", s.results.passed(), s.results.failed());
  return s.results.failed() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace flexgen::bench

int main(int argc, char** argv) {
  using namespace flexgen;
  try {
    bench::Options o;
    CLI::App program{"Are the CUDA kernels right on this card, and how fast? Ends with 1 where a check failed, with 77 where there is no card.",
                     "gpu_check"};
    program.add_flag("--quick", o.quick, "Fewer shapes: about two minutes");
    program.add_flag("--smoke", o.smoke, "Tiny shapes, to see that all jobs run: its times mean nothing");
    program.add_flag("--list", o.list, "Print the jobs and do none");
    program.add_option("--filter", o.filter, "Only jobs whose name has one of these texts")->type_name("TEXT");
    program.add_option("--without", o.without, "No jobs whose name has one of these texts")->type_name("TEXT");
    program.add_option("--json", o.json, "Write all results to this file")->type_name("FILE");
    program.add_option("--last-known", o.last_known, "Mark what is more than 5 % slower than in this file of an earlier run")->type_name("FILE");
    program.add_option("--seconds", o.seconds, "Skip what is left when so much time is up")->capture_default_str();
    program.add_option("--job-seconds", o.job_seconds, "A job that takes longer has failed")->capture_default_str();
    program.add_option("--device", o.card, "Which card")->capture_default_str();
    program.add_flag("--one-process", o.one_process, "Run the jobs in this process: for debuggers and sanitizers");
    program.add_flag("--faults", o.faults)->group("");  // hidden: jobs that go wrong, for the test of this program
    CLI11_PARSE(program, argc, argv);
    return bench::run(o);
  } catch (const Error& e) {
    fmt::print(stderr, "error[E-{}]: {}\n", name(e.fault()), e.what());
    return exit_code(e.fault());
  } catch (const std::exception& e) {
    fmt::print(stderr, "error[E-internal]: {}\n", e.what());
    return exit_code(Fault::internal);
  }
}

// SPDX-License-Identifier: Apache-2.0
// What the card can do at best: its memory, its link, a launch, and a matrix product that nothing disturbs.
#include <algorithm>
#include <vector>

#include "bench/gpu/check_kernels.h"
#include "bench/gpu/jobs.h"
#include "bench/harness.h"
#include "flexgen/base/bytes.h"
#include "kernels/cuda/api/gemm.h"

namespace flexgen::bench {
namespace {

Row ceiling(const char* name, const char* kernel, double bytes, double flops = 0) {
  Row row;
  row.group = "ceilings", row.name = name, row.kernel = kernel, row.role = "ceiling", row.bytes = bytes, row.flops = flops;
  return row;
}

void memory(Session& s) {
  const size_t most = s.smoke() ? size_t{256} << 10 : size_t{4} << 30;
  const size_t bytes = std::min<size_t>(most, s.device().free_bytes() / 4) / 16 * 16;
  const DeviceMemory a = s.random(DType::f32, static_cast<int64_t>(bytes / 4), 1, 1), b = s.memory(bytes);
  const int sms = s.info().multiprocessors;
  const DeviceMemory sums = s.memory(static_cast<size_t>(memory_blocks(sms)) * 4);
  const double n = static_cast<double>(bytes);
  s.emit(s.timed(ceiling("memory read", "sum", n), 1, [&](int) {
    check_launch(read_memory(a.data(), bytes, sms, reinterpret_cast<uint32_t*>(sums.data()), s.stream()), "read_memory");
  }));
  s.emit(s.timed(ceiling("memory copy", "copy", 2 * n), 1,
                 [&](int) { check_launch(copy_memory(b.data(), a.data(), bytes, sms, s.stream()), "copy_memory"); }));
  s.emit(s.timed(ceiling("memory write", "write", n), 1,
                 [&](int) { check_launch(write_memory(b.data(), bytes, sms, 7, s.stream()), "write_memory"); }));
}

// Pinned huge pages, as the engine's arena has them, 32 MiB at a time, as its slots are; and both directions at once
void link(Session& s) {
  const size_t bytes = s.smoke() ? size_t{128} << 10 : size_t{512} << 20, piece = std::min<size_t>(bytes, size_t{32} << 20);
  Arena host(2 * bytes, &s.device());
  const DeviceMemory there = s.memory(2 * bytes);
  DeviceStream up(s.device()), down(s.device());
  DeviceEvent begin(s.device(), true), up_done(s.device(), true), down_done(s.device(), true);
  const auto run = [&](const char* name, bool to_device, bool to_host) {
    const auto once = [&] {
      s.device().record(begin, up);
      s.device().wait(begin, down);
      for (size_t at = 0; at < bytes; at += piece) {
        if (to_device) s.device().copy(there.data() + at, host.memory().data() + at, piece, up);
        if (to_host) s.device().copy(host.memory().data() + bytes + at, there.data() + bytes + at, piece, down);
      }
      s.device().record(up_done, up), s.device().record(down_done, down);
      s.device().synchronize(up_done), s.device().synchronize(down_done);
      return std::max(s.device().seconds_between(begin, up_done), s.device().seconds_between(begin, down_done));
    };
    Row row = ceiling(name, "pinned", static_cast<double>(bytes) * (int{to_device} + int{to_host}));
    std::vector<double> times;
    once();
    for (row.repeats = 0; row.repeats < (s.smoke() ? 2 : 10); ++row.repeats) times.push_back(once());
    std::sort(times.begin(), times.end());
    row.seconds = times[times.size() / 2], row.least = times.front(), row.most = times.back();
    s.emit(row);
  };
  run("host to device", true, false);
  run("device to host", false, true);
  run("both directions", true, true);
}

void launches(Session& s) {
  s.emit(s.timed(ceiling("launch in a graph", "nothing", 0), 64, [&](int) { check_launch(nothing(s.stream()), "nothing"); }));
  const auto by_host = [&](const char* name, int n, int each) {
    Row row = ceiling(name, "nothing", 0);
    const Timing t = measure([&](int) {
      for (int i = 0; i < n; ++i) {
        check_launch(nothing(s.stream()), "nothing");
        if ((i + 1) % each == 0) s.device().synchronize_stream(s.stream());
      }
    });
    row.seconds = t.median / n, row.least = t.min / n, row.most = t.max / n, row.repeats = t.repetitions;
    s.emit(row);
  };
  by_host("launch and wait", 100, 1);
  by_host("launch after launch", 1000, 1000);
}

// cuBLASLt where there is one: the card's rate for matrix products. Random operands: zeros run faster than real data.
void product(Session& s, DType dtype) {
  const int64_t n = s.smoke() ? 64 : 8192;
  const DeviceMemory x = s.random(dtype, n * n, 1, 1), w = s.random(dtype, n * n, 1, 2), y = s.memory(static_cast<size_t>(n * n) * 4);
  const std::string shape = fmt::format("product {0} x {0} x {0} {1}", n, name(dtype));
  const double nn = static_cast<double>(n) * static_cast<double>(n), flops = 2 * nn * static_cast<double>(n), bytes = nn * 8;
  if (cuda::CublasLt* lt = s.cublaslt()) {
    const cuda::LtProduct a{x.data(), w.data(), reinterpret_cast<float*>(y.data()), n, n, n, n, n, dtype};
    const int status = lt->multiply(a, s.cublaslt_workspace(), s.stream());
    if (status != 0) s.emit(Skipped{"cuBLASLt " + shape, lt->error(status)});
    else s.emit(s.timed(ceiling(shape.c_str(), "cublaslt", bytes, flops), 1, [&](int) { lt->multiply(a, s.cublaslt_workspace(), s.stream()); }));
  }
  const RowBlock block{w.data(), 0, n};
  cuda::LinearCall call;
  call.args.x = {nullptr, n, n, n}, call.args.x.data = reinterpret_cast<const float*>(x.data());  // the same bytes, not read
  call.args.w = {dtype, n, n, {&block, 1}}, call.args.y = {reinterpret_cast<float*>(y.data()), n, n, n};
  bool x_ready = true;
  call.workspace = x.memory(), call.x_ready = &x_ready;
  const cuda::LinearChoice choice = cuda::choose(s.card(), {n, n, n, dtype}, cuda::Arithmetic::fast);
  if (choice.rounded_x && choice.splits() == 1)
    s.emit(s.timed(ceiling(shape.c_str(), cuda::linear_kernel(choice.kernel).name, bytes, flops), 1,
                   [&](int) { check_launch(cuda::linear(s.card(), call, s.stream()), "linear"); }));
}

}  // namespace

std::vector<Job> ceiling_jobs(Scale) {
  return {{"card", [](Session& s) { s.cublaslt(), s.emit_card(); }},
          {"ceilings: memory", memory},
          {"ceilings: link", link},
          {"ceilings: launches", launches},
          {"ceilings: product f16", [](Session& s) { product(s, DType::f16); }},
          {"ceilings: product bf16", [](Session& s) {
             if (s.info().arch >= 80) product(s, DType::bf16);
           }}};
}

std::vector<Job> all_jobs(Scale scale) {
  std::vector<Job> all;
  for (const std::vector<Job>& some : {ceiling_jobs(scale), case_jobs(), large_check_jobs(scale), linear_jobs(scale), attention_jobs(scale),
                                       other_jobs(scale), variant_jobs(scale)})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

}  // namespace flexgen::bench

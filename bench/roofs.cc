// SPDX-License-Identifier: Apache-2.0
#include "bench/roofs.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <string>

#include "bench/harness.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace flexgen::bench {
namespace {

std::atomic<uint64_t> sink{0};  // what is computed is used, so it cannot be left out

constexpr int kChains = 12;  // 2 units x 4 to 5 cycles of latency, and some

float fma_plain(int64_t steps) {
  float acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = static_cast<float>(i);  // different, or equal chains may be merged
  volatile float one = 0.999f;
  const float a = one, b = one;
  for (int64_t s = 0; s < steps; ++s)
    for (float& f : acc) f = std::fma(a, f, b);
  float sum = 0;
  for (float f : acc) sum += f;
  return sum;
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] float fma_avx2(int64_t steps) {
  __m256 acc[kChains];
  const __m256 a = _mm256_set1_ps(0.999f);
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t s = 0; s < steps; ++s)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(a, acc[i], a);
  float sum = 0;
  for (const __m256& v : acc) sum += _mm256_cvtss_f32(v);
  return sum;
}

[[gnu::target("avx512f")]] float fma_avx512(int64_t steps) {
  __m512 acc[kChains];
  const __m512 a = _mm512_set1_ps(0.999f);
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t s = 0; s < steps; ++s)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(a, acc[i], a);
  float sum = 0;
  for (const __m512& v : acc) sum += _mm512_cvtss_f32(v);
  return sum;
}
#endif

}  // namespace

double fma_peak(ThreadPool& pool, std::string_view isa) {
  float (*run)(int64_t) = fma_plain;
  int lanes = 1;
  int64_t steps = 200'000;
#if defined(__x86_64__)
  if (isa == "avx512") run = fma_avx512, lanes = 16, steps = 5'000'000;
  if (isa == "avx2") run = fma_avx2, lanes = 8, steps = 5'000'000;
#endif
  const Timing t = measure(
      [&](int) {
        pool.parallel_for(pool.size(), [&](int64_t, int) { sink.fetch_add(static_cast<uint64_t>(run(steps)), std::memory_order_relaxed); });
      },
      5);
  return 2.0 * lanes * kChains * static_cast<double>(steps) * pool.size() / t.median;
}

double read_bandwidth(ThreadPool& pool, std::span<const std::byte> memory) {
  const int64_t parts = pool.size();
  const size_t words = memory.size() / sizeof(uint64_t) / static_cast<size_t>(parts) / 32 * 32;
  const auto* all = reinterpret_cast<const uint64_t*>(memory.data());
  const Timing t = measure(
      [&](int) {
        pool.parallel_for(parts, [&](int64_t part, int) {
          const uint64_t* p = all + static_cast<size_t>(part) * words;
          uint64_t sums[32] = {};
          for (size_t i = 0; i < words; i += 32) {
            __builtin_prefetch(p + i + 512), __builtin_prefetch(p + i + 520), __builtin_prefetch(p + i + 528), __builtin_prefetch(p + i + 536);
            for (size_t j = 0; j < 32; ++j) sums[j] += p[i + j];
          }
          uint64_t sum = 0;
          for (uint64_t s : sums) sum += s;
          sink.fetch_add(sum, std::memory_order_relaxed);
        });
      },
      5);
  return static_cast<double>(words * sizeof(uint64_t)) * static_cast<double>(parts) / t.median;
}

uint64_t last_level_cache() {
  uint64_t largest = 0;
  for (int i = 0; i < 8; ++i) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/size");  // "32768K"
    uint64_t kib = 0;
    if (file >> kib) largest = std::max(largest, kib << 10);
  }
  return largest;
}

}  // namespace flexgen::bench

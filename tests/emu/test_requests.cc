// SPDX-License-Identifier: Apache-2.0
// Bank conflicts and sectors are numbers that can be counted by hand; here they are.
#include "kernels/emu/requests.h"

#include <vector>

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/vocab.h"
#include "support/catch.h"

namespace {

using namespace flexgen;

emu::Request request(uint32_t bytes, uint32_t lanes, uintptr_t stride, uintptr_t first = 0) {
  emu::Request r;
  r.bytes = bytes;
  r.lanes = lanes;
  for (size_t i = 0; i < 32; ++i) r.addresses[i] = first + i * stride;
  return r;
}

TEST_CASE("passes through the banks of shared memory") {
  CHECK(emu::passes(request(4, ~0u, 4)) == 1);     // a word a bank
  CHECK(emu::passes(request(4, ~0u, 0)) == 1);     // one word for all
  CHECK(emu::passes(request(2, ~0u, 2)) == 1);     // two lanes a word
  CHECK(emu::passes(request(4, ~0u, 8)) == 2);     // every other bank
  CHECK(emu::passes(request(4, ~0u, 128)) == 32);  // a column of 32 words
  CHECK(emu::passes(request(4, ~0u, 132)) == 1);   // ... padded
  CHECK(emu::passes(request(4, 0x3u, 128)) == 2);
  CHECK(emu::passes(request(8, ~0u, 8)) == 2);
  CHECK(emu::fewest_passes(request(8, ~0u, 8)) == 2);
  CHECK(emu::passes(request(16, ~0u, 16)) == 4);
  CHECK(emu::passes(request(16, ~0u, 32)) == 8);
  CHECK(emu::fewest_passes(request(16, 0xFFu, 32)) == 1);
  CHECK(emu::fewest_passes(request(16, 0x101u, 32)) == 2);
}

TEST_CASE("sectors of global memory") {
  CHECK(emu::sectors(request(4, ~0u, 4)) == 4);
  CHECK(emu::sectors(request(4, ~0u, 4, 4)) == 5);  // not aligned
  CHECK(emu::sectors(request(4, ~0u, 32)) == 32);
  CHECK(emu::sectors(request(16, ~0u, 16)) == 16);
  CHECK(emu::sectors(request(4, ~0u, 0)) == 1);
  CHECK(emu::sectors(request(4, 0x1u, 4)) == 1);
}

// Rows or columns of a 32 x 32 matrix through shared memory, with a padding of kPad words; float4 loads where kWide
template <int kPad, bool kWide>
FG_KERNEL(32) transpose(const float* in, float* out) {
  FG_SHARED(float, tile, 32 * (32 + kPad));
  const int lane = static_cast<int>(threadIdx.x);
  if constexpr (kWide) {
    for (int i = 0; i < 8; ++i) {
      const float4 v = cuda::load(reinterpret_cast<const float4*>(in) + i * 32 + lane);
      const int at = (i * 32 + lane) * 4, row = at / 32, column = at % 32;
      tile[row * (32 + kPad) + column] = v.x;
      tile[row * (32 + kPad) + column + 1] = v.y;
      tile[row * (32 + kPad) + column + 2] = v.z;
      tile[row * (32 + kPad) + column + 3] = v.w;
    }
  } else {
    for (int row = 0; row < 32; ++row) tile[row * (32 + kPad) + lane] = __ldg(in + row * 32 + lane);
  }
  __syncwarp();
  for (int row = 0; row < 32; ++row) cuda::store(out + row * 32 + lane, tile[lane * (32 + kPad) + row]);
}

template <int kPad, bool kWide>
emu::Statistics run(emu::Traffic& in_traffic, emu::Traffic& out_traffic, int os_threads = 1) {
  emu::Session session({.os_threads = os_threads, .race = true, .count = true});
  std::vector<float> in(1024 + 8), out(1024 + 8, 0.0f);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const auto aligned = [](std::vector<float>& v) { return v.data() + (32 - reinterpret_cast<uintptr_t>(v.data()) % 32) % 32 / 4; };
  float *from = aligned(in), *to = aligned(out);
  session.add(from, 4096, "in");
  session.add(to, 4096, "out");
  cuda::launch(transpose<kPad, kWide>, dim3(2), dim3(32), 0, nullptr, from, to);
  for (int i = 0; i < 1024; ++i) CHECK(to[i] == from[i % 32 * 32 + i / 32]);
  in_traffic = session.traffic("in");
  out_traffic = session.traffic("out");
  CHECK(session.traffic("no such buffer").reads == 0);
  return session.statistics();
}

TEST_CASE("a transposition's conflicts and traffic") {
  emu::Traffic in, out;
  const emu::Statistics plain = run<0, false>(in, out);
  CHECK(plain.shared_requests == 2 * 64);
  CHECK(plain.shared_conflicts == 2 * 32 * 31);  // every column in one bank
  CHECK(plain.global_requests == 2 * 64);
  CHECK(plain.global_sectors == 2 * 64 * 4);
  CHECK(in.reads == 64);
  CHECK(in.sectors_read * 32 == in.bytes_read);
  CHECK(in.bytes_read == 2 * 4096);
  CHECK(in.writes == 0);
  CHECK(out.writes == 64);
  CHECK(out.bytes_written == 2 * 4096);
  CHECK(out.sectors_written == 2 * 128);
  CHECK(out.reads == 0);

  const emu::Statistics padded = run<1, false>(in, out, 2);
  CHECK(padded.shared_requests == plain.shared_requests);
  CHECK(padded.shared_conflicts == 0);

  run<1, true>(in, out);
  CHECK(in.reads == 16);  // of 16 bytes a lane
  CHECK(in.sectors_read == 16 * 16);
  CHECK(in.bytes_read == 2 * 4096);
}

}  // namespace

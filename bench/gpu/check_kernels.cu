// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/check_kernels.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 8;  // loads of 16 bytes of a thread that are under way together

// Grid: memory_blocks, each with its own stretch, which its threads walk side by side
struct Stretch {
  int64_t begin, end;  // of 16 bytes
};
FG_DEVICE Stretch stretch(int64_t n) {
  const int64_t each = (n + gridDim.x - 1) / gridDim.x, begin = each * blockIdx.x;
  return {begin, begin + each < n ? begin + each : n};
}

FG_KERNEL(kThreads) read_kernel(const uint4* from, int64_t n, uint32_t* sums) {
  FG_SHARED(uint32_t, of_thread, kThreads);
  const Stretch s = stretch(n);
  uint32_t sum = 0;
  for (int64_t at = s.begin + threadIdx.x; at < s.end; at += kThreads * kAtOnce) {
    uint4 v[kAtOnce];
    FG_UNROLL for (int i = 0; i < kAtOnce; ++i) v[i] = at + i * kThreads < s.end ? from[at + i * kThreads] : make_uint4(0, 0, 0, 0);
    FG_UNROLL for (int i = 0; i < kAtOnce; ++i) sum += v[i].x + v[i].y + v[i].z + v[i].w;
  }
  of_thread[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads; ++i) sum += of_thread[i];
  sums[blockIdx.x] = sum;
}

FG_KERNEL(kThreads) copy_kernel(uint4* to, const uint4* from, int64_t n) {
  const Stretch s = stretch(n);
  for (int64_t at = s.begin + threadIdx.x; at < s.end; at += kThreads * kAtOnce) {
    uint4 v[kAtOnce];
    FG_UNROLL for (int i = 0; i < kAtOnce; ++i) v[i] = at + i * kThreads < s.end ? from[at + i * kThreads] : make_uint4(0, 0, 0, 0);
    FG_UNROLL for (int i = 0; i < kAtOnce; ++i)
      if (at + i * kThreads < s.end) to[at + i * kThreads] = v[i];
  }
}

FG_KERNEL(kThreads) write_kernel(uint4* to, int64_t n, uint32_t value) {
  const Stretch s = stretch(n);
  for (int64_t at = s.begin + threadIdx.x; at < s.end; at += kThreads) to[at] = make_uint4(value, value, value, value);
}

FG_KERNEL(32) nothing_kernel() {}

// splitmix64; 24 bits and a half, so that it is never 0
FG_DEVICE float random_of(uint64_t seed, uint64_t i) {
  uint64_t z = (seed * 0x9E3779B97F4A7C15u + i) * 0x9E3779B97F4A7C15u + 1;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  z = z ^ z >> 31;
  return (static_cast<float>(static_cast<int32_t>(z >> 40) - (1 << 23)) + 0.5f) * 0x1p-23f;
}

template <class T>
FG_KERNEL(kThreads) fill_kernel(T* to, int64_t n, float scale, uint64_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step)
    to[i] = cuda::from_float<T>(scale * random_of(seed, static_cast<uint64_t>(i)));
}

// Grid: (N / 16, tokens / 16 up to 65535, strided beyond); a thread computes one element. Both operands go through shared memory, 16 x 16 at a time.
constexpr int kTile = 16;
template <class W>
FG_KERNEL(kTile * kTile) product_kernel(ReferenceProduct a) {
  FG_SHARED(float, x_tile, kTile * kTile);
  FG_SHARED(float, w_tile, kTile * (kTile + 1));
  const int column = static_cast<int>(threadIdx.x) % kTile, line = static_cast<int>(threadIdx.x) / kTile;
  const int n = static_cast<int>(blockIdx.x) * kTile + column, of_line = static_cast<int>(blockIdx.x) * kTile + line;
  const int out_tokens = (a.tokens + a.token_step - 1) / a.token_step;
  const W* const w = static_cast<const W*>(a.w);
  for (int first = static_cast<int>(blockIdx.y) * kTile; first < out_tokens; first += static_cast<int>(gridDim.y) * kTile) {
    const int i = first + line;
    float sum = 0, magnitude = 0;
    for (int k0 = 0; k0 < a.cols; k0 += kTile) {
      const int k = k0 + column;
      float x = i < out_tokens && k < a.cols ? a.x[static_cast<int64_t>(i) * a.token_step * a.x_stride + k] : 0.0f;
      if (a.round_x) x = cuda::to_float(cuda::from_float<W>(x));
      x_tile[line * kTile + column] = x;
      w_tile[line * (kTile + 1) + column] =
          of_line < a.rows && k < a.cols ? cuda::to_float(w[static_cast<int64_t>(of_line) * a.cols + k]) : 0.0f;
      __syncthreads();
      for (int j = 0; j < kTile; ++j) {
        const float product = x_tile[line * kTile + j] * w_tile[column * (kTile + 1) + j];
        sum += product, magnitude += fabsf(product);
      }
      __syncthreads();
    }
    if (i >= out_tokens || n >= a.rows) continue;
    a.y[static_cast<int64_t>(i) * a.rows + n] = sum;
    a.magnitude[static_cast<int64_t>(i) * a.rows + n] = magnitude;
  }
}

// The sum, or the largest, over a block's threads; all have it
template <bool kLargest>
FG_DEVICE float of_block(float v) {
  FG_SHARED(float, of_thread, kThreads);
  __syncthreads();
  of_thread[threadIdx.x] = v;
  for (int distance = kThreads / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < distance) {
      const float other = of_thread[threadIdx.x + distance];
      of_thread[threadIdx.x] = kLargest ? fmaxf(of_thread[threadIdx.x], other) : of_thread[threadIdx.x] + other;
    }
  }
  __syncthreads();
  return of_thread[0];
}

// Grid: (tokens of y, H). Scores are computed three times, by a thread a position; then a thread owns elements of the head.
template <class E>
FG_DEVICE float score_of(const ReferenceAttention& a, const float* q, const cuda::PagedSpan& span, int head, int position) {
  const E* const k = static_cast<const E*>(span.k_pages[position / a.layout.page_tokens]) +
                     (static_cast<int64_t>(head) * a.layout.page_tokens + position % a.layout.page_tokens) * a.layout.head_dim;
  float score = 0;
  for (int d = 0; d < a.layout.head_dim; ++d) score += q[d] * cuda::to_float(k[d]);
  return score * a.scale;
}
template <class E>
FG_KERNEL(kThreads) attention_kernel(ReferenceAttention a) {
  FG_SHARED(float, weight, kThreads);
  const int token = static_cast<int>(blockIdx.x) * a.token_step, head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const cuda::PagedSpan span = a.spans[token / a.n_tok];
  const int d_head = a.layout.head_dim, kv_head = head / (a.n_heads / a.layout.n_heads), page = a.layout.page_tokens;
  const int seen = static_cast<int>(span.first_position) + token % a.n_tok + 1;
  const int64_t width = static_cast<int64_t>(a.n_heads) * d_head;
  const float* const q = a.q + token * width + head * d_head;
  float largest = -INFINITY;
  for (int p = thread; p < seen; p += kThreads) largest = fmaxf(largest, score_of<E>(a, q, span, kv_head, p));
  largest = of_block<true>(largest);
  float sum = 0, out = 0;  // d_head <= kThreads: a thread has at most one element
  for (int p0 = 0; p0 < seen; p0 += kThreads) {
    const int p = p0 + thread;
    const float w = p < seen ? expf(score_of<E>(a, q, span, kv_head, p) - largest) : 0.0f;
    sum += w;
    __syncthreads();
    weight[thread] = w;
    __syncthreads();
    if (thread >= d_head) continue;
    for (int i = 0; i < kThreads && p0 + i < seen; ++i) {
      const E* const v = static_cast<const E*>(span.v_pages[(p0 + i) / page]) + (static_cast<int64_t>(kv_head) * page + (p0 + i) % page) * d_head;
      out += weight[i] * cuda::to_float(v[thread]);
    }
  }
  sum = of_block<false>(sum);
  if (thread < d_head) a.y[blockIdx.x * width + head * d_head + thread] = out / sum;
}

FG_KERNEL(kThreads) compare_kernel(Comparison a, Difference* parts) {
  FG_SHARED(Difference, of_thread, kThreads);
  Difference d{0, 0, 0};
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < a.rows * a.cols; i += step) {
    const double got = static_cast<double>(a.got[i / a.cols * a.got_stride + i % a.cols]), want = static_cast<double>(a.want[i]);
    const double error = got - want, most = static_cast<double>(a.c) * (a.magnitude ? static_cast<double>(a.magnitude[i]) : 1.0) +
                                            static_cast<double>(a.rel) * fabs(want);
    d.error += error * error, d.size += want * want;
    if (!(fabs(error) <= most)) ++d.wrong;
  }
  of_thread[threadIdx.x] = d;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads; ++i) d.error += of_thread[i].error, d.size += of_thread[i].size, d.wrong += of_thread[i].wrong;
  parts[blockIdx.x] = d;
}

unsigned blocks(int64_t n, int64_t of, int64_t most) {
  const int64_t needed = (n + of - 1) / of;
  return static_cast<unsigned>(needed < 1 ? 1 : needed < most ? needed : most);
}
unsigned memory_grid(int multiprocessors) { return static_cast<unsigned>(memory_blocks(multiprocessors)); }

}  // namespace

int read_memory(const void* from, size_t bytes, int multiprocessors, uint32_t* sums, void* stream) {
  return cuda::launch(read_kernel, dim3(memory_grid(multiprocessors)), dim3(kThreads), 0, stream, static_cast<const uint4*>(from),
                      static_cast<int64_t>(bytes / 16), sums);
}
int copy_memory(void* to, const void* from, size_t bytes, int multiprocessors, void* stream) {
  return cuda::launch(copy_kernel, dim3(memory_grid(multiprocessors)), dim3(kThreads), 0, stream, static_cast<uint4*>(to),
                      static_cast<const uint4*>(from), static_cast<int64_t>(bytes / 16));
}
int write_memory(void* to, size_t bytes, int multiprocessors, uint32_t value, void* stream) {
  return cuda::launch(write_kernel, dim3(memory_grid(multiprocessors)), dim3(kThreads), 0, stream, static_cast<uint4*>(to),
                      static_cast<int64_t>(bytes / 16), value);
}
int nothing(void* stream) { return cuda::launch(nothing_kernel, dim3(1), dim3(32), 0, stream); }

float random_value(uint64_t seed, uint64_t i) {
  uint64_t z = (seed * 0x9E3779B97F4A7C15u + i) * 0x9E3779B97F4A7C15u + 1;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  z = z ^ z >> 31;
  return (static_cast<float>(static_cast<int32_t>(z >> 40) - (1 << 23)) + 0.5f) * 0x1p-23f;
}

int fill_random(DType dtype, void* to, int64_t n, float scale, uint64_t seed, void* stream) {
  const dim3 grid(blocks(n, kThreads * 8, 65535));
  switch (dtype) {
    case DType::f16: return cuda::launch(fill_kernel<__half>, grid, dim3(kThreads), 0, stream, static_cast<__half*>(to), n, scale, seed);
    case DType::bf16:
      return cuda::launch(fill_kernel<__nv_bfloat16>, grid, dim3(kThreads), 0, stream, static_cast<__nv_bfloat16*>(to), n, scale, seed);
    case DType::f32: return cuda::launch(fill_kernel<float>, grid, dim3(kThreads), 0, stream, static_cast<float*>(to), n, scale, seed);
  }
  return 1;
}

int reference_product(const ReferenceProduct& a, void* stream) {
  const dim3 grid(blocks(a.rows, kTile, 1 << 30), blocks((a.tokens + a.token_step - 1) / a.token_step, kTile, 65535));
  switch (a.dtype) {
    case DType::f16: return cuda::launch(product_kernel<__half>, grid, dim3(kTile * kTile), 0, stream, a);
    case DType::bf16: return cuda::launch(product_kernel<__nv_bfloat16>, grid, dim3(kTile * kTile), 0, stream, a);
    case DType::f32: return cuda::launch(product_kernel<float>, grid, dim3(kTile * kTile), 0, stream, a);
  }
  return 1;
}

int reference_attention(const ReferenceAttention& a, void* stream) {
  const dim3 grid(blocks((int64_t{a.n_spans} * a.n_tok + a.token_step - 1) / a.token_step, 1, 1 << 30), static_cast<unsigned>(a.n_heads));
  return a.layout.dtype == DType::f16 ? cuda::launch(attention_kernel<__half>, grid, dim3(kThreads), 0, stream, a)
                                      : cuda::launch(attention_kernel<float>, grid, dim3(kThreads), 0, stream, a);
}

int compare(const Comparison& a, Difference* parts, void* stream) {
  return cuda::launch(compare_kernel, dim3(kCompareBlocks), dim3(kThreads), 0, stream, a, parts);
}

}  // namespace flexgen::bench

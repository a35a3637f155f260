// SPDX-License-Identifier: Apache-2.0
// The operations of the CUDA backend, through its table, on a card that is late: the CPU's bits, or within tolerance of them, from host
// arrays that are gone when a call returns, with the ring and the workspace of the demand and not a byte more.
#include "kernels/cuda/api/backend.h"

#include <cmath>

#include "cuda_backend/emulated_card.h"
#include "kernels/registry.h"
#include "support/compare.h"
#include "support/errors.h"

using namespace flexgen;
using namespace flexgen::testing;
using cuda::Arithmetic;

namespace {

FakeDeviceOptions card(Lateness lateness, uint64_t seed = 1, int arch = 90) {
  FakeDeviceOptions o;
  o.lateness = lateness, o.seed = seed;
  o.info.arch = arch;
  if (arch == 75) o.info.shared_bytes = size_t{64} << 10;
  return o;
}

// The same values in memory of the host and of the card
template <typename T>
struct Twin {
  std::vector<T> host;
  T* there;

  Twin(EmulatedCard& card, std::vector<T> values) : host(std::move(values)), there(card.upload(host)) {}
  T* on(bool card) { return card ? there : host.data(); }
};

std::vector<float> random_values(Random& random, int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (float& f : v) f = static_cast<float>(random.between(-1000, 1000)) * 0x1p-10f;
  return v;
}

std::vector<std::byte> stored(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) store_element(dtype, bytes.data(), i, values[i]);
  return bytes;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    const double e = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    error += e * e, size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(error / size);
}

struct LayerShape {
  DType weights, cache;
  int64_t heads, kv_heads, d, page;
  std::vector<std::pair<int64_t, int64_t>> spans;  // tokens, and positions in front of them
};

// A layer's worth of operations over a ragged batch. Caches hold values in front of the tokens.
class Layer {
 public:
  Layer(EmulatedCard& card, const LayerShape& shape, uint64_t seed)
      : s(shape), layout{s.cache, s.kv_heads, s.d, s.page}, random(seed), width(s.heads * s.d), wide(width + 2 * s.kv_heads * s.d),
        n_tok([&] {
          int64_t n = 0;
          for (const auto& [tokens, before] : shape.spans) n += tokens;
          return n;
        }()),
        table(card, stored(s.weights, random_values(random, kVocabulary * width))), qkv(card, stored(s.weights, random_values(random, wide * width))),
        out(card, stored(s.weights, random_values(random, width * width))), bias(card, random_values(random, wide)),
        gamma(card, random_values(random, width)), x(card, random_values(random, n_tok * width)), y(card, random_values(random, n_tok * width)),
        a(card, random_values(random, n_tok * wide)), b(card, random_values(random, n_tok * width)), c(card, random_values(random, n_tok * width)),
        o(card, random_values(random, n_tok * width)), states(card, random_values(random, 2 * n_tok * s.heads)), pages(card, page_memory()) {}

  DeviceDemand demand() const {
    return {n_tok, static_cast<int64_t>(s.spans.size()), n_pages(), wide, width, s.weights, s.heads, layout};
  }

  // on: the card, or the host. A token's results depend on no other token's.
  void run(const Backend& backend, Queue q, bool on) {
    const float scale = 1 / std::sqrt(static_cast<float>(s.d));
    {
      std::vector<int32_t> ids = some_ids();
      const std::vector<RowBlock> blocks{block(table, on, 0, 5, width), block(table, on, 5, kVocabulary - 5, width)};
      embed(backend, {ids, {s.weights, kVocabulary, width, blocks}, view(x, on, width)}, q);
      std::fill(ids.begin(), ids.end(), 3);
      embed(backend, {ids, {s.weights, kVocabulary, width, blocks}, view(x, on, width), true}, q);
    }
    layer_norm(backend, {view(x, on, width), gamma.on(on), bias.on(on), view(y, on, width)}, q);
    for (const auto& [first, n] : {std::pair<int64_t, int64_t>{0, 7}, {7, 9}, {16, wide - 16}}) {  // one product in three calls
      const RowBlock rows = block(qkv, on, first, n, width);
      linear(backend, {view(y, on, width), {s.weights, wide, width, {&rows, 1}}, bias.on(on), view(a, on, wide)}, q);
    }
    const MatView<float> all = view(a, on, wide);
    const int64_t kv = s.kv_heads * s.d;
    {
      SpanList spans(*this, on);
      kv_append(backend, {all.columns(width, kv), all.columns(width + kv, kv), layout, spans.spans}, q);
    }
    const MatView<const float> queries = all.columns(0, width);
    {
      SpanList spans(*this, on);
      attention(backend, {queries, view(b, on, width), s.heads, scale, layout, spans.spans}, q);
    }
    // positions [0, 32) in front, then the rest: b again
    const MatView<float> maximum{states.on(on), n_tok, s.heads, s.heads};
    const AttentionPartials part{view(o, on, width), maximum, {maximum.row(n_tok), n_tok, s.heads, s.heads}};
    {
      SpanList spans(*this, on, 0, 32);
      attention_partial(backend, {queries, part.o, part.maximum, part.sum, s.heads, scale, layout, spans.spans, spans.ranges}, q);
    }
    {
      SpanList spans(*this, on, 32, 1 << 20);
      attention(backend, {queries, view(c, on, width), s.heads, scale, layout, spans.spans, spans.ranges, &part}, q);
    }
    const RowBlock rows = block(out, on, 0, width, width);
    linear(backend, {view(c, on, width), {s.weights, width, width, {&rows, 1}}, bias.on(on), view(x, on, width), Activation::relu, true}, q);
    // what was seen of positions [0, 32) alone, in y
    attention_merge(backend, {{&part, 1}, view(y, on, width), s.heads, s.d}, q);
  }

  // Everything that was written, as one list
  std::vector<float> results(EmulatedCard& card, bool on) {
    std::vector<float> all;
    for (Twin<float>* t : {&x, &y, &a, &b, &c, &o, &states}) {
      const std::vector<float> v = on ? card.download(t->there, t->host.size()) : t->host;
      all.insert(all.end(), v.begin(), v.end());
    }
    const std::vector<std::byte> bytes = on ? card.download(pages.there, pages.host.size()) : pages.host;
    for (size_t i = 0; i < bytes.size() / size_of(s.cache); ++i) all.push_back(load_element(s.cache, bytes.data(), i));
    return all;
  }

  const LayerShape s;
  const KvLayout layout;

 private:
  static constexpr int64_t kVocabulary = 11;

  // Spans with page tables that hold the pages of a range alone; all of it is gone after the call
  struct SpanList {
    std::vector<KvSpan> spans;
    std::vector<PositionRange> ranges;
    std::vector<std::vector<std::byte*>> tables;

    SpanList(Layer& l, bool on, int64_t begin = 0, int64_t end = 1 << 20) {
      int64_t row = 0, page = 0;
      for (const auto& [tokens, before] : l.s.spans) {
        const int64_t n = l.pages_of(tokens + before);
        for (int side = 0; side < 2; ++side) {
          std::vector<std::byte*>& list = tables.emplace_back();
          for (int64_t p = 0; p < n; ++p, ++page) {
            const bool there = p * l.s.page < end && (p + 1) * l.s.page > begin;
            list.push_back(there ? l.pages.on(on) + page * static_cast<int64_t>(l.layout.page_bytes()) : nullptr);
          }
        }
        spans.push_back({row, tokens, before, nullptr, nullptr});
        ranges.push_back({begin, end});
        row += tokens;
      }
      for (size_t i = 0; i < spans.size(); ++i) spans[i].k_pages = tables[2 * i].data(), spans[i].v_pages = tables[2 * i + 1].data();
    }
    ~SpanList() {
      for (auto& t : tables) std::fill(t.begin(), t.end(), nullptr);
      for (KvSpan& span : spans) span = {};
    }
  };

  int64_t pages_of(int64_t positions) const { return (positions + s.page - 1) / s.page; }
  int64_t n_pages() const {
    int64_t n = 0;
    for (const auto& [tokens, before] : s.spans) n += 2 * pages_of(tokens + before);
    return n;
  }
  std::vector<std::byte> page_memory() {
    return stored(s.cache, random_values(random, n_pages() * static_cast<int64_t>(layout.page_bytes() / size_of(s.cache))));
  }
  std::vector<int32_t> some_ids() const {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < n_tok; ++t) ids.push_back(static_cast<int32_t>(t * 7 % kVocabulary));
    return ids;
  }
  MatView<float> view(Twin<float>& t, bool on, int64_t cols) const { return {t.on(on), n_tok, cols, cols}; }
  RowBlock block(Twin<std::byte>& t, bool on, int64_t first, int64_t n, int64_t cols) const {
    return {t.on(on) + first * cols * static_cast<int64_t>(size_of(s.weights)), first, n};
  }

  Random random;
  const int64_t width, wide;

 public:
  const int64_t n_tok;

 private:
  Twin<std::byte> table, qkv, out;
  Twin<float> bias, gamma;

 public:
  Twin<float> x, y, a, b, c, o, states;
  Twin<std::byte> pages;
};

}  // namespace

TEST_CASE("CUDA backend in f32 arithmetic: the CPU's bits from every operation, on a card that is late", "[cuda]") {
  const LayerShape shapes[] = {{DType::f32, DType::f32, 2, 1, 16, 32, {{1, 70}, {3, 30}, {2, 0}, {1, 31}}},
                               {DType::f16, DType::f16, 2, 2, 12, 64, {{1, 200}, {5, 0}}},
                               {DType::bf16, DType::f32, 3, 1, 8, 32, {{4, 60}}}};
  ThreadPool pool(1);
  uint64_t seed = 0;
  for (const LayerShape& shape : shapes)
    for (const Lateness lateness : {Lateness::late, Lateness::random}) {
      CAPTURE(name(shape.weights), static_cast<int>(lateness));
      EmulatedCard there(card(lateness, ++seed));
      const auto backend = cuda::make_cuda_backend(there.device(), {Arithmetic::f32});
      CHECK(backend->operations().name == "cuda");
      Layer layer(there, shape, seed);
      DeviceQueue& queue = there.queue(*backend, layer.demand());
      for (int step = 0; step < 3; ++step) {  // several times round the ring
        layer.run(backend->operations(), {nullptr, &queue}, true);
        layer.run(*backends().front(), {&pool}, false);
      }
      CHECK(bit_difference(layer.results(there, true), layer.results(there, false)) == "");
    }
}

TEST_CASE("CUDA backend in fast arithmetic: near the CPU's results, on every kind of card", "[cuda]") {
  ThreadPool pool(1);
  for (const int arch : {75, 80, 90})
    for (const DType weights : {DType::f16, DType::bf16}) {
      CAPTURE(arch, name(weights));
      EmulatedCard there(card(Lateness::late, 5, arch));
      const auto backend = cuda::make_cuda_backend(there.device());
      Layer layer(there, {weights, DType::f16, 2, 1, 16, 32, {{1, 300}, {17, 20}, {2, 40}}}, 5);  // tensor cores: prompts, and 3 tokens of a group
      DeviceQueue& queue = there.queue(*backend, layer.demand());
      layer.run(backend->operations(), {nullptr, &queue}, true);
      layer.run(*backends().front(), {&pool}, false);
      // x, q, probabilities and the cache are rounded to f16 one after the other; x to bf16, but on sm_75, which computes bf16 in f32
      const bool rounds_to_bf16 = weights == DType::bf16 && arch != 75;
      for (Twin<float>* t : {&layer.x, &layer.y, &layer.a, &layer.b, &layer.c, &layer.o, &layer.states})
        CHECK(relative_error(there.download(t->there, t->host.size()), t->host) < (rounds_to_bf16 ? 2e-2 : 4e-3));
    }
}

TEST_CASE("CUDA backend with one order: a sequence's results do not depend on its batch", "[cuda]") {
  const LayerShape batch{DType::f16, DType::f16, 2, 1, 16, 32, {{1, 300}, {9, 20}, {1, 95}, {3, 62}}};
  EmulatedCard there(card(Lateness::random, 7));
  const auto backend = cuda::make_cuda_backend(there.device(), {Arithmetic::one_order});
  Layer layer(there, batch, 7);
  DeviceQueue& queue = there.queue(*backend, layer.demand());
  layer.run(backend->operations(), {nullptr, &queue}, true);
  const int64_t width = 32;
  const std::vector<float> all = there.download(layer.c.there, layer.c.host.size());
  // attention gives the same with its beginning attended before
  CHECK(bit_difference(all, there.download(layer.b.there, layer.b.host.size())) == "");
  // each sequence alone, with the queries that the batch had
  const std::vector<float> a = there.download(layer.a.there, layer.a.host.size());
  int64_t row = 0, page = 0;
  for (const auto& [tokens, before] : batch.spans) {
    const int64_t n = (tokens + before + 31) / 32;
    std::vector<std::byte*> k, v;
    for (int64_t p = 0; p < n; ++p) k.push_back(layer.pages.there + (page + p) * static_cast<int64_t>(layer.layout.page_bytes()));
    for (int64_t p = 0; p < n; ++p) v.push_back(layer.pages.there + (page + n + p) * static_cast<int64_t>(layer.layout.page_bytes()));
    const KvSpan span{0, tokens, before, k.data(), v.data()};
    float* const alone = there.upload(std::vector<float>(static_cast<size_t>(tokens * width)));
    const MatView<const float> queries{layer.a.there + row * 64, tokens, width, 64};
    attention(backend->operations(), {queries, {alone, tokens, width, width}, 2, 0.25f, layer.layout, {&span, 1}}, {nullptr, &queue});
    const std::vector<float> got = there.download(alone, static_cast<size_t>(tokens * width));
    CHECK(bit_difference(got, std::vector<float>(all.begin() + row * width, all.begin() + (row + tokens) * width)) == "");
    row += tokens, page += 2 * n;
  }
  // a linear layer of one token as of all
  Random random(9);
  const auto w = stored(DType::f16, random_values(random, 24 * width));
  const RowBlock block{there.upload(w), 0, 24};
  float* const y = there.upload(std::vector<float>(14 * 24 + 24));
  const WeightView view{DType::f16, 24, width, {&block, 1}};
  linear(backend->operations(), {{layer.b.there, 14, width, width}, view, nullptr, {y, 14, 24, 24}}, {nullptr, &queue});
  linear(backend->operations(), {{layer.b.there + 13 * width, 1, width, width}, view, nullptr, {y + 14 * 24, 1, 24, 24}}, {nullptr, &queue});
  const std::vector<float> got = there.download(y, 15 * 24);
  CHECK(bit_difference(std::vector<float>(got.end() - 24, got.end()), std::vector<float>(got.end() - 48, got.end() - 24)) == "");
}

TEST_CASE("CUDA backend rounds x for a product once, and again when it may have changed", "[cuda]") {
  Random random(11);
  ThreadPool pool(1);
  const int64_t t = 20, k = 64, n = 32;
  EmulatedCard there(card(Lateness::late, 11));
  const auto backend = cuda::make_cuda_backend(there.device());
  DeviceQueue& queue = there.queue(*backend, {t, 0, 0, n, k, DType::f16});
  const Queue q{nullptr, &queue};
  const Backend& b = backend->operations();
  Twin<float> x(there, random_values(random, t * k)), other(there, random_values(random, t * k)), gamma(there, random_values(random, k));
  Twin<float> y(there, std::vector<float>(static_cast<size_t>(t * n)));
  Twin<std::byte> w(there, stored(DType::f16, random_values(random, n * k)));
  const auto rows = [&](bool on, int64_t first, int64_t count, auto&& on_backend, Queue on_queue, float* from) {
    const RowBlock block{w.on(on) + first * k * 2, first, count};
    linear(on_backend, {{from, t, k, k}, {DType::f16, n, k, {&block, 1}}, nullptr, {y.on(on), t, n, n}}, on_queue);
  };
  const auto both = [&](auto&& work) { work(true, b, q), work(false, *backends().front(), Queue{&pool}); };
  const auto near_the_cpu = [&] { CHECK(relative_error(there.download(y.there, y.host.size()), y.host) < 1e-3); };
  const auto launches = [&] { return there.device().waiting(); };

  both([&](bool on, const Backend& to, Queue at) { rows(on, 0, 16, to, at, x.on(on)); });
  const size_t first = launches();
  both([&](bool on, const Backend& to, Queue at) { rows(on, 16, 16, to, at, x.on(on)); });
  CHECK(launches() - first < first);  // without the rounding
  near_the_cpu();
  // the same x has other values, by an operation between the rows of one product
  both([&](bool on, const Backend& to, Queue at) { rows(on, 0, 16, to, at, x.on(on)); });
  both([&](bool on, const Backend& to, Queue at) { layer_norm(to, {{other.on(on), t, k, k}, gamma.on(on), nullptr, {x.on(on), t, k, k}}, at); });
  both([&](bool on, const Backend& to, Queue at) { rows(on, 16, 16, to, at, x.on(on)); });
  near_the_cpu();
  // or by whom the queue does not know, between products
  there.device().copy(reinterpret_cast<std::byte*>(x.there), reinterpret_cast<const std::byte*>(other.there), x.host.size() * sizeof(float),
                      there.stream());
  x.host = other.host;
  both([&](bool on, const Backend& to, Queue at) { rows(on, 0, n, to, at, x.on(on)); });
  near_the_cpu();
}

TEST_CASE("CUDA backend: where each block of positions is a part there is room for those of any context", "[cuda]") {
  EmulatedCard there;  // 4 multiprocessors run 32 blocks of attention_decode
  const auto one_order = cuda::make_cuda_backend(there.device(), {Arithmetic::one_order}), fast = cuda::make_cuda_backend(there.device());
  constexpr int64_t kHeads = 16, kHead = 128, kContext = 1 << 20;
  constexpr size_t kPart = kHeads * (kHead + 2) * sizeof(float);
  const auto parts = [&](DeviceBackend& b, int64_t sequences, DType cache) {  // bytes
    DeviceDemand d{4096, sequences, 2 * sequences * kContext / 64, 64, 64, DType::f16, kHeads, {cache, kHeads, kHead, 64}};
    return b.workspace_bytes(d) - b.arguments_bytes(d);
  };
  constexpr size_t kOfContext = kContext / 32 * kPart;  // twice what calls of many tokens have
  CHECK(kOfContext > size_t{64} << 20);
  CHECK(parts(*one_order, 1, DType::f16) == kOfContext);
  CHECK(parts(*one_order, 2, DType::f16) == 2 * kOfContext);
  CHECK(parts(*one_order, 3, DType::f16) == 2 * kOfContext);  // 2 sequences of 16 heads fill the card
  CHECK(parts(*fast, 1, DType::f32) == kOfContext);
  CHECK(parts(*fast, 1, DType::f16) == size_t{32} << 20);  // cut into longer parts
}

TEST_CASE("CUDA backend refuses calls beyond the demand, and memory below it", "[cuda]") {
  EmulatedCard there(card(Lateness::early));
  const auto backend = cuda::make_cuda_backend(there.device());
  const KvLayout layout{DType::f16, 2, 16, 32};
  const DeviceDemand demand{8, 2, 8, 64, 64, DType::f16, 2, layout, 3};
  DeviceQueue& queue = there.queue(*backend, demand);
  CHECK(&queue.device() == &there.device());
  CHECK(queue.stream() == there.stream());
  CHECK(&backend->device() == &there.device());
  const Backend& b = backend->operations();
  const Queue q{nullptr, &queue};
  float* const f = there.upload(std::vector<float>(9 * 200));
  CHECK_FAULT(layer_norm(b, {{f, 9, 64, 64}, nullptr, nullptr, {f, 9, 64, 64}}, q), Fault::internal, "9 tokens, the queue is for 8");
  const RowBlock rows{reinterpret_cast<std::byte*>(f), 0, 64};
  CHECK_FAULT(linear(b, {{f, 8, 72, 72}, {DType::f16, 64, 72, {&rows, 1}}, nullptr, {f, 8, 64, 64}}, q), Fault::internal,
              "W 64 x 72, the queue is for 64 x 64");
  std::vector<std::byte*> pages(4096, reinterpret_cast<std::byte*>(f));
  const KvSpan many{0, 1, 4095 * 32, pages.data(), pages.data()};
  CHECK_FAULT(attention(b, {{f, 1, 32, 32}, {f + 64, 1, 32, 32}, 2, 1, layout, {&many, 1}}, q), Fault::internal, "bytes of arguments in a call");
  const std::vector<KvSpan> three(3, {0, 1, 0, pages.data(), pages.data()});
  CHECK_FAULT(kv_append(b, {{f, 1, 32, 32}, {f, 1, 32, 32}, layout, three}, q), Fault::internal, "3 spans, the queue is for 2");
  const AttentionPartials gaps{{f, 1, 32, 40}, {f, 1, 2, 2}, {f, 1, 2, 2}};
  CHECK_FAULT(attention_merge(b, {{&gaps, 1}, {f, 1, 32, 32}, 2, 16}, q), Fault::internal, "parts with strides of 40 and 2 for 32 and 2");
  const std::vector<AttentionPartials> many_parts(33, {{f, 1, 32, 32}, {f, 1, 2, 2}, {f, 1, 2, 2}});
  CHECK_FAULT(attention_merge(b, {many_parts, {f + 64, 1, 32, 32}, 2, 16}, q), Fault::internal, "parts to merge: found 33, allowed 32");
  CHECK_FAULT(queue.draw({f, 4, 64, 64}, std::vector<Draw>(4), reinterpret_cast<int32_t*>(f)), Fault::internal,
              "4 rows of logits and 4 draws, the queue is for 3");
  CHECK_FAULT(layer_norm(b, {{f, 1, 64, 64}, nullptr, nullptr, {f, 1, 64, 64}}, {}), Fault::internal, "an operation of a device without its queue");
  // launches that fail
  const KvLayout wide{DType::f16, 2, 264, 32};
  const KvSpan one{0, 1, 0, pages.data(), pages.data()};
  CHECK_FAULT(attention(b, {{f, 1, 528, 528}, {f + 600, 1, 528, 528}, 2, 1, wide, {&one, 1}}, q), Fault::gpu,
              "cuda:0 (Fake card): attention: the launch failed with CUDA error 1 (no kernel for these operands)");
  std::vector<std::byte> memory(backend->workspace_bytes(demand) + 512);
  std::span<std::byte> aligned = memory;
  aligned = aligned.subspan(256 - reinterpret_cast<uintptr_t>(memory.data()) % 256);
  CHECK_FAULT(backend->make_queue(demand, there.stream(), {}, {}), Fault::internal, "workspace of 0 bytes");
  CHECK_FAULT(backend->make_queue(demand, there.stream(), aligned.subspan(1), memory), Fault::internal, "the workspace is not 256-byte aligned");
}

TEST_CASE("a CUDA queue draws tokens: the likeliest, and as the settings have it", "[cuda]") {
  for (const auto lateness : {Lateness::late, Lateness::random}) {
    EmulatedCard there(card(lateness));
    const auto backend = cuda::make_cuda_backend(there.device());
    const DeviceDemand demand{8, 0, 0, 64, 64, DType::f16, 0, {}, 3};
    DeviceQueue& queue = there.queue(*backend, demand);
    // three rows of four tokens: the last one has half the weight of each other one. The 9 is beyond the row
    const float half = std::log(2.0f);
    const std::vector<float> row{half, half, half, 0, 9};
    std::vector<float> logits;
    for (int r = 0; r < 3; ++r) logits.insert(logits.end(), row.begin(), row.end());
    logits[8] = half + 1, logits[13] = NAN;
    float* const rows = there.upload(logits);
    int32_t* const ids = there.upload(std::vector<int32_t>(6, 77));
    std::vector<Draw> draws(3);
    queue.draw({rows, 3, 4, 5}, draws, ids);
    draws[0] = {.uniform = 0.99, .top_k = 4};
    draws[2] = {.uniform = 0.5, .top_k = 2};
    queue.draw({rows, 3, 4, 5}, draws, ids + 3);
    std::fill(draws.begin(), draws.end(), Draw{.top_k = 0});
    CHECK(there.download(ids, 6) == std::vector<int32_t>{0, 3, ~3, 3, 3, ~3});
  }
}

TEST_CASE("what a CUDA queue needs is what its kernels take, and little for what needs little", "[cuda]") {
  EmulatedCard there(card(Lateness::early));
  const auto fast = cuda::make_cuda_backend(there.device()), exact = cuda::make_cuda_backend(there.device(), {Arithmetic::f32});
  const DeviceDemand rows_alone{16, 0, 0, 4096, 4096, DType::f16, 0, {}};
  const size_t ring = fast->arguments_bytes(rows_alone);
  CHECK(ring == 4096);  // 16 addresses a call
  CHECK(exact->workspace_bytes(rows_alone) == ring);
  CHECK(fast->arguments_bytes({.tokens = 16, .logits = 64}) == 4 * 64 * sizeof(Draw));
  CHECK(fast->workspace_bytes(rows_alone) == ring + 16 * 4096 * 2 + size_t{16} * 16 * 4096 * 4);  // x, and the sums of 16 splits
  // decoding 64 sequences of 2048 positions: tables of 64 pages each for K and V, and parts within their limit
  const DeviceDemand decode{64, 64, 64 * 2 * 64, 0, 0, DType::f16, 32, {DType::f16, 32, 128, 32}};
  CHECK(fast->arguments_bytes(decode) >= 4 * 64 * 2 * 64 * 8);
  CHECK(fast->arguments_bytes(decode) < 5 * 64 * 2 * 64 * 8);
  CHECK(fast->workspace_bytes(decode) == fast->arguments_bytes(decode) + (size_t{32} << 20));
  CHECK_FAULT(fast->workspace_bytes({1, 1, 2}), Fault::internal, "a demand of 0 heads of 0");
}

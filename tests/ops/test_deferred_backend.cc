// SPDX-License-Identifier: Apache-2.0
// The backend of the fake card that sweeps are tested on: the host backend's bits, whenever the card gets to it.
#include "support/deferred_backend.h"

#include <cstring>
#include <memory>
#include <vector>

#include "kernels/registry.h"
#include "support/compare.h"
#include "support/errors.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

// Where operands lie and operations run
class HostPlace {
 public:
  explicit HostPlace(const Backend& backend) : backend_(backend) {}
  const Backend& backend() const { return backend_; }
  Queue queue() { return {&pool_}; }
  std::byte* put(const void* data, size_t bytes) {
    const auto* const from = static_cast<const std::byte*>(data);
    return memory_.emplace_back(std::make_unique<std::vector<std::byte>>(from, from + bytes))->data();
  }
  std::vector<std::byte> get(const void* data, size_t bytes) {
    return {static_cast<const std::byte*>(data), static_cast<const std::byte*>(data) + bytes};
  }

 private:
  const Backend& backend_;
  ThreadPool pool_{1};
  std::vector<std::unique_ptr<std::vector<std::byte>>> memory_;
};

class CardPlace {
 public:
  static constexpr DeviceDemand kDemand{5, 2, 16, 96, 32, DType::f16, 2, {DType::f16, 2, 16, 32}, 4};

  CardPlace(const Backend& host, FakeDeviceOptions options)
      : device_(std::move(options)), arena_(2_MiB, &device_), backend_(device_, host), stream_(device_),
        workspace_(device_, backend_.workspace_bytes(kDemand)),
        queue_(backend_.make_queue(kDemand, stream_, workspace_.memory(), arena_.take(backend_.arguments_bytes(kDemand)))) {}
  FakeDevice& device() { return device_; }
  DeferredBackend& deferred() { return backend_; }
  Arena& arena() { return arena_; }
  const Backend& backend() const { return backend_.operations(); }
  Queue queue() { return {nullptr, queue_.get()}; }
  std::byte* put(const void* data, size_t bytes) {
    const std::span<std::byte> staging = arena_.take(bytes, 1);
    std::memcpy(staging.data(), data, bytes);
    std::byte* const to = memory_.emplace_back(device_, bytes).data();
    device_.copy(to, staging.data(), bytes, stream_);
    return to;
  }
  std::vector<std::byte> get(const void* data, size_t bytes) {
    const std::span<std::byte> staging = arena_.take(bytes, 1);
    device_.copy(staging.data(), static_cast<const std::byte*>(data), bytes, stream_);
    device_.synchronize_stream(stream_);
    return {staging.begin(), staging.end()};
  }

 private:
  FakeDevice device_;
  Arena arena_;
  DeferredBackend backend_;
  DeviceStream stream_;
  std::vector<DeviceMemory> memory_;
  DeviceMemory workspace_;
  std::unique_ptr<DeviceQueue> queue_;
};

template <typename Place>
MatView<float> put_matrix(Place& place, int64_t rows, int64_t cols, Random& random) {
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (float& f : values) f = random.value();
  return {reinterpret_cast<float*>(place.put(values.data(), values.size() * sizeof(float))), rows, cols, cols};
}
template <typename Place>
std::byte* put_halves(Place& place, int64_t n, Random& random) {
  std::vector<std::byte> values(static_cast<size_t>(n) * 2);
  for (int64_t i = 0; i < n; ++i) store_element(DType::f16, values.data(), static_cast<size_t>(i), random.value());
  return place.put(values.data(), values.size());
}

// Every operation, each on what the one before left. All lists of the host are gone when a call returns.
template <typename Place>
std::vector<std::byte> run_layer(Place& place) {
  Random random(7);
  constexpr int64_t kTokens = 5, kWidth = 32, kHeads = 2, kHead = 16, kPage = 32;
  const KvLayout layout{DType::f16, kHeads, kHead, kPage};
  const Backend& b = place.backend();
  const auto blocks = [&](std::vector<int64_t> rows, int64_t cols) {
    auto list = std::make_unique<std::vector<RowBlock>>();
    int64_t first = 0;
    for (int64_t n : rows) list->push_back({put_halves(place, n * cols, random), first, n}), first += n;
    return list;
  };
  const MatView<float> hidden = put_matrix(place, kTokens, kWidth, random), x = put_matrix(place, kTokens, kWidth, random),
                       qkv = put_matrix(place, kTokens, 3 * kWidth, random), norm = put_matrix(place, 2, kWidth, random),
                       bias = put_matrix(place, 1, 3 * kWidth, random);
  {
    const auto table = blocks({30, 20}, kWidth);
    std::vector<int32_t> ids{3, 49, 0, 30, 29};
    embed(b, {ids, {DType::f16, 50, kWidth, *table}, hidden, true}, place.queue());
    std::fill(ids.begin(), ids.end(), -1);
  }
  layer_norm(b, {hidden, norm.row(0), norm.row(1), x}, place.queue());
  {
    const auto w = blocks({40, 24, 32}, kWidth);
    linear(b, {x, {DType::f16, 3 * kWidth, kWidth, *w}, bias.data, qkv, Activation::relu, true}, place.queue());
    std::fill(w->begin(), w->end(), RowBlock{});
  }

  // 3 tokens of a sequence at 61, 2 of one at 0
  std::vector<std::vector<std::byte*>> pages(4);
  for (size_t list = 0; list < 4; ++list)
    for (size_t p = 0; p < (list < 2 ? 2u : 1u); ++p) pages[list].push_back(put_halves(place, kHeads * kPage * kHead, random));
  const auto with_spans = [&](auto&& call) {
    auto lists = pages;
    const std::vector<KvSpan> spans{{0, 3, 61, lists[0].data(), lists[1].data()}, {3, 2, 0, lists[2].data(), lists[3].data()}};
    call(std::span<const KvSpan>(spans));
    for (auto& list : lists) std::fill(list.begin(), list.end(), nullptr);
  };
  const MatView<const float> q = qkv.columns(0, kWidth);
  const MatView<float> whole = put_matrix(place, kTokens, kWidth, random), after = put_matrix(place, kTokens, kWidth, random),
                       merged = put_matrix(place, kTokens, kWidth, random);
  std::vector<AttentionPartials> parts;
  for (int i = 0; i < 2; ++i)
    parts.push_back(
        {put_matrix(place, kTokens, kWidth, random), put_matrix(place, kTokens, kHeads, random), put_matrix(place, kTokens, kHeads, random)});
  const std::vector<PositionRange> early{{0, 32}, {0, 0}}, late{{32, 64}, {0, 2}};
  with_spans([&](auto spans) { kv_append(b, {qkv.columns(kWidth, kWidth), qkv.columns(2 * kWidth, kWidth), layout, spans}, place.queue()); });
  with_spans([&](auto spans) { attention(b, {q, whole, kHeads, 0.25f, layout, spans}, place.queue()); });
  for (int i = 0; i < 2; ++i)
    with_spans([&](auto spans) {
      auto ranges = i == 0 ? early : late;
      attention_partial(b, {q, parts[i].o, parts[i].maximum, parts[i].sum, kHeads, 0.25f, layout, spans, ranges}, place.queue());
      std::fill(ranges.begin(), ranges.end(), PositionRange{32, 0});
    });
  with_spans([&](auto spans) {
    AttentionPartials before = parts[0];
    attention(b, {q, after, kHeads, 0.25f, layout, spans, late, &before}, place.queue());
    before = {};
  });
  {
    auto list = parts;
    attention_merge(b, {list, merged, kHeads, kHead}, place.queue());
    std::fill(list.begin(), list.end(), AttentionPartials{});
  }
  std::vector<std::byte> all;
  const auto add = [&](const void* data, size_t bytes) {
    const std::vector<std::byte> part = place.get(data, bytes);
    all.insert(all.end(), part.begin(), part.end());
  };
  for (const MatView<float>& m : {hidden, x, qkv, whole, after, merged}) add(m.data, static_cast<size_t>(m.rows * m.cols) * sizeof(float));
  for (const auto& list : pages)
    for (const std::byte* page : list) add(page, layout.page_bytes());
  return all;
}

FakeDeviceOptions options(Lateness lateness) {
  FakeDeviceOptions o;
  o.lateness = lateness;
  return o;
}

}  // namespace

TEST_CASE("deferred operations give the host backend's bits, late, early and in between", "[ops][deferred]") {
  for (const Backend* host : backends()) {
    CAPTURE(std::string(host->name));
    HostPlace place(*host);
    const std::vector<std::byte> want = run_layer(place);
    for (const Lateness lateness : {Lateness::late, Lateness::early, Lateness::random}) {
      CardPlace card(*host, options(lateness));
      CHECK(run_layer(card) == want);
    }
  }
}

TEST_CASE("a deferred operation has not run when the call returns", "[ops][deferred]") {
  CardPlace card(backend("auto"), {});
  const std::vector<float> zeros(32, 0.0f);
  auto* const x = reinterpret_cast<float*>(card.put(zeros.data(), 128));
  auto* const y = reinterpret_cast<float*>(card.put(zeros.data(), 128));
  (void)card.get(y, 128);  // they are there
  layer_norm(card.backend(), {{x, 1, 32, 32}, nullptr, x, {y, 1, 32, 32}}, card.queue());
  CHECK(card.device().waiting() == 1);
  const std::vector<float> ones(32, 1.0f);
  card.device().copy(reinterpret_cast<std::byte*>(x), card.arena().take(128).data(), 128, card.queue().device->stream());
  (void)card.get(y, 128);
  CHECK(card.device().waiting() == 0);
}

TEST_CASE("a queue's memory is what was asked for, and its own", "[ops][deferred]") {
  CardPlace card(backend("auto"), {});
  DeferredBackend& b = card.deferred();
  const DeviceDemand& demand = CardPlace::kDemand;
  DeviceStream stream(card.device());
  DeviceMemory workspace(card.device(), b.workspace_bytes(demand)), small(card.device(), b.workspace_bytes(demand) - 256);
  const std::span<std::byte> arguments = card.arena().take(b.arguments_bytes(demand));
  std::vector<std::byte> pageable(b.arguments_bytes(demand));
  CHECK_FAULT(b.make_queue(demand, stream, small.memory(), arguments), Fault::internal, "were asked for");
  CHECK_FAULT(b.make_queue(demand, stream, arguments.first(0), arguments), Fault::internal, "workspace of 0 bytes");
  CHECK_FAULT(b.make_queue(demand, stream, workspace.memory(), pageable), Fault::internal, "arguments of");
  CHECK_FAULT(b.make_queue(demand, stream, workspace.memory(), arguments.first(4095)), Fault::internal, "arguments of 4095 bytes");
  const auto queue = b.make_queue(demand, stream, workspace.memory(), arguments);
  CHECK(&queue->device() == &card.device());
  CHECK(queue->stream() == static_cast<Device::Stream>(stream));
  const std::vector<float> zeros(32, 0.0f);
  const MatView<float> x{reinterpret_cast<float*>(card.put(zeros.data(), 128)), 1, 32, 32};
  layer_norm(b.operations(), {x, nullptr, nullptr, x}, {nullptr, queue.get()});
  arguments[17] = std::byte{0};
  CHECK_FAULT(layer_norm(b.operations(), {x, nullptr, nullptr, x}, {nullptr, queue.get()}), Fault::internal, "wrote into the queue's arguments");
  CHECK_FAULT(layer_norm(b.operations(), {x, nullptr, nullptr, x}, {}), Fault::internal, "no queue of a device");
}

TEST_CASE("operands lie in the card's memory and calls within the demand", "[ops][deferred]") {
  CardPlace card(backend("auto"), {});
  const Backend& b = card.backend();
  Random random(3);
  std::vector<float> host(64 * 64, 1.0f);
  const MatView<float> x = put_matrix(card, 5, 32, random), here{host.data(), 5, 32, 32}, many = put_matrix(card, 6, 32, random);
  const auto draw = [&](const MatView<const float>& logits, size_t draws, int32_t* ids) {
    card.queue().device->draw(logits, std::vector<Draw>(draws), ids);
  };
  int32_t* const ids = reinterpret_cast<int32_t*>(many.data);
  CHECK_FAULT(draw(x, 5, ids), Fault::internal, "5 rows of logits and 5 draws, 4 were asked for");
  CHECK_FAULT(draw(x.rows_from(0, 4), 3, ids), Fault::internal, "4 rows of logits and 3 draws");
  CHECK_FAULT(draw(here.rows_from(0, 4), 4, ids), Fault::internal, "logits of 512 bytes");
  CHECK_FAULT(draw(x.rows_from(0, 4), 4, reinterpret_cast<int32_t*>(host.data())), Fault::internal, "ids of 16 bytes");
  CHECK_FAULT(layer_norm(b, {here, nullptr, nullptr, x}, card.queue()), Fault::internal, "x of 640 bytes");
  CHECK_FAULT(layer_norm(b, {x, nullptr, nullptr, here}, card.queue()), Fault::internal, "y of 640 bytes");
  CHECK_FAULT(layer_norm(b, {x, host.data(), nullptr, x}, card.queue()), Fault::internal, "gamma or beta of 128 bytes");
  CHECK_FAULT(layer_norm(b, {many, nullptr, nullptr, many}, card.queue()), Fault::internal, "x has 6 tokens, 5 were asked for");
  const MatView<float> y = put_matrix(card, 5, 97, random);
  const RowBlock block{put_halves(card, 97 * 32, random), 0, 97}, on_host{reinterpret_cast<std::byte*>(host.data()), 0, 32};
  CHECK_FAULT(linear(b, {x, {DType::f16, 97, 32, {&block, 1}}, nullptr, y}, card.queue()), Fault::internal, "W 97 x 32, 96 x 32 was asked for");
  CHECK_FAULT(linear(b, {x, {DType::f16, 32, 32, {&on_host, 1}}, nullptr, y.columns(0, 32)}, card.queue()), Fault::internal, "row block of 2048");
  CHECK_FAULT(linear(b, {x, {DType::f16, 96, 32, {}}, host.data(), y.columns(0, 96)}, card.queue()), Fault::internal, "bias of 384");

  const KvLayout layout = CardPlace::kDemand.layout;
  const MatView<float> k = put_matrix(card, 3, 32, random);
  std::byte* const page = put_halves(card, 32 * 32, random);
  std::vector<std::byte*> pages(9, page), gone(9, nullptr);
  std::vector<KvSpan> three;
  for (int64_t row = 0; row < 3; ++row) three.push_back({row, 1, 0, pages.data(), pages.data()});
  CHECK_FAULT(kv_append(b, {k, k, layout, three}, card.queue()), Fault::internal, "3 spans, 2 were asked for");
  const KvSpan nine[] = {{0, 1, 260, pages.data(), pages.data()}}, absent[] = {{0, 1, 0, pages.data(), gone.data()}};
  CHECK_FAULT(attention(b, {k, x.rows_from(0, 3), 2, 1, layout, nine}, card.queue()), Fault::internal, "18 pages, 16 were asked for");
  kv_append(b, {k, k, layout, nine}, card.queue());  // of which it writes two
  CHECK_FAULT(kv_append(b, {k, k, layout, absent}, card.queue()), Fault::internal, "page of 2048 bytes");
  const MatView<float> m = put_matrix(card, 3, 2, random), far{host.data(), 3, 2, 2};
  const AttentionPartials part{k, m, far};
  CHECK_FAULT(attention_merge(b, {{&part, 1}, x.rows_from(0, 3), 2, 16}, card.queue()), Fault::internal, "sum of 24 bytes");
  CHECK_FAULT(attention(b, {k, x.rows_from(0, 3), 2, 1, layout, absent, {}, &part}, card.queue()), Fault::internal, "is not in the card's memory");
}

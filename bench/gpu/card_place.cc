// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/card_place.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "flexgen/base/checked.h"

namespace flexgen::bench {
namespace {

constexpr size_t kAlignment = 256;  // of operands; their addresses are the host's modulo this
constexpr size_t kGuard = 256;      // bytes at least between two of them
constexpr std::byte kGuardByte{0xA5};

class CardPlace final : public testing::Place {
 public:
  explicit CardPlace(const CardPlaces& places) : on_(places) {}

  int run(const std::function<int(void*)>& launches) override {
    if (const int error = run_once(launches)) return error;
    const std::vector<std::byte> first(on_.returned().begin(), on_.returned().begin() + static_cast<ptrdiff_t>(used_));
    if (const int error = run_once(launches)) return error;
    for (const Operand& o : operands_) {
      const std::byte *const a = first.data() + o.offset, *const b = on_.returned().data() + o.offset;
      const std::byte* const differs = std::mismatch(a, a + o.bytes, b).first;
      if (differs != a + o.bytes) fail(Fault::internal, "{}: byte {} differs between two runs with the same operands", o.name, differs - a);
    }
    for (const Operand& o : operands_)
      if (o.written) std::memcpy(o.host, on_.returned().data() + o.offset, o.bytes);
    return 0;
  }
  std::optional<emu::Statistics> statistics() const override { return std::nullopt; }

 private:
  struct Operand {
    std::string name;
    void* host;
    size_t offset, bytes;  // in the block
    bool written;
  };

  void* add(void* data, size_t bytes, const char* name, bool written) override {
    const size_t offset = round_up(used_ + kGuard, kAlignment) + reinterpret_cast<uintptr_t>(data) % kAlignment;
    if (offset + bytes + kGuard > on_.there().size())
      fail(Fault::internal, "{}: operands of {} bytes, there is room for {}", name, offset + bytes + kGuard, on_.there().size());
    operands_.push_back({name, data, offset, bytes, written});
    used_ = offset + bytes + kGuard;
    return on_.there().data() + offset;
  }

  int run_once(const std::function<int(void*)>& launches) {
    Device& device = on_.device();
    std::byte *const sent = on_.sent().data(), *const returned = on_.returned().data();
    std::fill_n(sent, used_, kGuardByte);
    for (const Operand& o : operands_)
      if (o.bytes > 0) std::memcpy(sent + o.offset, o.host, o.bytes);
    device.copy(on_.there().data(), sent, used_, on_.stream());
    if (const int error = launches(on_.stream())) return error;
    device.copy(returned, on_.there().data(), used_, on_.stream());
    device.synchronize_stream(on_.stream());
    // operands lie in the block in their order
    size_t at = 0;
    for (const Operand& o : operands_) {
      check_unchanged(at, o.written ? o.offset : o.offset + o.bytes);
      at = o.offset + o.bytes;
    }
    check_unchanged(at, used_);
    return 0;
  }

  void check_unchanged(size_t begin, size_t end) const {
    const std::byte *const a = on_.sent().data() + begin, *const b = on_.returned().data() + begin;
    if (std::memcmp(a, b, end - begin) == 0) return;
    const size_t at = begin + static_cast<size_t>(std::mismatch(a, a + (end - begin), b).first - a);
    const auto next = std::find_if(operands_.begin(), operands_.end(), [&](const Operand& o) { return at < o.offset + o.bytes; });
    if (next == operands_.end()) {
      const Operand& last = operands_.back();
      fail(Fault::internal, "{}: byte {} behind its end was written", last.name, at - last.offset - last.bytes);
    }
    if (at < next->offset) fail(Fault::internal, "{}: byte {} before its begin was written", next->name, next->offset - at);
    fail(Fault::internal, "{}: byte {} was written, and kernels only read it", next->name, at - next->offset);
  }

  const CardPlaces& on_;
  std::vector<Operand> operands_;
  size_t used_ = 0;
};

}  // namespace

std::unique_ptr<testing::Place> CardPlaces::open() const { return std::make_unique<CardPlace>(*this); }

}  // namespace flexgen::bench

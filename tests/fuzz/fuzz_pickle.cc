// SPDX-License-Identifier: Apache-2.0
// Pickles: any bytes are a description that can be walked and printed, or a Fault::checkpoint. Containers may hold themselves, so
// the walk is bounded by steps.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/format/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace flexgen;
  const PickleLimits limits{.steps = 100'000, .stack = 10'000, .memo = 10'000, .objects = 10'000, .items = 50'000};
  try {
    const auto p = Pickle::try_recognise(std::string(reinterpret_cast<const char*>(data), size), "p", limits);
    if (!p) return 0;
    if (p->size() > size) std::abort();
    std::vector<PickleValue> todo{p->root()};
    todo.insert(todo.end(), p->persistent_ids().begin(), p->persistent_ids().end());
    for (int steps = 0; !todo.empty() && steps < 10'000; ++steps) {
      const PickleValue v = todo.back();
      todo.pop_back();
      if (p->describe(v).empty()) std::abort();
      switch (v.kind) {
        case PickleKind::text:
        case PickleKind::bytes:
        case PickleKind::big_integer:
          if (p->text(v).size() != v.size || printable(p->text(v)).size() > 1000) std::abort();
          break;
        case PickleKind::tuple:
        case PickleKind::list:
        case PickleKind::set:
        case PickleKind::dict:
          todo.insert(todo.end(), p->items(v).begin(), p->items(v).end());
          break;
        case PickleKind::global:
          (void)p->global(v);
          break;
        case PickleKind::call:
          (void)p->global(v);
          if (p->is_plain_call(v)) todo.insert(todo.end(), p->arguments(v).begin(), p->arguments(v).end());
          break;
        case PickleKind::persistent:
          todo.push_back(p->id(v));
          break;
        default:
          break;
      }
    }
  } catch (const Error& e) {
    if (e.fault() != Fault::checkpoint || !std::string_view(e.what()).starts_with("p: ")) std::abort();
  }
  return 0;
}

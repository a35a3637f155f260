// SPDX-License-Identifier: Apache-2.0
#include "kernels/registry.h"

#include <string>
#include <vector>

#include "flexgen/ops/ref/backend.h"

namespace flexgen {

std::span<const Backend* const> backends() {
  static const std::vector<const Backend*> list{&ref::kBackend};
  return list;
}

const Backend& backend(std::string_view name) {
  if (name == "auto") return *backends().front();
  std::string names = "auto";
  for (const Backend* b : backends()) {
    if (b->name == name) return *b;
    names += ", " + std::string(b->name);
  }
  fail(Fault::usage, "--isa: found '{}', this build on this CPU has {}. Choose one of these", printable(name), names);
}

}  // namespace flexgen

// SPDX-License-Identifier: Apache-2.0
// Several consecutive elements that one instruction moves, for kernels that copy and convert rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// kWidth elements that one instruction moves; the address is a multiple of their size
template <class Element, int kWidth>
struct alignas(sizeof(Element) * kWidth) Elements {
  Element at[kWidth];
};

template <int kWidth, class Element>
FG_DEVICE Elements<Element, kWidth> load_elements(const Element* from) {
  return *reinterpret_cast<const Elements<Element, kWidth>*>(from);
}

template <int kWidth, class Element>
FG_DEVICE void store_elements(Element* to, const Elements<Element, kWidth>& v) {
  *reinterpret_cast<Elements<Element, kWidth>*>(to) = v;
}

inline bool aligned_to(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }  // on the host

}  // namespace flexgen::cuda

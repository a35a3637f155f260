// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/stored_tensor.h"

#include <set>

#include "support/errors.h"

using namespace flexgen;

namespace {

StoredTensor half_tensor(Shape shape, std::vector<int64_t> strides) { return {"w", DType::f16, "f16", std::move(shape), std::move(strides)}; }

// places a tensor in a storage of 100 f16 elements at byte 1000 of the file
StoredTensor placed(Shape shape, std::vector<int64_t> strides, int64_t first) {
  StoredTensor t = half_tensor(std::move(shape), std::move(strides));
  place_in_storage(t, 1000, 100, 2, first, "f");
  return t;
}

}  // namespace

TEST_CASE("contiguous is what one read gives", "[format]") {
  CHECK(half_tensor({2, 3}, {3, 1}).contiguous());
  CHECK(half_tensor({}, {}).contiguous());
  CHECK(half_tensor({5}, {1}).contiguous());
  CHECK(half_tensor({1, 3}, {77, 1}).contiguous());  // the stride of a dimension of one is never used
  CHECK(half_tensor({3, 1}, {1, 77}).contiguous());
  CHECK(half_tensor({0, 3}, {1, 1}).contiguous());
  CHECK_FALSE(half_tensor({2, 3}, {1, 2}).contiguous());
  CHECK_FALSE(half_tensor({2, 3}, {4, 1}).contiguous());
  CHECK_FALSE(half_tensor({2, 3}, {0, 1}).contiguous());
  CHECK_FALSE(half_tensor({5}, {2}).contiguous());
  CHECK(half_tensor({2, 3}, {3, 1}).bytes() == 12);
  CHECK(half_tensor({}, {}).bytes() == 2);
}

TEST_CASE("the last element decides whether a view fits", "[format]") {
  CHECK(placed({10, 10}, {10, 1}, 0).offset == 1000);
  CHECK(placed({10, 9}, {10, 1}, 1).offset == 1002);
  CHECK(placed({10, 10}, {1, 10}, 0).offset == 1000);
  CHECK(placed({}, {}, 99).offset == 1198);
  CHECK(placed({0, 5}, {5, 1}, 500).offset == 1000);  // no element, no place
  CHECK(placed({1000}, {0}, 99).offset == 1198);
  CHECK(placed({100, 1}, {1, INT64_MAX}, 0).offset == 1000);
  CHECK_FAULT(placed({10, 10}, {10, 1}, 1), Fault::checkpoint,
              "f: tensor 'w': reaches element 100 of a storage of 100: shape [10, 10], strides [10, 1], offset 1.");
  CHECK_FAULT(placed({}, {}, 100), Fault::checkpoint, "f: tensor 'w': reaches element 100 of a storage of 100");
  CHECK_FAULT(placed({3, 3}, {INT64_MAX, INT64_MAX}, 0), Fault::checkpoint,
              "f: tensor 'w': strides [9223372036854775807, 9223372036854775807] overflow 64 bits");
  CHECK_FAULT(placed({1ll << 30}, {0}, 0), Fault::checkpoint,
              "f: tensor 'w': strides [0] make 1073741824 elements out of 100 stored ones; allowed where that is at most 64.0 MiB");
  CHECK(placed({32 << 20}, {0}, 0).bytes() == kMaxRepeatedBytes);
}

TEST_CASE("number formats have one name each", "[format]") {
  std::set<std::string_view> names, safetensors, torch, storages;
  for (const StoredFormat& f : kStoredFormats) {
    CHECK(names.insert(f.name).second);
    if (!f.safetensors.empty()) CHECK(safetensors.insert(f.safetensors).second);
    if (!f.torch.empty()) CHECK(torch.insert(f.torch).second);
    if (!f.storage.empty()) CHECK(storages.insert(f.storage).second);
    if (f.dtype) CHECK(size_of(*f.dtype) * 8 == f.bits);
    if (f.dtype) CHECK(name(*f.dtype) == f.name);
    if (!f.torch.empty()) CHECK(f.bits % 8 == 0);  // the torch readers count in whole bytes
  }
}

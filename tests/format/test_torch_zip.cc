// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/torch_zip.h"

#include <array>
#include <span>

#include "flexgen/tensor/half.h"
#include "support/errors.h"
#include "support/memory_file.h"
#include "support/torch_writer.h"

using namespace flexgen;
using namespace flexgen::testing;
using namespace flexgen::testing::pickle;

namespace {

std::vector<StoredTensor> read_zip_bin(const std::string& bytes) { return read_torch_zip(memory_file(bytes), 3); }

// a .bin with one storage "0" of 24 bytes and this as its pickled object
std::string with_object(const std::string& object) { return zip_bin(whole(object), {{"0", std::string(24, 's')}}); }
std::string with_tensor(const std::string& tensor) { return with_object(dict({{"w", tensor}})); }
const std::string kHalves = storage("HalfStorage", "0", 12);

}  // namespace

TEST_CASE("views, transposes, shared and empty storages", "[format]") {
  const std::string half = storage("HalfStorage", "0", 12), brain = storage("BFloat16Storage", "big", 5), none = storage("FloatStorage", "none", 0);
  const std::string bytes = zip_bin(whole(dict({{"whole", tensor(half, 0, {3, 4}, {4, 1})},
                                                {"transposed", tensor(half, 0, {4, 3}, {1, 4})},
                                                {"row", tensor(half, 4, {4}, {1})},
                                                {"column", tensor(half, 1, {3}, {4})},
                                                {"scalar", tensor(half, 11, {}, {})},
                                                {"expanded", tensor(brain, 2, {1000, 3}, {0, 1})},
                                                {"empty", tensor(none, 0, {0, 8}, {8, 1})},
                                                {"one", tensor(half, 0, {1, 12}, {999, 1})}})),
                                    {{"0", std::string(24, 'h')}, {"big", std::string(10, 'b')}, {"none", ""}});
  const auto ts = read_zip_bin(bytes);
  const std::string h(24, 'h');
  const size_t at = place_of(bytes, h);
  const auto find = [&](const std::string& name) {
    for (const StoredTensor& t : ts)
      if (t.name == name) return t;
    throw std::out_of_range(name);
  };
  REQUIRE(ts.size() == 8);
  CHECK(find("whole").offset == at);
  CHECK(find("whole").contiguous());
  CHECK(find("whole").dtype == DType::f16);
  CHECK(find("whole").file == 3);
  CHECK(find("whole").crc32 == crc32(std::as_bytes(std::span(h))));
  CHECK(find("transposed").strides == std::vector<int64_t>{1, 4});
  CHECK_FALSE(find("transposed").contiguous());
  CHECK_FALSE(find("transposed").crc32.has_value());
  CHECK(find("row").offset == at + 8);
  CHECK(find("row").contiguous());
  CHECK_FALSE(find("row").crc32.has_value());  // the archive's CRC is of the whole storage
  CHECK(find("column").offset == at + 2);
  CHECK_FALSE(find("column").contiguous());
  CHECK(find("scalar").offset == at + 22);
  CHECK(find("scalar").numel() == 1);
  CHECK(find("expanded").dtype == DType::bf16);
  CHECK(find("expanded").numel() == 3000);
  CHECK(find("empty").bytes() == 0);
  CHECK(find("one").contiguous());
}

TEST_CASE("a broken .bin is refused", "[format]") {
  const std::string t = tensor(kHalves, 0, {12}, {1});
  const std::string pickled = whole(dict({{"w", t}}));
  const auto items = [&](std::vector<ZipItem> i) { return zip_file(i, {.zip64 = true}); };
  const std::string bytes24(24, 's');
  struct Case {
    std::string bytes, message;
  };
  const Case cases[] = {
      {items({{.name = "a.npy", .data = "x"}}), "model.bin: zip archive without a folder/data.pkl: not written by PyTorch"},
      {items({{.name = "a/b/data.pkl", .data = "x"}}), "model.bin: zip archive without a folder/data.pkl"},
      {items({{.name = "a/data.pkl", .data = pickled}, {.name = "b/data.pkl", .data = pickled}}),
       "model.bin: found both 'a/data.pkl' and 'b/data.pkl', allowed one"},
      {items({{.name = "a/data.pkl", .data = pickled}, {.name = "a/constants.pkl", .data = ""}}),
       "model.bin: found a TorchScript module, which is code, allowed a state_dict"},
      {items({{.name = "a/data.pkl", .data = pickled}, {.name = "a/byteorder", .data = "big"}}),
       "model.bin: byte order: found 'big', allowed 'little'"},
      {items({{.name = "a/data.pkl", .data = pickled, .crc = 0x12345678}}), "model.bin: entry 'a/data.pkl' is damaged: CRC "},
      {items({{.name = "a/data.pkl", .data = "}."}}), "model.bin: data.pkl: not a pickle of protocol 2 to 5: found 0x7d at byte 0"},
      {items({{.name = "a/data.pkl", .data = pickled + "x"}}), "model.bin: data.pkl: damaged pickle: 1 bytes after STOP"},
      {items({{.name = "a/data.pkl", .data = pickled.substr(0, 60)}}),
       "model.bin: data.pkl: damaged pickle: it ends in the middle of an instruction or without STOP"},
      {items({{.name = "a/data.pkl", .data = pickled}}), "model.bin: storage 'a/data/0' is named but not in the archive"},
      {items({{.name = "a/data.pkl", .data = pickled}, {.name = "a/data/0", .data = "short"}}),
       "model.bin: storage 'a/data/0': found 5 bytes, allowed 24: 12 elements of f16"},
      {with_object("]"), "model.bin: data.pkl: the top level is a list, allowed a dictionary of tensors"},
      {with_object(t), "model.bin: data.pkl: the top level refers to 'torch._utils._rebuild_tensor_v2', which is code"},
      {with_object(call(global("posix", "system"), tuple({text("ls")}))),
       "model.bin: data.pkl: the top level refers to 'posix.system', which is code, not a dictionary of tensors; nothing was run"},
      {with_object(global("os", "sys\x1b[31mtem")), "model.bin: data.pkl: the top level refers to 'os.sys\\x1b[31mtem'"},
      {with_object(dict({{"net", dict({{"w", t}})}, {"optimizer", "}"}})),
       "model.bin: data.pkl: no tensors at the top level; found keys 'net', 'optimizer'. Save the state_dict()"},
      {with_object("}"), "model.bin: data.pkl: no tensors at the top level; found keys of no name"},
      {with_object(dict({{"w", t}, {"w", t}})), "model.bin: data.pkl: tensor 'w' is given twice; refusing an ambiguous file"},
      {with_tensor(tensor(storage("HalfStorage", "../0", 12), 0, {12}, {1})), "model.bin: storage 'm/data/../0' is named but not in the archive"},
      {with_tensor(tensor(storage("HalfStorage", "1", 12), 0, {12}, {1})), "model.bin: storage 'm/data/1' is named but not in the archive"},
      {with_tensor(tensor(storage("HalfStorage", "0", 13), 0, {12}, {1})),
       "model.bin: storage 'm/data/0': found 24 bytes, allowed 26: 13 elements of f16"},
      {with_tensor(tensor(storage("HalfStorage", "0", INT64_MAX), 0, {12}, {1})),
       "storage 'm/data/0': found 24 bytes, allowed 18,446,744,073,709,551,614"},
      {with_tensor(tensor(storage("FloatStorage", "0", INT64_MAX), 0, {12}, {1})), "overflows 64 bits"},
      {with_tensor(tensor(storage("HalfStorage", "0", -1), 0, {12}, {1})), "damaged pickle: storage id: found "},
      {with_tensor(tensor(kHalves, 1, {12}, {1})),
       "tensor 'w': reaches element 12 of a storage of 12: shape [12], strides [1], offset 1. The file is damaged"},
      {with_tensor(tensor(kHalves, -1, {12}, {1})), "tensor 'w': storage offset: found -1, allowed 0 and above"},
      {with_tensor(tensor(kHalves, 0, {3, 4}, {5, 1})), "tensor 'w': reaches element 13 of a storage of 12"},
      {with_tensor(tensor(kHalves, 11, {12}, {-1})), "tensor 'w': stride: found -1, allowed 0 and above"},
      {with_tensor(tensor(kHalves, 0, {3, 4}, {1})), "tensor 'w': found 1 strides, allowed one for each of 2 dimensions"},
      {with_tensor(tensor(kHalves, 0, {-3}, {1})), "tensor 'w': dimension 0: found -3, allowed a whole number from 0"},
      {with_tensor(tensor(kHalves, 0, {1000000000000}, {0})),
       "tensor 'w': strides [0] make 1000000000000 elements out of 12 stored ones; allowed where that is at most 64.0 MiB"},
      {with_tensor(tensor(kHalves, 0, {1000000000000}, {INT64_MAX})), "tensor 'w': strides [9223372036854775807] overflow 64 bits"},
      {with_tensor(tensor(kHalves, 0, {1ll << 40, 1ll << 40}, {0, 0})), "tensor 'w': shape [1099511627776, 1099511627776] overflows 64 bits"},
      {with_tensor(tensor(kHalves, 0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1))), "tensor 'w': shape: found 9 numbers, allowed 8"},
      {with_tensor(tensor("N", 0, {12}, {1})), "damaged pickle: tensor 'w': found None in the place of its storage"},
      {with_tensor(tensor(tuple({text("module"), "N"}) + "Q", 0, {12}, {1})),
       "damaged pickle: tensor 'w': found a storage in the place of its storage"},
      {with_tensor(call(global("torch._utils", "_rebuild_tensor_v2"), tuple({kHalves}))),
       "damaged pickle: tensor 'w': 1 arguments of torch._utils._rebuild_tensor_v2"},
      {with_tensor(call(global("torch._utils", "_rebuild_tensor_v2"), tuple({kHalves, "N", numbers({12}), numbers({1})}))),
       "damaged pickle: tensor 'w': storage offset: found None, allowed a number"},
      {with_tensor(call(global("torch._utils", "_rebuild_tensor_v2"), tuple({kHalves, number(0), text("12"), numbers({1})}))),
       "damaged pickle: tensor 'w': shape: found a text, allowed a tuple of numbers"},
      {with_tensor(call(global("torch._utils", "_rebuild_tensor_v2"), tuple({kHalves, number(0), numbers({12}), tuple({"N"})}))),
       "damaged pickle: tensor 'w': strides: found None, allowed a number"},
      {with_tensor(call(global("torch._utils", "_rebuild_parameter"), tuple({"N"}))), "damaged pickle: tensor 'w': found None, allowed a tensor"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    CHECK_FAULT(read_zip_bin(c.bytes), Fault::checkpoint, c.message);
  }
}

TEST_CASE("every pickle protocol, as Python's pickler writes it", "[format]") {
  for (int protocol = 2; protocol <= 5; ++protocol) {
    INFO("protocol " << protocol);
    const File file = File::open(test_data(fmt::format("torch/protocol-{}.bin", protocol)));  // tests/data/torch/make_protocols.py
    const auto ts = read_torch_zip(file, 0);
    REQUIRE(ts.size() >= 3);
    const auto value = [&](const StoredTensor& t, uint64_t element) {
      std::array<std::byte, 4> bytes{};
      const size_t size = size_of(*t.dtype);
      file.read(t.offset + element * size, std::span(bytes).first(size));
      return load_element(*t.dtype, bytes.data(), 0);
    };
    for (const StoredTensor& t : ts) {
      if (t.name == "weight") CHECK((t.shape == Shape{2, 3} && t.contiguous() && t.dtype == DType::f16 && value(t, 4) == 4));
      if (t.name == "transposed") CHECK((t.shape == Shape{3, 2} && t.strides == Shape{1, 3}));
      if (t.name == "parameter") CHECK((t.shape == Shape{100} && t.dtype == DType::f32 && value(t, 7) == 207));
      if (t.name != "weight" && t.name != "transposed" && t.name != "parameter")
        CHECK_FAULT(require_readable(t, "f"), Fault::checkpoint, "f: tensor '");
    }
    CHECK(ts[0].name == "weight");
    CHECK(ts[1].name == "transposed");
    CHECK(ts[2].name == "parameter");
  }
}

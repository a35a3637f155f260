// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/safetensors.h"

#include "support/errors.h"
#include "support/memory_file.h"
#include "support/safetensors_writer.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

std::vector<StoredTensor> tensors_of(const std::string& bytes) { return read_safetensors(memory_file(bytes, "m.safetensors"), 0); }

}  // namespace

TEST_CASE("every dtype, scalars and empty tensors", "[format]") {
  const auto t = tensors_of(safetensors_file(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},
    "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"BF16","shape":[0,7],"data_offsets":[16,16]},
    "i":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},"q":{"dtype":"F4","shape":[3,2],"data_offsets":[24,27]},
    "r":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[27,30]}}   )",
                                       std::string(30, 'x')));
  REQUIRE(t.size() == 6);
  CHECK(t[0].name == "a");
  CHECK(t[0].shape.empty());
  CHECK(t[0].dtype == DType::f32);
  CHECK(t[0].numel() == 1);
  CHECK(t[1].name == "b");
  CHECK(t[1].shape == Shape{2, 3});
  CHECK(t[1].strides == std::vector<int64_t>{3, 1});
  CHECK(t[1].offset == t[0].offset + 4);
  CHECK(t[1].bytes() == 12);
  CHECK(t[1].contiguous());
  CHECK(t[2].name == "e");
  CHECK(t[2].bytes() == 0);
  CHECK_FALSE(t[3].dtype.has_value());
  CHECK(t[3].dtype_name == "i64");
  CHECK_NOTHROW(require_readable(t[1], "f"));
  CHECK_FAULT(require_readable(t[3], "f"), Fault::checkpoint, "f: tensor 'i': data type: found i64, allowed f32, f16 or bf16.");
  CHECK(tensors_of(safetensors_file("{}")).empty());
}

TEST_CASE("a header that contradicts itself or the file is refused", "[format]") {
  const auto one = [](const std::string& info, size_t data = 8) { return safetensors_file(cat("{\"w\":", info, "}"), std::string(data, 'd')); };
  const std::string good = one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})");
  struct Case {
    std::string bytes, message;
  };
  const Case cases[] = {
      {"", "m.safetensors: file is empty (0 bytes), allowed a checkpoint"},
      {"1234567", "m.safetensors: too short for a safetensors header: found 7 bytes, allowed 8 and above"},
      {cat(u64(UINT64_MAX), "{}"), "header length 18446744073709551615 exceeds the 2 bytes left in the file"},
      {cat(u64(3), "{}"), "header length 3 exceeds the 2 bytes left in the file: no safetensors file, or a truncated download"},
      {u64(0), "header: found nothing at byte 8, allowed '{'"},
      {safetensors_file(" {}"), "header: found 0x20 at byte 8, allowed '{'"},
      {safetensors_file("[]"), "header: found 0x5b at byte 8, allowed '{'"},
      {safetensors_file("{\"w\":"), "m.safetensors: header: invalid JSON at byte 5"},
      {safetensors_file("{},"), "m.safetensors: header: invalid JSON at byte 2"},
      {safetensors_file("{}x"), "m.safetensors: header: invalid JSON at byte 2"},
      {safetensors_file("{\"\xFF\":1}"), "m.safetensors: header: invalid UTF-8 at byte 2"},
      {safetensors_file(cat("{\"w\":", std::string(40, '['))), "m.safetensors: header: JSON is nested deeper than 32 levels at byte 36"},
      {safetensors_file(R"({"w":{},"w":{}})"),
       "m.safetensors: header: key 'w' is given twice, the second ends at byte 10; refusing an ambiguous file"},
      {safetensors_file(R"({"__metadata__":[]})"), "__metadata__: found a list, allowed an object"},
      {safetensors_file(R"({"__metadata__":{"format":1}})"), "__metadata__.format: found 1, allowed a string"},
      {one("7"), "m.safetensors: tensor 'w': found 7, allowed an object"},
      {one(R"({"shape":[2],"data_offsets":[0,8]})"), "m.safetensors: tensor 'w': dtype is missing"},
      {one(R"({"dtype":"F13","shape":[2],"data_offsets":[0,8]})"), "m.safetensors: tensor 'w': data type: found 'F13', allowed F32 F16 BF16"},
      {one(R"({"dtype":"","shape":[2],"data_offsets":[0,8]})"), "m.safetensors: tensor 'w': data type: found '', allowed F32"},
      {one(R"({"dtype":3,"shape":[2],"data_offsets":[0,8]})"), "m.safetensors: tensor 'w': dtype: found 3, allowed a string"},
      {one(R"({"dtype":"F32","data_offsets":[0,8]})"), "m.safetensors: tensor 'w': shape: found nothing, allowed a list of whole numbers"},
      {one(R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})"), "m.safetensors: tensor 'w': shape: found \"2\", allowed a list"},
      {one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
       "m.safetensors: tensor 'w': dimension 0: found -2, allowed a whole number from 0"},
      {one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "m.safetensors: tensor 'w': dimension 0: found 2.0, allowed a whole number"},
      {one(R"({"dtype":"F32","shape":[1,1e3],"data_offsets":[0,8]})"),
       "m.safetensors: tensor 'w': dimension 1: found 1000.0, allowed a whole number"},
      {one(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})"), "m.safetensors: tensor 'w': dimension 0: found \"2\", allowed a whole number"},
      {one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})"),
       "m.safetensors: tensor 'w': dimension 0: found 18446744073709551615, allowed"},
      {one(R"({"dtype":"F32","shape":[1099511627777],"data_offsets":[0,8]})"),
       "m.safetensors: tensor 'w': dimension 0: found 1099511627777, allowed a whole number from 0 to 1099511627776"},
      {one(R"({"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,8]})"),
       "m.safetensors: tensor 'w': dimension 2: found 211106198978564"},
      {one(R"({"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,8]})"),
       "m.safetensors: tensor 'w': shape [1099511627776, 1099511627776] overflows 64 bits"},
      {one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})"), "m.safetensors: tensor 'w': found 9 dimensions, allowed 8"},
      {one(R"({"dtype":"F32","shape":[2]})"), "m.safetensors: tensor 'w': data_offsets: found nothing, allowed two whole numbers"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,9]})"),
       "m.safetensors: tensor 'w': data_offsets: found [0,8,9], allowed two whole numbers"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[-1,7]})"),
       "m.safetensors: tensor 'w': data_offsets: found [-1,7], allowed two whole numbers"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[16,8]})"), "m.safetensors: tensor 'w': data_offsets [16, 8] run backwards"},
      {one(R"({"dtype":"F32","shape":[1000,1000],"data_offsets":[0,4]})"),
       "m.safetensors: tensor 'w': shape [1000, 1000] of F32 needs 4,000,000 bytes, data_offsets give 4"},
      {one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})"), "m.safetensors: tensor 'w': shape [3] of F4 needs 2 bytes, data_offsets give 2"},
      {good.substr(0, good.size() - 1), "m.safetensors: tensor 'w' ends at byte 70, the file has 69: truncated or incomplete download"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[18446744073709551607,18446744073709551615]})"),
       "m.safetensors: tensor 'w' ends at byte 2^64 and above, the file has"},
      {good + "1234", "m.safetensors: 4 bytes at byte 8 of the data belong to no tensor"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), "m.safetensors: 4 bytes at byte 0 of the data belong to no tensor"},
      {safetensors_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "12345678"),
       "m.safetensors: tensor 'a' and tensor 'b' share bytes 4 to 7 of the data"},
      {safetensors_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
                        std::string(16, 'd')),
       "m.safetensors: 4 bytes at byte 8 of the data belong to no tensor"},
      {safetensors_file(R"({"\u001b[31mred":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})"),
       "m.safetensors: tensor '\\x1b[31mred': data_offsets [8, 0] run backwards"},
      {safetensors_file(cat("{\"", std::string(1 << 20, 'n'), "\":7}")), cat("m.safetensors: tensor '", std::string(120, 'n'), "...': found 7")},
      {std::string("PK\3\4\0\0\0\0more", 12),
       "m.safetensors: found a zip archive, allowed a safetensors file. If PyTorch wrote it, name it pytorch_model.bin"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    CHECK_FAULT(tensors_of(c.bytes), Fault::checkpoint, c.message);
  }
}

TEST_CASE("a header above the limit is refused before it is read", "[format]") {
  const int fd = ::memfd_create("big", MFD_CLOEXEC);
  REQUIRE(::ftruncate(fd, 300'000'000) == 0);  // a hole: no memory
  const File file(Fd(fd), "big.safetensors", 300'000'000);
  file.write(0, std::as_bytes(std::span(std::string_view("\x00\xc2\xeb\x0b\0\0\0\0", 8))));
  CHECK_FAULT(read_safetensors(file, 0), Fault::checkpoint, "big.safetensors: header: found 200,000,000 bytes, allowed 100,000,000");
}

TEST_CASE("every truncation of a good file is noticed", "[format]") {
  const std::string good = safetensors_file(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "12345678");
  CHECK(tensors_of(good).size() == 1);
  for (size_t n = 0; n < good.size(); ++n) CHECK_FAULT(tensors_of(good.substr(0, n)), Fault::checkpoint, "m.safetensors: ");
}

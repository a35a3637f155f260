// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/torch_legacy.h"

#include "flexgen/format/torch.h"
#include "support/errors.h"
#include "support/memory_file.h"
#include "support/torch_writer.h"

using namespace flexgen;
using namespace flexgen::testing;
using namespace flexgen::testing::pickle;

namespace {

std::vector<StoredTensor> read_legacy_bin(const std::string& bytes) { return read_torch(memory_file(bytes), 0); }

std::string stored(const std::string& bytes, int64_t numel) { return cat(le(numel), bytes); }

}  // namespace

TEST_CASE("storages and their views in files from before 1.6", "[format]") {
  const std::string a = legacy_storage("HalfStorage", "a", 6);
  const std::string view = legacy_storage("FloatStorage", "b", 10, tuple({text("b-view"), number(2), number(6)}));
  const std::string object =
      whole(dict({{"x", tensor(a, 0, {2, 3}, {3, 1})}, {"y", tensor(a, 1, {2}, {3})}, {"z", tensor(view, 1, {2, 2}, {2, 1})}}));
  const std::string bytes = legacy_head() + object + key_list({"b", "a"}) + stored(std::string(40, 'b'), 10) + stored(std::string(12, 'a'), 6);
  const auto ts = read_legacy_bin(bytes);
  REQUIRE(ts.size() == 3);
  const size_t at_b = place_of(bytes, std::string(40, 'b')), at_a = place_of(bytes, std::string(12, 'a'));
  CHECK(ts[0].name == "x");
  CHECK(ts[0].offset == at_a);
  CHECK(ts[0].dtype == DType::f16);
  CHECK(ts[0].contiguous());
  CHECK(ts[1].offset == at_a + 2);
  CHECK(ts[1].strides == std::vector<int64_t>{3});
  CHECK(ts[2].offset == at_b + 4 * (2 + 1));
  CHECK(ts[2].dtype == DType::f32);
  CHECK_FALSE(ts[0].crc32.has_value());

  for (size_t n = 0; n < bytes.size(); ++n) {
    INFO(n);
    CHECK_FAULT(read_legacy_bin(bytes.substr(0, n)), Fault::checkpoint, "model.bin: ");
  }
}

TEST_CASE("a pickle longer than the first window", "[format]") {
  std::vector<std::pair<std::string, std::string>> many;
  for (int i = 0; i < 2000; ++i)
    many.emplace_back(cat("a rather long name of a tensor ", std::to_string(i)), tensor(legacy_storage("HalfStorage", "a", 6), 0, {6}, {1}));
  const std::string object = whole(dict(many));
  REQUIRE(object.size() > 128 << 10);
  CHECK(read_legacy_bin(legacy_head() + object + key_list({"a"}) + stored(std::string(12, 'a'), 6)).size() == 2000);
}

TEST_CASE("a broken legacy file is refused", "[format]") {
  const std::string head = legacy_head(), a = legacy_storage("HalfStorage", "a", 6), object = whole(dict({{"x", tensor(a, 0, {6}, {1})}}));
  const std::string data = stored(std::string(12, 'a'), 6);
  const auto with_storage = [&](const std::string& s) { return head + whole(dict({{"x", tensor(s, 0, {6}, {1})}})) + key_list({"a"}) + data; };
  struct Case {
    std::string bytes, message;
  };
  const Case cases[] = {
      {whole("}"), "model.bin: found a pickle of a dictionary, allowed a file that torch.save wrote"},
      {whole(number(7)), "model.bin: found a pickle of a number, allowed a file that torch.save wrote"},
      {whole(global("os", "system")), "model.bin: found a pickle of 'os.system', allowed a file that torch.save wrote"},
      {"\x80\x02}", "model.bin: magic number (from byte 0): damaged pickle: the file ends before it does (truncated download?)"},
      {legacy_head("\x88", "M\xea\x03"), "model.bin: protocol version: found 1002, allowed 1001"},
      {legacy_head("\x88", "N"), "model.bin: protocol version: found None, allowed 1001"},
      {legacy_head("\x89"), "model.bin: byte order: found big-endian, allowed little-endian. It was written on another kind of machine"},
      {head.substr(0, 15) + whole(number(1001)) + whole("]"), "model.bin: system information: found a list, allowed a dictionary"},
      {head + object + whole("}") + data, "model.bin: list of storages: found a dictionary, allowed a list"},
      {head + object + key_list({"b"}) + data, "model.bin: list of storages: 'b' is used by no tensor, so its size is unknown"},
      {head + object + whole("]K\1a") + data, "model.bin: list of storages: 'a number' is used by no tensor"},
      {head + object + key_list({}) + "", "model.bin: storage 'a' is named but not in the file"},
      {head + object + key_list({"a", "a"}) + data + data, "model.bin: list of storages: 'a' is given twice"},
      {head + object + key_list({"a"}) + stored(std::string(12, 'a'), 5), "model.bin: storage 'a': found 5 elements, allowed 6 as the pickle says"},
      {head + object + key_list({"a"}) + data.substr(0, 19), "model.bin: storage 'a' passes the end of the file (byte "},
      {head + object + key_list({"a"}) + "1234", "model.bin: storage 'a' passes the end of the file (byte "},
      {head + object + key_list({"a"}) + data + "junk", "after the last storage, belong to no tensor"},
      {with_storage(legacy_storage("QInt8Storage", "a", 6)),
       "model.bin: storage 'a': found class 'torch.QInt8Storage', which is not known, so its size is not either"},
      {with_storage(legacy_storage("HalfStorage", "a", 6, tuple({text("v"), number(4), number(3)}))),
       "damaged pickle: view of storage 'a': elements 4 + 3 pass its 6"},
      {with_storage(legacy_storage("HalfStorage", "a", 6, tuple({text("v"), number(-1), number(3)}))),
       "damaged pickle: view of storage 'a': found a tuple, allowed a key and two numbers"},
      {with_storage(legacy_storage("HalfStorage", "a", 6, number(3))),
       "damaged pickle: view of storage 'a': found a number, allowed a key and two numbers"},
      {with_storage(legacy_storage("HalfStorage", "a", 6, tuple({text("v"), number(1), number(4)}))),
       "tensor 'x': reaches element 5 of a storage of 4"},
      {head + whole(dict({{"x", tensor(a, 0, {6}, {1})}, {"y", tensor(legacy_storage("FloatStorage", "a", 3), 0, {3}, {1})}})) + key_list({"a"}) +
           data,
       "model.bin: storage 'a': found 3 elements of torch.FloatStorage, elsewhere 6 of torch.HalfStorage"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    CHECK_FAULT(read_legacy_bin(c.bytes), Fault::checkpoint, c.message);
  }
}

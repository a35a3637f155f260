// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/torch_state.h"

#include "support/errors.h"
#include "support/torch_writer.h"

using namespace flexgen;
using namespace flexgen::testing;
using namespace flexgen::testing::pickle;

namespace {

// The tensors of a pickled object; every storage lies at byte 1000, and it is noted which were asked for.
struct Read {
  std::vector<StoredTensor> tensors;
  std::vector<std::string> storages;

  explicit Read(const std::string& object) {
    const Pickle p = Pickle::recognise(whole(object), "p");
    const std::string source = "p";
    tensors = TorchState(p, source).tensors(3, [this](const TorchStorage& s) {
      storages.push_back(fmt::format("{} {} {}", s.key, s.type, s.numel));
      return TorchStoragePlace{1000, 0x12345678};
    });
  }
};

std::string only(const std::string& tensor) { return dict({{"w", tensor}}); }
const std::string kStorage = storage("HalfStorage", "0", 12);
const std::string kTensor = tensor(kStorage, 0, {12}, {1});
const std::string kEvil = call(global("posix", "system"), tuple({text("touch owned")}));

}  // namespace

TEST_CASE("tensors in all the ways they are written", "[format]") {
  const std::string v2 = tuple({kStorage, number(0), numbers({12}), numbers({1}), "\x89", ordered_dict()});
  const std::string untyped = cat(tuple({text("storage"), global("torch.storage", "UntypedStorage"), text("0"), text("cpu"), number(24)}), "Q");
  const std::string good[] = {
      only(kTensor),
      cat(ordered_dict(), "(", text("w"), kTensor, "u", dict({{"_metadata", ordered_dict()}}), "b"),
      dict({{"model", only(kTensor)}, {"optimizer", dict({{"x", number(1)}})}, {"args", call(global("argparse", "Namespace"), ")")}}),
      dict({{"epoch", number(3)}, {"state_dict", only(kTensor)}}),
      dict({{"module", only(kTensor)}}),
      only(call(global("torch._utils", "_rebuild_parameter"), tuple({kTensor, "\x88", ordered_dict()}))),
      only(call(global("torch._utils", "_rebuild_parameter_with_state"), tuple({kTensor, "\x88", ordered_dict(), "N"}))),
      only(call(global("torch._utils", "_rebuild_tensor"), tuple({kStorage, number(0), numbers({12}), numbers({1})}))),
      only(call(global("torch._utils", "_rebuild_tensor_v2"),
                tuple({kStorage, number(0), call(global("torch", "Size"), tuple({numbers({12})})), numbers({1}), "\x89", ordered_dict(), "}"}))),
      only(call(global("torch._utils", "_rebuild_tensor_v3"),
                tuple({untyped, number(0), numbers({12}), numbers({1}), "\x89", ordered_dict(), global("torch", "float16")}))),
      only(call(global("torch._tensor", "_rebuild_from_type_v2"),
                tuple({global("torch._utils", "_rebuild_tensor_v2"), global("torch", "Tensor"), v2, "}"}))),
      dict({{"w", kTensor}, {"a number", number(7)}, {"a text", text("x")}, {"a list", "]"}}),
  };
  for (const std::string& object : good) {
    const Read r(object);
    REQUIRE(r.tensors.size() == 1);
    const StoredTensor& t = r.tensors[0];
    CHECK(t.name == "w");
    CHECK(t.file == 3);
    CHECK(t.offset == 1000);
    CHECK(t.shape == Shape{12});
    CHECK(t.dtype == DType::f16);
    CHECK(t.crc32 == 0x12345678u);  // the tensor is the whole storage
    CHECK_NOTHROW(require_readable(t, "f"));
    CHECK(r.storages.size() == 1);
  }
}

TEST_CASE("code is never run, and named only where a wanted tensor needs it", "[format]") {
  const Read r(dict({{"w", kTensor}, {"v", kEvil}, {"u", call(global("torch._utils", "_rebuild_sparse_tensor"), ")")}}));
  REQUIRE(r.tensors.size() == 3);
  CHECK_NOTHROW(require_readable(r.tensors[0], "f"));
  CHECK_FAULT(
      require_readable(r.tensors[1], "f"), Fault::checkpoint,
      "f: tensor 'v': refers to 'posix.system', which is code or an unknown kind of tensor, not weights; nothing was run. Do not trust this file");
  CHECK_FAULT(require_readable(r.tensors[2], "f"), Fault::checkpoint, "f: tensor 'u': refers to 'torch._utils._rebuild_sparse_tensor'");

  const auto problem = [](const std::string& tensor, const std::string& message) {
    const Read got(only(tensor));
    REQUIRE(got.tensors.size() == 1);
    CHECK_FAULT(require_readable(got.tensors[0], "f"), Fault::checkpoint, message);
  };
  const std::string bytes = storage("ByteStorage", "0", 24);
  problem(tensor(kEvil, 0, {12}, {1}), "f: tensor 'w': refers to 'posix.system'");
  problem(call(kEvil, ")"), "f: tensor 'w': refers to 'posix.system'");
  problem(call(call(global("torch._utils", "_rebuild_tensor_v2"), ")"), tuple({kStorage, number(0), numbers({12}), numbers({1})})),
          "f: tensor 'w': refers to 'torch._utils._rebuild_tensor_v2'");
  problem(call(global("torch._utils", "_rebuild_parameter"), tuple({kEvil, "\x88"})), "f: tensor 'w': refers to 'posix.system'");
  problem(call(global("torch._tensor", "_rebuild_from_type_v2"), tuple({global("posix", "system"), "N", ")", "N"})),
          "f: tensor 'w': refers to 'posix.system'");
  problem(call(global("numpy.core.multiarray", "_reconstruct"), ")"), "f: tensor 'w': refers to 'numpy.core.multiarray._reconstruct'");
  problem(tensor(storage("QInt8Storage", "0", 24), 0, {12}, {1}), "f: tensor 'w': data type: found 'torch.QInt8Storage', which is not known");
  problem(tensor(storage("LongStorage", "0", 3), 0, {3}, {1}), "f: tensor 'w': data type: found i64, allowed f32, f16 or bf16");
  problem(call(global("torch._utils", "_rebuild_tensor_v2"),
               tuple({kStorage, number(0), numbers({12}), numbers({1}), "\x89", ordered_dict(), dict({{"neg", "\x88"}})})),
          "f: tensor 'w': has metadata (it is stored negated or conjugated), which is not supported");
  problem(call(global("torch._utils", "_rebuild_tensor_v3"),
               tuple({bytes, number(0), numbers({12}), numbers({1}), "\x89", ordered_dict(), global("os", "float16")})),
          "f: tensor 'w': data type: found 'os.float16' over 'torch.ByteStorage'");
}

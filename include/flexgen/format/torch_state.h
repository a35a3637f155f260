// SPDX-License-Identifier: Apache-2.0
// The tensors in a pickle that torch.save wrote: understands the few calls that make tensors (torch/_utils.py, torch/_tensor.py) and
// finds where in the file each tensor's elements lie. Anything else in the pickle is left alone; it matters only where it stands
// in the place of a tensor, and then only to who wants that tensor (StoredTensor::problem).
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/pickle.h"
#include "flexgen/format/stored_tensor.h"

namespace flexgen {

// The persistent id of a storage: ("storage", class, key, location, numel[, view]), view: None or (key, first element, numel)
struct TorchStorage {
  std::string_view key;
  std::string type;                      // "torch.HalfStorage"
  const StoredFormat* format = nullptr;  // null: the class is unknown
  uint64_t numel = 0;                    // elements of the whole storage
  uint64_t view_first = 0;               // elements before the part that is meant
  uint64_t view_numel = 0;               // elements of that part
};

// Where a whole storage lies in the file
struct TorchStoragePlace {
  uint64_t offset = 0;  // bytes
  std::optional<uint32_t> crc32{};
};

class TorchState {
 public:
  using Locate = std::function<TorchStoragePlace(const TorchStorage&)>;  // throws Fault::checkpoint where there is none

  // source: for messages
  TorchState(const Pickle& pickle, const std::string& source) : p_(pickle), source_(source) {}

  // The tensors of the dictionary at the top, or of the one under "model", "module" or "state_dict" in it
  std::vector<StoredTensor> tensors(size_t file_index, const Locate& locate) const {
    std::vector<StoredTensor> out;
    std::set<std::string_view> seen;
    const auto items = p_.items(dictionary());
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (items[i].kind != PickleKind::text || !may_be_tensor(items[i + 1])) continue;
      StoredTensor t;
      t.name = p_.text(items[i]);
      t.file = file_index;
      if (!seen.insert(p_.text(items[i])).second) refuse("{} is given twice; refusing an ambiguous file", quoted(t));
      describe(t, items[i + 1], locate);
      out.push_back(std::move(t));
    }
    return out;
  }

  // nothing where the id is of another kind (old files keep the source code of classes this way)
  std::optional<TorchStorage> storage(PickleValue id) const {
    if (id.kind != PickleKind::tuple) return std::nullopt;
    const auto part = p_.items(id);
    if (part.size() < 5 || part.size() > 6 || part[0].kind != PickleKind::text || p_.text(part[0]) != "storage") return std::nullopt;
    if (part[1].kind != PickleKind::global || part[2].kind != PickleKind::text || part[4].kind != PickleKind::integer || part[4].at < 0)
      refuse("damaged pickle: storage id: found {}, {}, {}, allowed a class, a text, a number", p_.describe(part[1]), p_.describe(part[2]),
             p_.describe(part[4]));
    TorchStorage s;
    s.key = p_.text(part[2]);
    s.type = p_.global(part[1]);
    s.format = format_of_class(s.type);
    s.numel = s.view_numel = static_cast<uint64_t>(part[4].at);
    if (part.size() == 6 && part[5].kind != PickleKind::none) {
      const auto view = part[5].kind == PickleKind::tuple ? p_.items(part[5]) : std::span<const PickleValue>{};
      if (view.size() != 3 || view[1].kind != PickleKind::integer || view[2].kind != PickleKind::integer || view[1].at < 0 || view[2].at < 0)
        refuse("damaged pickle: view of storage '{}': found {}, allowed a key and two numbers", printable(s.key), p_.describe(part[5]));
      s.view_first = static_cast<uint64_t>(view[1].at);
      s.view_numel = static_cast<uint64_t>(view[2].at);
      if (s.view_first > s.numel || s.view_numel > s.numel - s.view_first)
        refuse("damaged pickle: view of storage '{}': elements {} + {} pass its {}", printable(s.key), s.view_first, s.view_numel, s.numel);
    }
    return s;
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> form, Args&&... args) const {
    fail(Fault::checkpoint, "{}: {}", source_, fmt::format(form, std::forward<Args>(args)...));
  }

  static const StoredFormat* format_of_class(std::string_view type) {
    if (type == "torch.storage.UntypedStorage" || type == "torch.UntypedStorage") type = "torch.ByteStorage";
    const std::string_view module = type.substr(0, type.rfind('.'));
    if (module != "torch" && module != "torch.cuda" && module != "torch.storage") return nullptr;
    return format_of(type.substr(type.rfind('.') + 1), &StoredFormat::storage);
  }
  static const StoredFormat* format_of(std::string_view name, std::string_view StoredFormat::*key) {
    const auto* f =
        std::find_if(kStoredFormats.begin(), kStoredFormats.end(), [&](const StoredFormat& s) { return s.*key == name && !name.empty(); });
    return f == kStoredFormats.end() ? nullptr : f;
  }

  // A dictionary entry that a tensor could be in; settings, counters and texts are not
  bool may_be_tensor(PickleValue v) const { return v.kind == PickleKind::call; }
  bool holds_tensors(PickleValue v) const {
    if (v.kind != PickleKind::dict) return false;
    const auto items = p_.items(v);
    for (size_t i = 0; i + 1 < items.size(); i += 2)
      if (items[i].kind == PickleKind::text && may_be_tensor(items[i + 1]) && p_.global(items[i + 1]).starts_with("torch.")) return true;
    return false;
  }

  PickleValue dictionary() const {
    const PickleValue root = p_.root();
    if (root.kind == PickleKind::call || root.kind == PickleKind::global)
      refuse(
          "the top level refers to '{}', which is code, not a dictionary of tensors; nothing was run. Save the state_dict() instead of the module; "
          "do not trust this "
          "file if you did not make it",
          printable(p_.global(root)));
    if (root.kind != PickleKind::dict) refuse("the top level is {}, allowed a dictionary of tensors", p_.describe(root));
    const auto items = p_.items(root);
    std::string keys;
    for (const std::string_view name : {"model", "module", "state_dict"})
      for (size_t i = 0; i + 1 < items.size(); i += 2)
        if (items[i].kind == PickleKind::text && p_.text(items[i]) == name && holds_tensors(items[i + 1])) return items[i + 1];
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (items[i].kind == PickleKind::text && may_be_tensor(items[i + 1])) return root;
      if (items[i].kind == PickleKind::text && keys.size() < 100)
        keys += fmt::format("{}'{}'", keys.empty() ? "" : ", ", printable(p_.text(items[i])));
    }
    refuse("no tensors at the top level; found keys {}. Save the state_dict() of the model alone", keys.empty() ? "of no name" : keys);
  }

  // Fills in t from the value that stands for it.
  void describe(StoredTensor& t, PickleValue v, const Locate& locate) const {
    // A parameter wraps its tensor as the first argument; a tensor subclass is (function, class, arguments, state).
    for (int depth = 0; depth < 8 && p_.is_plain_call(v); ++depth) {
      const std::string function = p_.global(v);
      const auto args = p_.arguments(v);
      if (function == "torch._utils._rebuild_tensor_v2" || function == "torch._utils._rebuild_tensor" ||
          function == "torch._utils._rebuild_tensor_v3")
        return rebuild(t, function, args, locate);
      if ((function == "torch._utils._rebuild_parameter" || function == "torch._utils._rebuild_parameter_with_state") && !args.empty()) {
        v = args[0];
      } else if ((function == "torch._tensor._rebuild_from_type_v2" || function == "torch._tensor._rebuild_from_type") && args.size() >= 3 &&
                 args[0].kind == PickleKind::global && args[2].kind == PickleKind::tuple) {
        const std::string inner = p_.global(args[0]);
        if (inner.starts_with("torch._utils._rebuild_tensor")) return rebuild(t, inner, p_.items(args[2]), locate);
        return set_problem(t, inner);
      } else {
        return set_problem(t, function);
      }
    }
    if (v.kind != PickleKind::call) refuse("damaged pickle: {}: found {}, allowed a tensor", quoted(t), p_.describe(v));
    set_problem(t, p_.global(v));
  }

  static void set_problem(StoredTensor& t, const std::string& global) {
    t.problem = fmt::format(
        "refers to '{}', which is code or an unknown kind of tensor, not weights; nothing was run. Do not trust this file if you did not make it",
        printable(global));
  }

  // _rebuild_tensor(storage, first, size, stride), _v2(..., requires_grad, hooks[, metadata]), _v3(..., requires_grad, hooks, dtype[, metadata])
  void rebuild(StoredTensor& t, const std::string& function, std::span<const PickleValue> args, const Locate& locate) const {
    const bool v3 = function.ends_with("_v3");
    if (args.size() < (v3 ? 7 : 4)) refuse("damaged pickle: {}: {} arguments of {}", quoted(t), args.size(), function);
    if (args[0].kind == PickleKind::call) return set_problem(t, p_.global(args[0]));
    const auto s = args[0].kind == PickleKind::persistent ? storage(p_.id(args[0])) : std::nullopt;
    if (!s) refuse("damaged pickle: {}: found {} in the place of its storage", quoted(t), p_.describe(args[0]));
    if (args[1].kind != PickleKind::integer)
      refuse("damaged pickle: {}: storage offset: found {}, allowed a number", quoted(t), p_.describe(args[1]));
    t.shape = integers(t, "shape", args[2]);
    t.strides = integers(t, "strides", args[3]);

    const StoredFormat* format = s->format;
    t.dtype_name = format ? std::string(format->name) : s->type;
    if (!format) {
      t.problem = fmt::format("data type: found '{}', which is not known, allowed FloatStorage, HalfStorage or BFloat16Storage", printable(s->type));
      return;
    }
    uint64_t numel = s->view_numel, first = s->view_first;
    if (v3) {  // an untyped storage counts bytes; the dtype is an argument
      const std::string dtype = args[6].kind == PickleKind::global ? p_.global(args[6]) : p_.describe(args[6]);
      format = dtype.starts_with("torch.") ? format_of(std::string_view(dtype).substr(6), &StoredFormat::torch) : nullptr;
      t.dtype_name = format ? std::string(format->name) : dtype;
      if (!format || s->format->bits != 8 || first != 0) {
        t.problem = fmt::format("data type: found '{}' over '{}', allowed float32, float16 or bfloat16", printable(dtype), printable(s->type));
        return;
      }
      numel /= format->bits / 8;
    }
    const size_t metadata = v3 ? 7 : 6;
    if (args.size() > metadata && args[metadata].kind != PickleKind::none &&
        !(args[metadata].kind == PickleKind::dict && p_.items(args[metadata]).empty())) {
      t.problem = "has metadata (it is stored negated or conjugated), which is not supported. Save it again after resolve_neg() and resolve_conj()";
      return;
    }
    const TorchStoragePlace place = locate(*s);
    const unsigned element_bytes = format->bits / 8;
    place_in_storage(t, place.offset + first * element_bytes, numel, element_bytes, args[1].at, source_);
    t.dtype = format->dtype;
    if (place.crc32 && first == 0 && args[1].at == 0 && t.contiguous() &&
        static_cast<uint64_t>(t.numel()) * element_bytes == s->numel * (s->format->bits / 8))
      t.crc32 = place.crc32;
  }

  // a tuple of numbers, or torch.Size of one
  Shape integers(const StoredTensor& t, const char* what, PickleValue v) const {
    if (p_.is_plain_call(v) && p_.global(v) == "torch.Size" && p_.arguments(v).size() == 1) v = p_.arguments(v)[0];
    if (v.kind != PickleKind::tuple && v.kind != PickleKind::list)
      refuse("damaged pickle: {}: {}: found {}, allowed a tuple of numbers", quoted(t), what, p_.describe(v));
    Shape out;
    for (const PickleValue n : p_.items(v)) {
      if (n.kind != PickleKind::integer) refuse("damaged pickle: {}: {}: found {}, allowed a number", quoted(t), what, p_.describe(n));
      out.push_back(n.at);
      if (out.size() > kMaxRank) refuse("{}: {}: found {} numbers, allowed {}", quoted(t), what, p_.items(v).size(), kMaxRank);
    }
    return out;
  }

  const Pickle& p_;
  const std::string& source_;
};

}  // namespace flexgen

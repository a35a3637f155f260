// SPDX-License-Identifier: Apache-2.0
// What torch.save writes around the weights, for synthetic checkpoints: the state dict as a protocol 2 pickle, and the zip (with zip64
// records throughout, data at multiples of 64 by a padding field "FB", sizes and CRCs in data descriptors and the directory).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/checked.h"
#include "flexgen/format/crc32.h"
#include "flexgen/tensor/dtype.h"
#include "flexgen/tensor/shape.h"

namespace flexgen::tools {

struct PickledTensor {
  std::string name;
  Shape shape;
  std::string key;  // of its storage
};

namespace detail {

template <typename T>
void put(std::string& s, T value) {
  s.append(reinterpret_cast<const char*>(&value), sizeof(value));  // little-endian, as format/layout.h asserts of the machine
}

inline void put_text(std::string& s, std::string_view text) {
  s += 'X';
  put(s, static_cast<uint32_t>(text.size()));
  s += text;
}

inline void put_int(std::string& s, int64_t value) {
  if (value < 256) {
    s += 'K', put(s, static_cast<uint8_t>(value));
  } else if (value <= INT32_MAX) {
    s += 'J', put(s, static_cast<int32_t>(value));
  } else {
    s += "\x8a\x08", put(s, value);
  }
}

inline void put_tuple(std::string& s, std::span<const int64_t> values) {
  s += '(';
  for (const int64_t v : values) put_int(s, v);
  s += 't';
}

}  // namespace detail

// {name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())}; torch also memoises, which readers do not need
inline std::string pickle_state_dict(std::span<const PickledTensor> tensors, DType dtype) {
  using namespace detail;
  const std::string storage = dtype == DType::f32 ? "FloatStorage" : dtype == DType::f16 ? "HalfStorage" : "BFloat16Storage";
  std::string s("\x80\x02" "ccollections\nOrderedDict\n)R(");
  for (const PickledTensor& t : tensors) {
    std::vector<int64_t> strides(t.shape.size(), 1);
    for (size_t i = t.shape.size(); i-- > 1;) strides[i - 1] = strides[i] * t.shape[i];
    put_text(s, t.name);
    s += "ctorch._utils\n_rebuild_tensor_v2\n((";
    put_text(s, "storage");
    s += "ctorch\n" + storage + "\n";
    put_text(s, t.key);
    put_text(s, "cpu");
    put_int(s, strides[0] * t.shape[0]);
    s += "tQK";
    s += '\0';
    put_tuple(s, t.shape);
    put_tuple(s, strides);
    s += "\x89" "ccollections\nOrderedDict\n)RtR";
  }
  return s + "u.";
}

// Places entries one after the other; their bytes are written by others, the records around them come from literals().
class ZipLayout {
 public:
  // a small entry whose bytes are known
  void add(std::string name, std::string content) {
    const uint32_t crc = crc32(std::as_bytes(std::span(content)));
    place(std::move(name), content.size());
    entries_.back().content = std::move(content);
    entries_.back().crc = crc;
  }
  // room for size_bytes; returns their offset in the file
  uint64_t add_space(std::string name, uint64_t size_bytes) {
    place(std::move(name), size_bytes);
    entries_.back().is_space = true;
    return entries_.back().data;
  }
  // bytes of the whole file
  uint64_t finish() {
    directory_ = at_;
    return directory_ + directory(entries_).size();
  }

  // (offset, bytes) of everything but the spaces, whose CRCs are given in order
  std::vector<std::pair<uint64_t, std::string>> literals(std::span<const uint32_t> crcs) {
    size_t next = 0;
    std::vector<std::pair<uint64_t, std::string>> out;
    for (Entry& e : entries_) {
      if (e.is_space) e.crc = crcs[next++];
      std::string before = local_header(e);
      if (!e.is_space) before += e.content;
      out.emplace_back(e.header, std::move(before));
      std::string descriptor("PK\x07\x08");
      detail::put(descriptor, e.crc);
      detail::put(descriptor, e.bytes), detail::put(descriptor, e.bytes);
      out.emplace_back(e.data + e.bytes, std::move(descriptor));
    }
    out.emplace_back(directory_, directory(entries_));
    return out;
  }

 private:
  struct Entry {
    std::string name, content;
    uint64_t header = 0, data = 0, bytes = 0;
    uint32_t crc = 0;
    bool is_space = false;
  };
  static constexpr uint16_t kFlags = 0x0808;  // sizes in a data descriptor, UTF-8 names
  static constexpr uint64_t kDescriptor = 24;

  void place(std::string name, uint64_t bytes) {
    Entry e;
    e.name = std::move(name), e.header = at_, e.bytes = bytes;
    e.data = round_up<uint64_t>(at_ + 30 + e.name.size() + 4, 64);
    at_ = e.data + bytes + kDescriptor;
    entries_.push_back(std::move(e));
  }

  static void put_common(std::string& s, const Entry& e, uint32_t crc, uint32_t bytes) {
    using detail::put;
    put(s, kFlags), put(s, uint16_t{0}), put(s, uint16_t{0}), put(s, uint16_t{0});  // stored; no time, no date
    put(s, crc), put(s, bytes), put(s, bytes);
    put(s, static_cast<uint16_t>(e.name.size()));
  }

  static std::string local_header(const Entry& e) {
    using detail::put;
    std::string s("PK\x03\x04");
    put(s, uint16_t{0});
    put_common(s, e, 0, 0);
    const auto extra = static_cast<uint16_t>(e.data - e.header - 30 - e.name.size());
    put(s, extra);
    s += e.name;
    s += "FB";
    put(s, static_cast<uint16_t>(extra - 4));
    s.append(extra - 4u, 'Z');
    return s;
  }

  std::string directory(const std::vector<Entry>& entries) const {
    using detail::put;
    std::string s;
    for (const Entry& e : entries) {
      s += "PK\x01\x02";
      put(s, uint16_t{0}), put(s, uint16_t{0});
      put_common(s, e, e.crc, UINT32_MAX);
      put(s, uint16_t{28}), put(s, uint16_t{0}), put(s, uint16_t{0}), put(s, uint16_t{0}), put(s, uint32_t{0}), put(s, UINT32_MAX);
      s += e.name;
      put(s, uint16_t{1}), put(s, uint16_t{24}), put(s, e.bytes), put(s, e.bytes), put(s, e.header);  // zip64: both sizes, place
    }
    const uint64_t bytes = s.size(), end = directory_ + bytes, n = entries.size();
    s += "PK\x06\x06";
    put(s, uint64_t{44}), put(s, uint16_t{0x31E}), put(s, uint16_t{45}), put(s, uint32_t{0}), put(s, uint32_t{0});
    put(s, n), put(s, n), put(s, bytes), put(s, directory_);
    s += "PK\x06\x07";
    put(s, uint32_t{0}), put(s, end), put(s, uint32_t{1});
    s += "PK\x05\x06";
    put(s, uint16_t{0}), put(s, uint16_t{0}), put(s, uint16_t{0xFFFF}), put(s, uint16_t{0xFFFF}), put(s, UINT32_MAX), put(s, UINT32_MAX),
        put(s, uint16_t{0});
    return s;
  }

  std::vector<Entry> entries_;
  uint64_t at_ = 0, directory_ = 0;
};

}  // namespace flexgen::tools

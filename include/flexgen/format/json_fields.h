// SPDX-License-Identifier: Apache-2.0
// Typed access to the members of a JSON object from a file: the type, the bounds and the presence are checked in one place, with one
// form of message. A member that is null counts as absent, as in HuggingFace configurations.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "flexgen/base/error.h"

namespace flexgen {

// -1, "text", "a list", "an object": a value as a message shows it
inline std::string describe(const nlohmann::json& v) {
  if (v.is_object()) return "an object";
  if (v.is_array()) return "a list";
  return printable(v.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

class JsonFields {
 public:
  // Keeps a reference to object, which must be a JSON object (refused otherwise) and outlive this. what: "config", for messages
  JsonFields(const nlohmann::json& object, std::string source, Fault fault = Fault::checkpoint)
      : object_(object), source_(std::move(source)), fault_(fault) {
    if (!object_.is_object()) fail(fault_, "{}: found {}, allowed an object", source_, describe(object_));
  }

  const std::string& source() const { return source_; }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // a whole number in [min, max]; 3.0 and "3" are not whole numbers
  int64_t whole(std::string_view key, int64_t min, int64_t max) const { return whole(key, required(key), min, max); }
  int64_t whole_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
    const auto* v = find(key);
    return v ? whole(key, *v, min, max) : fallback;
  }
  // any finite number in [min, max]
  double number(std::string_view key, double min, double max) const { return number(key, required(key), min, max); }
  double number_or(std::string_view key, double fallback, double min, double max) const {
    const auto* v = find(key);
    return v ? number(key, *v, min, max) : fallback;
  }
  bool flag(std::string_view key) const { return flag(key, required(key)); }
  bool flag_or(std::string_view key, bool fallback) const {
    const auto* v = find(key);
    return v ? flag(key, *v) : fallback;
  }
  std::string text(std::string_view key) const { return text(key, required(key)); }
  std::string text_or(std::string_view key, std::string fallback) const {
    const auto* v = find(key);
    return v ? text(key, *v) : std::move(fallback);
  }

  // the member, or null where it is absent or null
  const nlohmann::json* find(std::string_view key) const {
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

 private:
  const nlohmann::json& required(std::string_view key) const {
    const auto* v = find(key);
    if (!v) fail(fault_, "{}: {} is missing", source_, printable(key));
    return *v;
  }
  int64_t whole(std::string_view key, const nlohmann::json& v, int64_t min, int64_t max) const {
    const bool fits =
        v.is_number_unsigned() ? v.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) : v.is_number_integer();
    if (!fits || v.get<int64_t>() < min || v.get<int64_t>() > max)
      fail(fault_, "{}: {}: found {}, allowed a whole number from {} to {}", source_, printable(key), describe(v), min, max);
    return v.get<int64_t>();
  }
  double number(std::string_view key, const nlohmann::json& v, double min, double max) const {
    if (!v.is_number() || !(v.get<double>() >= min && v.get<double>() <= max))
      fail(fault_, "{}: {}: found {}, allowed a number from {} to {}", source_, printable(key), describe(v), min, max);
    return v.get<double>();
  }
  bool flag(std::string_view key, const nlohmann::json& v) const {
    if (!v.is_boolean()) fail(fault_, "{}: {}: found {}, allowed true or false", source_, printable(key), describe(v));
    return v.get<bool>();
  }
  std::string text(std::string_view key, const nlohmann::json& v) const {
    if (!v.is_string()) fail(fault_, "{}: {}: found {}, allowed a string", source_, printable(key), describe(v));
    return v.get<std::string>();
  }

  const nlohmann::json& object_;
  std::string source_;
  Fault fault_;
};

}  // namespace flexgen

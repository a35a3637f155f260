// SPDX-License-Identifier: Apache-2.0
// JSON from files and lines that nobody vouches for. The grammar is nlohmann-json's; what it would let pass is refused here:
// nesting that only eats memory, a key given twice (readers differ in which one they take), text that is not UTF-8. Every
// message has the byte where it happened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"

namespace flexgen {

struct JsonLimits {
  size_t depth = 32;           // objects and arrays within each other
  size_t values = 10'000'000;  // numbers, strings, objects, ... in all: bounds memory to about 1 GiB
  Fault fault = Fault::checkpoint;
};

namespace detail {

// Reads characters and tells how many have been taken, which nlohmann-json's events do not say.
struct CountingChar {
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  const char* at = nullptr;
  size_t* taken = nullptr;

  reference operator*() const { return *at; }
  CountingChar& operator++() {
    ++at;
    ++*taken;
    return *this;
  }
  CountingChar operator++(int) {
    CountingChar before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingChar& o) const { return at == o.at; }
  bool operator!=(const CountingChar& o) const { return at != o.at; }
};

// What the parser complains about, with its place. position counts characters read, the end of the text as one.
inline std::string parse_error_text(size_t position, const nlohmann::json::exception& e) {
  const std::string_view what = e.what();
  const size_t byte = position == 0 ? 0 : position - 1;
  if (what.find("ill-formed UTF-8") != what.npos) return fmt::format("invalid UTF-8 at byte {}", byte);
  // "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error while ..."
  const size_t column = what.find(", column ");
  const size_t reason = column == what.npos ? what.find("] ") : what.find(": ", column);
  return fmt::format("invalid JSON at byte {}: {}", byte, printable(reason == what.npos ? what : what.substr(reason + 2)));
}

// Builds the value from the parser's events and refuses on the way.
class JsonBuilder {
 public:
  using Json = nlohmann::json;

  JsonBuilder(const std::string& source, const JsonLimits& limits, const size_t& taken) : source_(source), limits_(limits), taken_(taken) {}

  Json take() { return std::move(root_); }

  bool null() { return add(Json(nullptr)), true; }
  bool boolean(bool v) { return add(Json(v)), true; }
  bool number_integer(int64_t v) { return add(Json(v)), true; }
  bool number_unsigned(uint64_t v) { return add(Json(v)), true; }
  bool number_float(double v, const std::string&) { return add(Json(v)), true; }
  bool string(std::string& v) { return add(Json(std::move(v))), true; }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return open_.pop_back(), true; }
  bool end_array() { return open_.pop_back(), true; }
  bool key(std::string& k) {
    const auto [place, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(std::move(k), nullptr);
    if (!is_new) refuse("key '{}' is given twice, the second ends at byte {}; refusing an ambiguous file", printable(place->first), taken_ - 1);
    member_ = &place->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& e) { refuse("{}", parse_error_text(position, e)); }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> form, Args&&... args) const {
    fail(limits_.fault, "{}: {}", source_, fmt::format(form, std::forward<Args>(args)...));
  }

  Json* add(Json value) {
    if (++n_values_ > limits_.values) refuse("JSON holds more than {} values at byte {}", with_commas(limits_.values), taken_ - 1);
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_object()) return &(*member_ = std::move(value));
    auto& items = open_.back()->get_ref<Json::array_t&>();
    return &items.emplace_back(std::move(value));
  }
  bool open(Json value) {
    if (open_.size() == limits_.depth) refuse("JSON is nested deeper than {} levels at byte {}", limits_.depth, taken_ - 1);
    open_.push_back(add(std::move(value)));
    return true;
  }

  const std::string& source_;
  const JsonLimits& limits_;
  const size_t& taken_;
  Json root_;
  Json* member_ = nullptr;   // where the value of the last key goes
  std::vector<Json*> open_;  // a parent does not grow while its last child is open, so the addresses hold
  size_t n_values_ = 0;
};

}  // namespace detail

// The one value that text holds. Numbers that are whole and fit 64 bits stay whole; all others are double.
// source: what to call the text in messages, such as a path
inline nlohmann::json parse_json(std::string_view text, const std::string& source, JsonLimits limits = {}) {
  size_t taken = 0;
  detail::JsonBuilder builder(source, limits, taken);
  const detail::CountingChar begin{text.data(), &taken}, end{text.data() + text.size(), &taken};
  nlohmann::json::sax_parse(begin, end, &builder);
  return builder.take();
}

}  // namespace flexgen

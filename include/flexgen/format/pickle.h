// SPDX-License-Identifier: Apache-2.0
// Recognises a pickle (protocols 2 to 5, CPython Lib/pickletools.py) without executing it. The result is a description: numbers, texts,
// containers, and calls that say which function would be called with which arguments. No function is looked up and none is called;
// who reads the description decides which few calls it understands (format/torch_state.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/format/little_endian.h"

namespace flexgen {

enum class PickleKind : uint8_t { none, boolean, integer, big_integer, real, text, bytes, tuple, list, set, dict, global, call, persistent };

// Refers to its Pickle: index of a container, place of a text, or the integer itself
struct PickleValue {
  PickleKind kind = PickleKind::none;
  uint32_t size = 0;  // bytes of a text
  int64_t at = 0;
};

// What a small file may make of itself
struct PickleLimits {
  uint64_t steps = 50'000'000;
  size_t stack = 100'000;
  size_t memo = 2'000'000;
  size_t objects = 2'000'000;  // tuples, lists, dicts, calls
  size_t items = 8'000'000;    // in all of them
};

class Pickle {
 public:
  // bytes: the pickle, which must end with its STOP instruction. source: for messages. throws Fault::checkpoint
  static Pickle recognise(std::string bytes, const std::string& source, const PickleLimits& limits = {}) {
    auto p = try_recognise(std::move(bytes), source, limits);
    if (!p) fail(Fault::checkpoint, "{}: damaged pickle: it ends in the middle of an instruction or without STOP", source);
    if (p->size() != p->bytes_.size())
      fail(Fault::checkpoint, "{}: damaged pickle: {} bytes after STOP (byte {})", source, p->bytes_.size() - p->size(), p->size());
    return std::move(*p);
  }
  // The same for bytes that may go on after STOP (size() says where it was); nothing where they end before it
  static std::optional<Pickle> try_recognise(std::string bytes, const std::string& source, const PickleLimits& limits = {}) {
    Pickle p(std::move(bytes));
    try {
      Machine(p, source, limits).run();
    } catch (const Ended&) {
      return std::nullopt;
    }
    return p;
  }

  size_t size() const { return size_; }  // bytes up to and with STOP
  PickleValue root() const { return root_; }

  // of a text or bytes
  std::string_view text(PickleValue v) const { return std::string_view(bytes_).substr(static_cast<size_t>(v.at), v.size); }
  // little-endian two's complement, of a big_integer
  std::string_view digits(PickleValue v) const { return text(v); }
  // of a tuple, list or set; of a dict key, value, key, value, ...
  std::span<const PickleValue> items(PickleValue v) const { return containers_[static_cast<size_t>(v.at)]; }
  // "module.name" of a global; of a call, of the global that it begins with
  std::string global(PickleValue v) const {
    if (v.kind == PickleKind::call) v = calls_[static_cast<size_t>(v.at)].callee;
    if (v.kind == PickleKind::persistent) return "an object by persistent id";
    const auto& g = globals_[static_cast<size_t>(v.at)];
    return fmt::format("{}.{}", text(g.module), text(g.name));
  }
  // v is a call of the global itself (not of what it gave) with a tuple of arguments
  bool is_plain_call(PickleValue v) const {
    return v.kind == PickleKind::call && calls_[static_cast<size_t>(v.at)].direct &&
           calls_[static_cast<size_t>(v.at)].arguments.kind == PickleKind::tuple;
  }
  // of a plain call
  std::span<const PickleValue> arguments(PickleValue v) const { return items(calls_[static_cast<size_t>(v.at)].arguments); }
  // the id, of a persistent
  PickleValue id(PickleValue v) const { return persistents_[static_cast<size_t>(v.at)]; }
  // ids of all of them, in order
  std::span<const PickleValue> persistent_ids() const { return persistents_; }

  // "a tuple", "a call of 'torch._utils._rebuild_tensor_v2'": for messages
  // clang-format off
  std::string describe(PickleValue v) const {
    switch (v.kind) {
      case PickleKind::none: return "None";
      case PickleKind::boolean: return "a boolean";
      case PickleKind::integer:
      case PickleKind::big_integer:
      case PickleKind::real: return "a number";
      case PickleKind::text: return "a text";
      case PickleKind::bytes: return "bytes";
      case PickleKind::tuple: return "a tuple";
      case PickleKind::list: return "a list";
      case PickleKind::set: return "a set";
      case PickleKind::dict: return "a dictionary";
      case PickleKind::persistent: return "a storage";
      case PickleKind::global: return fmt::format("'{}'", printable(global(v)));
      case PickleKind::call: return is_tensor(v) ? "a tensor" : fmt::format("a call of '{}'", printable(global(v)));
    }
    return "?";
  }
  // clang-format on

 private:
  struct Ended {};  // the bytes end before STOP; never leaves try_recognise
  struct Global {
    PickleValue module, name;
  };
  struct Call {
    PickleValue callee;  // never a call: of f(x)(y) it is f
    PickleValue arguments;
    bool direct;  // the callee itself is called, not what it gave
  };

  explicit Pickle(std::string bytes) : bytes_(std::move(bytes)) {}

  bool is_tensor(PickleValue v) const { return v.kind == PickleKind::call && global(v).starts_with("torch._utils._rebuild_"); }

  class Machine {
   public:
    Machine(Pickle& p, const std::string& source, const PickleLimits& limits) : p_(p), source_(source), limits_(limits) {}

    void run() {
      const std::string_view start = take(2);
      if (start[0] != '\x80') refuse("not a pickle of protocol 2 to 5: found 0x{:02x} at byte 0, allowed 0x80", static_cast<unsigned char>(start[0]));
      if (start[1] < 2 || start[1] > 5) refuse("pickle protocol: found {}, allowed 2 to 5", static_cast<unsigned char>(start[1]));
      for (uint64_t steps = 0;; ++steps) {
        if (steps == limits_.steps) refuse("pickle uses more than {} steps", limits_.steps);
        op_at_ = at_;
        const auto op = static_cast<unsigned char>(take(1)[0]);
        if (op == '.') break;
        step(op);
      }
      if (!marks_.empty() || stack_.size() != 1) damaged("STOP leaves {} values and {} marks, allowed one value", stack_.size(), marks_.size());
      p_.root_ = stack_[0];
      p_.size_ = at_;
    }

   private:
    template <typename... Args>
    [[noreturn]] void refuse(fmt::format_string<Args...> form, Args&&... args) const {
      fail(Fault::checkpoint, "{}: {}", source_, fmt::format(form, std::forward<Args>(args)...));
    }
    template <typename... Args>
    [[noreturn]] void damaged(fmt::format_string<Args...> form, Args&&... args) const {
      refuse("damaged pickle: {} (byte {})", fmt::format(form, std::forward<Args>(args)...), op_at_);
    }

    // Opcodes by their names in pickletools.py; a table, so one a line
    // clang-format off
    void step(unsigned char op) {
      switch (op) {
        case 'N': return push({PickleKind::none});                                   // NONE
        case 0x88: return push({PickleKind::boolean, 0, 1});                         // NEWTRUE
        case 0x89: return push({PickleKind::boolean, 0, 0});                         // NEWFALSE
        case 'K': return push_integer(number<uint8_t>());                            // BININT1
        case 'M': return push_integer(number<uint16_t>());                           // BININT2
        case 'J': return push_integer(static_cast<int32_t>(number<uint32_t>()));     // BININT
        case 0x8a: return push_long(number<uint8_t>());                              // LONG1
        case 0x8b: return push_long(number<uint32_t>());                             // LONG4
        case 'G': return take(8), push({PickleKind::real});                          // BINFLOAT
        case 0x8c: return push_text(PickleKind::text, number<uint8_t>());            // SHORT_BINUNICODE
        case 'X': return push_text(PickleKind::text, number<uint32_t>());            // BINUNICODE
        case 0x8d: return push_text(PickleKind::text, number<uint64_t>());           // BINUNICODE8
        case 'U': return push_text(PickleKind::text, number<uint8_t>());             // SHORT_BINSTRING, Python 2's text
        case 'T': return push_text(PickleKind::text, number<uint32_t>());            // BINSTRING
        case 'C': return push_text(PickleKind::bytes, number<uint8_t>());            // SHORT_BINBYTES
        case 'B': return push_text(PickleKind::bytes, number<uint32_t>());           // BINBYTES
        case 0x8e: return push_text(PickleKind::bytes, number<uint64_t>());          // BINBYTES8
        case 0x96: return push_text(PickleKind::bytes, number<uint64_t>());          // BYTEARRAY8
        case '(': return mark();                                                     // MARK
        case ')': return push_container(PickleKind::tuple, 0);                       // EMPTY_TUPLE
        case 0x85: return push_container(PickleKind::tuple, 1);                      // TUPLE1
        case 0x86: return push_container(PickleKind::tuple, 2);                      // TUPLE2
        case 0x87: return push_container(PickleKind::tuple, 3);                      // TUPLE3
        case 't': return push_container(PickleKind::tuple, to_mark());               // TUPLE
        case ']': return push_container(PickleKind::list, 0);                        // EMPTY_LIST
        case '}': return push_container(PickleKind::dict, 0);                        // EMPTY_DICT
        case 0x8f: return push_container(PickleKind::set, 0);                        // EMPTY_SET
        case 0x91: return push_container(PickleKind::set, to_mark());                // FROZENSET
        case 'a': return add_items(PickleKind::list, "APPEND", 1);                   // APPEND
        case 'e': return add_items(PickleKind::list, "APPENDS", to_mark());          // APPENDS
        case 0x90: return add_items(PickleKind::set, "ADDITEMS", to_mark());         // ADDITEMS
        case 's': return add_items(PickleKind::dict, "SETITEM", 2);                  // SETITEM
        case 'u': return add_items(PickleKind::dict, "SETITEMS", to_mark());         // SETITEMS
        case '0': return marks_.empty() || marks_.back() < stack_.size() ? void(pop()) : marks_.pop_back();  // POP, also of a mark
        case '1': return stack_.resize(stack_.size() - to_mark());                   // POP_MARK
        case '2': return push(top());                                                // DUP
        case 'q': return memo_put(number<uint8_t>());                                // BINPUT
        case 'r': return memo_put(number<uint32_t>());                               // LONG_BINPUT
        case 0x94: return memo_put(static_cast<uint32_t>(memo_.size()));             // MEMOIZE
        case 'h': return memo_get(number<uint8_t>());                                // BINGET
        case 'j': return memo_get(number<uint32_t>());                               // LONG_BINGET
        case 'c': return global();                                                   // GLOBAL
        case 0x93: return stack_global();                                            // STACK_GLOBAL
        case 'R': return call("REDUCE");                                             // REDUCE
        case 0x81: return call("NEWOBJ");                                            // NEWOBJ
        case 0x92: return need(1), pop(), call("NEWOBJ_EX");                         // NEWOBJ_EX: keyword arguments are dropped
        case 'b': return build();                                                    // BUILD
        case 'Q': return persistent();                                               // BINPERSID
        case 0x95: return frame();                                                   // FRAME
        default: refuse("unsupported pickle instruction 0x{:02x} at byte {}", op, op_at_);
      }
    }
    // clang-format on

    std::string_view take(uint64_t n) {
      if (n > p_.bytes_.size() - at_) throw Ended{};
      at_ += n;
      return std::string_view(p_.bytes_).substr(at_ - n, n);
    }
    template <typename T>
    T number() {
      return load_le<T>(take(sizeof(T)), 0);
    }

    // a text up to the end of the line
    PickleValue line() {
      const size_t end = p_.bytes_.find('\n', at_);
      if (end == std::string::npos) {
        if (p_.bytes_.size() - at_ > kMaxName) damaged("a name of more than {} bytes", kMaxName);
        throw Ended{};
      }
      const PickleValue v = place(PickleKind::text, take(end - at_));
      take(1);
      return v;
    }
    PickleValue place(PickleKind kind, std::string_view s) const {
      return {kind, static_cast<uint32_t>(s.size()), static_cast<int64_t>(s.data() - p_.bytes_.data())};
    }

    // Values between the last mark and here may be taken, those before it not.
    void need(size_t n) const {
      const size_t floor = marks_.empty() ? 0 : marks_.back();
      if (stack_.size() - floor < n) damaged("takes {} values, the stack has {}", n, stack_.size() - floor);
    }
    PickleValue top() const { return need(1), stack_.back(); }
    PickleValue pop() {
      const PickleValue v = top();
      stack_.pop_back();
      return v;
    }
    void push(PickleValue v) {
      if (stack_.size() >= limits_.stack) refuse("pickle stacks more than {} values", limits_.stack);
      stack_.push_back(v);
    }
    void mark() {
      if (marks_.size() >= limits_.stack) refuse("pickle stacks more than {} values", limits_.stack);
      marks_.push_back(stack_.size());
    }
    // values above the last mark, which is taken away
    size_t to_mark() {
      if (marks_.empty()) damaged("there is no mark");
      const size_t n = stack_.size() - marks_.back();
      marks_.pop_back();
      return n;
    }

    void push_integer(int64_t v) { push({PickleKind::integer, 0, v}); }
    void push_long(uint32_t n_bytes) {
      const std::string_view s = take(n_bytes);
      if (s.size() > 8) return push(place(PickleKind::big_integer, s));
      uint64_t v = 0;
      for (size_t i = 0; i < s.size(); ++i) v |= static_cast<uint64_t>(static_cast<unsigned char>(s[i])) << (8 * i);
      const size_t bits = 8 * s.size();
      if (bits > 0 && bits < 64 && v >> (bits - 1)) v |= ~uint64_t{0} << bits;  // negative
      push_integer(static_cast<int64_t>(v));
    }
    void push_text(PickleKind kind, uint64_t n_bytes) {
      if (n_bytes > std::numeric_limits<uint32_t>::max())
        refuse("pickle: a text of {} bytes at byte {}, allowed {}", n_bytes, op_at_, std::numeric_limits<uint32_t>::max());
      push(place(kind, take(n_bytes)));
    }

    void count_object() {
      if (++n_objects_ > limits_.objects) refuse("pickle makes more than {} objects", limits_.objects);
    }
    void count_items(size_t n) {
      if ((n_items_ += n) > limits_.items) refuse("pickle makes more than {} items", limits_.items);
    }
    // of the topmost n values, which are taken away
    void push_container(PickleKind kind, size_t n) {
      need(n);
      count_object();
      count_items(n);
      const auto from = stack_.end() - static_cast<std::ptrdiff_t>(n);
      p_.containers_.emplace_back(from, stack_.end());
      stack_.erase(from, stack_.end());
      push({kind, 0, static_cast<int64_t>(p_.containers_.size() - 1)});
    }
    // The topmost n values go into the container below them. What a call would give is unknown, so what is added to it is dropped.
    void add_items(PickleKind kind, const char* op, size_t n) {
      need(n + 1);
      const auto from = stack_.end() - static_cast<std::ptrdiff_t>(n);
      const PickleValue to = *(from - 1);
      if ((to.kind != kind && to.kind != PickleKind::call) || p_.is_tensor(to)) damaged("{} on {}", op, p_.describe(to));
      if (kind == PickleKind::dict && n % 2 != 0) damaged("{} of {} values, allowed pairs", op, n);
      if (to.kind == kind) {
        count_items(n);
        auto& items = p_.containers_[static_cast<size_t>(to.at)];
        items.insert(items.end(), from, stack_.end());
      }
      stack_.erase(from, stack_.end());
    }

    void memo_put(uint32_t slot) {
      memo_[slot] = top();
      if (memo_.size() > limits_.memo) refuse("pickle remembers more than {} values", limits_.memo);
    }
    void memo_get(uint32_t slot) {
      const auto found = memo_.find(slot);
      if (found == memo_.end()) damaged("reads memo slot {} before it is set", slot);
      push(found->second);
    }

    void push_global(PickleValue module, PickleValue name) {
      if (module.size > kMaxName || name.size > kMaxName) damaged("a name of more than {} bytes", kMaxName);
      count_object();
      p_.globals_.push_back({module, name});
      push({PickleKind::global, 0, static_cast<int64_t>(p_.globals_.size() - 1)});
    }
    void global() {
      const PickleValue module = line(), name = line();
      push_global(module, name);
    }
    void stack_global() {
      const PickleValue name = pop(), module = pop();
      if (name.kind != PickleKind::text || module.kind != PickleKind::text)
        damaged("STACK_GLOBAL of {} and {}, allowed two texts", p_.describe(module), p_.describe(name));
      push_global(module, name);
    }
    void call(const char* op) {
      const PickleValue arguments = pop(), callee = pop();
      if (callee.kind != PickleKind::global && callee.kind != PickleKind::call && callee.kind != PickleKind::persistent)
        damaged("{} on {}, allowed a global", op, p_.describe(callee));
      if (arguments.kind != PickleKind::tuple && arguments.kind != PickleKind::call)
        damaged("{} with {}, allowed a tuple", op, p_.describe(arguments));
      if (callee.kind == PickleKind::global && arguments.kind == PickleKind::tuple && is_dictionary(callee, arguments)) return;
      count_object();
      const bool direct = callee.kind != PickleKind::call;
      p_.calls_.push_back({direct ? callee : p_.calls_[static_cast<size_t>(callee.at)].callee, arguments, direct});
      push({PickleKind::call, 0, static_cast<int64_t>(p_.calls_.size() - 1)});
    }
    // OrderedDict(), OrderedDict([[key, value], ...]) as Python 2 writes it, defaultdict(anything): an ordinary dictionary, pushed
    bool is_dictionary(PickleValue callee, PickleValue arguments) {
      const std::string name = p_.global(callee);
      if (name == "collections.defaultdict") return push_container(PickleKind::dict, 0), true;
      if (name != "collections.OrderedDict") return false;
      const auto args = p_.items(arguments);
      if (args.empty()) return push_container(PickleKind::dict, 0), true;
      if (args.size() != 1 || args[0].kind != PickleKind::list) return false;
      std::vector<PickleValue> items;
      for (const PickleValue pair : p_.items(args[0])) {
        if ((pair.kind != PickleKind::list && pair.kind != PickleKind::tuple) || p_.items(pair).size() != 2) return false;
        items.insert(items.end(), p_.items(pair).begin(), p_.items(pair).end());
      }
      count_object();
      count_items(items.size());
      p_.containers_.push_back(std::move(items));
      push({PickleKind::dict, 0, static_cast<int64_t>(p_.containers_.size() - 1)});
      return true;
    }
    // State is dropped: a module's state_dict has {"_metadata": ...} on its dictionary, and what a call would give is unknown.
    void build() {
      pop();
      const PickleValue object = top();
      if ((object.kind != PickleKind::dict && object.kind != PickleKind::call && object.kind != PickleKind::persistent) || p_.is_tensor(object))
        damaged("BUILD on {}", p_.describe(object));
    }
    void persistent() {
      const PickleValue id = pop();
      count_object();
      p_.persistents_.push_back(id);
      push({PickleKind::persistent, 0, static_cast<int64_t>(p_.persistents_.size() - 1)});
    }
    // Frames only help a reader that streams; they must be inside the pickle.
    void frame() {
      const uint64_t n = number<uint64_t>();
      if (n > p_.bytes_.size() - at_) throw Ended{};
    }

    static constexpr size_t kMaxName = 1024;

    Pickle& p_;
    const std::string& source_;
    const PickleLimits& limits_;
    size_t at_ = 0;     // next byte
    size_t op_at_ = 0;  // of this instruction
    std::vector<PickleValue> stack_;
    std::vector<size_t> marks_;  // stack sizes
    std::unordered_map<uint32_t, PickleValue> memo_;
    size_t n_objects_ = 0, n_items_ = 0;
  };

  std::string bytes_;
  size_t size_ = 0;
  PickleValue root_;
  std::vector<std::vector<PickleValue>> containers_;
  std::vector<Global> globals_;
  std::vector<Call> calls_;
  std::vector<PickleValue> persistents_;
};

}  // namespace flexgen

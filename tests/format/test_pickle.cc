// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/pickle.h"

#include "support/errors.h"
#include "support/torch_writer.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

std::string proto(char version, const std::string& body) { return cat("\x80", std::string(1, version), body, "."); }
Pickle recognise(const std::string& body) { return Pickle::recognise(proto(2, body), "p"); }

// a value as Python would print it
std::string show(const Pickle& p, PickleValue v) {
  const auto list = [&](std::string open, const char* close) {
    const auto items = v.kind == PickleKind::call ? p.arguments(v) : p.items(v);
    for (size_t i = 0; i < items.size(); ++i) open += (i ? ", " : "") + show(p, items[i]);
    return open + close;
  };
  switch (v.kind) {
    case PickleKind::none:
      return "None";
    case PickleKind::boolean:
      return v.at ? "True" : "False";
    case PickleKind::integer:
      return std::to_string(v.at);
    case PickleKind::big_integer:
      return fmt::format("big{}", v.size);
    case PickleKind::real:
      return "real";
    case PickleKind::text:
      return fmt::format("'{}'", p.text(v));
    case PickleKind::bytes:
      return fmt::format("b'{}'", p.text(v));
    case PickleKind::tuple:
      return list("(", ")");
    case PickleKind::list:
      return list("[", "]");
    case PickleKind::set:
      return list("{", "}");
    case PickleKind::dict:
      return list("d{", "}");
    case PickleKind::global:
      return p.global(v);
    case PickleKind::call:
      return p.is_plain_call(v) ? list(p.global(v) + "(", ")") : fmt::format("unknown from {}", p.global(v));
    case PickleKind::persistent:
      return fmt::format("@{}", show(p, p.id(v)));
  }
  return "?";
}
std::string show(const std::string& body) {
  const Pickle p = recognise(body);
  return show(p, p.root());
}

}  // namespace

TEST_CASE("each instruction of protocols 2 to 5", "[format]") {
  using std::string_literals::operator""s;
  CHECK(show("N") == "None");
  CHECK(show("\x88") == "True");
  CHECK(show("\x89") == "False");
  CHECK(show("K\xff") == "255");
  CHECK(show("M\xff\xff") == "65535");
  CHECK(show("J\xff\xff\xff\xff") == "-1");
  CHECK(show("\x8a\x00"s) == "0");
  CHECK(show("\x8a\x01\xff") == "-1");
  CHECK(show("\x8a\x02\xff\x00"s) == "255");
  CHECK(show("\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80"s) == "-9223372036854775808");
  CHECK(show("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00"s) == "big9");
  CHECK(show("\x8b\x02\x00\x00\x00\x39\x30"s) == "12345");
  CHECK(show("G\x3f\xf0\x00\x00\x00\x00\x00\x00"s) == "real");
  CHECK(show("\x8c\x02hi") == "'hi'");
  CHECK(show("X\x02\x00\x00\x00hi"s) == "'hi'");
  CHECK(show("\x8d\x02\x00\x00\x00\x00\x00\x00\x00hi"s) == "'hi'");
  CHECK(show("U\x02hi") == "'hi'");
  CHECK(show("T\x02\x00\x00\x00hi"s) == "'hi'");
  CHECK(show("C\x02hi") == "b'hi'");
  CHECK(show("B\x02\x00\x00\x00hi"s) == "b'hi'");
  CHECK(show("\x8e\x02\x00\x00\x00\x00\x00\x00\x00hi"s) == "b'hi'");
  CHECK(show("\x96\x02\x00\x00\x00\x00\x00\x00\x00hi"s) == "b'hi'");
  CHECK(show(")") == "()");
  CHECK(show("K\1\x85") == "(1)");
  CHECK(show("K\1K\2\x86") == "(1, 2)");
  CHECK(show("K\1K\2K\3\x87") == "(1, 2, 3)");
  CHECK(show("(K\1(K\2tt") == "(1, (2))");
  CHECK(show("]K\1a(K\2K\3e") == "[1, 2, 3]");
  CHECK(show("}K\1K\2s(K\3K\4u") == "d{1, 2, 3, 4}");
  CHECK(show("\x8f(K\1K\2\x90") == "{1, 2}");
  CHECK(show("(K\1\x91") == "{1}");
  CHECK(show("NK\1"
             "0") == "None");
  CHECK(show("N(K\1K\2"
             "1") == "None");
  CHECK(show("N(0") == "None");  // POP takes a mark
  CHECK(show("K\1"
             "2\x86") == "(1, 1)");
  CHECK(show("K\1q\5"
             "0h\5") == "1");
  CHECK(show("K\1r\0\1\0\0"
             "0j\0\1\0\0"s) == "1");
  CHECK(show("K\1\x94K\2\x94h\0\x87"s) == "(1, 2, 1)");
  CHECK(show("]q\0h\0K\1a0"s) == "[1]");  // containers are shared
  CHECK(show("cos\nsystem\n") == "os.system");
  CHECK(show("\x8c\x02os\x8c\x06system\x93") == "os.system");
  CHECK(show("cos\nsystem\nX\x02\x00\x00\x00ls\x85R"s) == "os.system('ls')");
  CHECK(show("cos\nsystem\n)\x81") == "os.system()");
  CHECK(show("cos\nsystem\n)}\x92") == "os.system()");
  CHECK(show("cos\nsystem\n)R}b") == "os.system()");
  CHECK(show("cos\nsystem\n)R(K\1K\2u") == "os.system()");
  CHECK(show("cos\nsystem\n)R)R") == "unknown from os.system");
  CHECK(show("cos\nsystem\ncos\nargs\n)RR") == "unknown from os.system");
  CHECK(show("K\7\x85Q") == "@(7)");
  CHECK(show(std::string("\x95\x02\x00\x00\x00\x00\x00\x00\x00K\1", 11)) == "1");
  CHECK(show("ccollections\nOrderedDict\n)R(K\1K\2u}b") == "d{1, 2}");
  CHECK(show("ccollections\nOrderedDict\n](](K\1K\2e](K\3K\4ee\x85R") == "d{1, 2, 3, 4}");  // Python 2's form
  CHECK(show("ccollections\ndefaultdict\ncbuiltins\nlist\n\x85RK\1K\2s") == "d{1, 2}");
  for (const char version : {2, 3, 4, 5}) CHECK_NOTHROW(Pickle::recognise(proto(version, "N"), "p"));
}

TEST_CASE("broken pickles are refused with the byte", "[format]") {
  using std::string_literals::operator""s;
  struct Case {
    std::string body, message;
  };
  const Case cases[] = {
      {"", "p: damaged pickle: STOP leaves 0 values and 0 marks, allowed one value (byte 2)"},
      {"NN", "p: damaged pickle: STOP leaves 2 values and 0 marks, allowed one value (byte 4)"},
      {"N(", "p: damaged pickle: STOP leaves 1 values and 1 marks, allowed one value (byte 4)"},
      {"N.N", "p: damaged pickle: 2 bytes after STOP (byte 4)"},
      {"0", "p: damaged pickle: takes 1 values, the stack has 0 (byte 2)"},
      {"K\1\x86", "p: damaged pickle: takes 2 values, the stack has 1 (byte 4)"},
      {"K\1(\x85", "p: damaged pickle: takes 1 values, the stack has 0 (byte 5)"},  // may not reach below the mark
      {"t", "p: damaged pickle: there is no mark (byte 2)"},
      {"hM", "p: damaged pickle: reads memo slot 77 before it is set (byte 2)"},
      {"j\xff\xff\xff\xff", "p: damaged pickle: reads memo slot 4294967295 before it is set (byte 2)"},
      {"NK\1K\2s", "p: damaged pickle: SETITEM on None (byte 7)"},
      {"](K\1K\2u", "p: damaged pickle: SETITEMS on a list (byte 8)"},
      {"}(K\1u", "p: damaged pickle: SETITEMS of 1 values, allowed pairs (byte 6)"},
      {"}K\1a", "p: damaged pickle: APPEND on a dictionary (byte 5)"},
      {"}(K\1e", "p: damaged pickle: APPENDS on a dictionary (byte 6)"},
      {"](K\1\x90", "p: damaged pickle: ADDITEMS on a list (byte 6)"},
      {"K\1Nb", "p: damaged pickle: BUILD on a number (byte 5)"},
      {"ctorch._utils\n_rebuild_tensor_v2\n)R}b", "p: damaged pickle: BUILD on a tensor (byte 38)"},
      {"ctorch._utils\n_rebuild_tensor_v2\n)RK\1K\2s", "p: damaged pickle: SETITEM on a tensor (byte 41)"},
      {"K\1)R", "p: damaged pickle: REDUCE on a number, allowed a global (byte 5)"},
      {"cos\nsystem\nK\1R", "p: damaged pickle: REDUCE with a number, allowed a tuple (byte 15)"},
      {"N)\x81", "p: damaged pickle: NEWOBJ on None, allowed a global (byte 4)"},
      {"NN\x93", "p: damaged pickle: STACK_GLOBAL of None and None, allowed two texts (byte 4)"},
      {cat("c", std::string(2000, 'x'), "\nx\n"), "p: damaged pickle: a name of more than 1024 bytes (byte 2)"},
      {cat("c", std::string(2000, 'x')), "p: damaged pickle: a name of more than 1024 bytes (byte 2)"},
      {"\x80\x02N", "p: unsupported pickle instruction 0x80 at byte 2"},
      {"\x82\x01", "p: unsupported pickle instruction 0x82 at byte 2"},          // EXT1
      {"(ios\nsystem\n", "p: unsupported pickle instruction 0x69 at byte 3"},    // INST
      {"(cos\nsystem\no", "p: unsupported pickle instruction 0x6f at byte 14"},  // OBJ
      {"I1\n", "p: unsupported pickle instruction 0x49 at byte 2"},
      {"\x97", "p: unsupported pickle instruction 0x97 at byte 2"},  // NEXT_BUFFER
      {"X\xff\xff\xff\xff", "p: damaged pickle: it ends in the middle of an instruction or without STOP"},
      {"\x8d\x00\x00\x00\x00\x01\x00\x00\x00"s, "p: pickle: a text of 4294967296 bytes at byte 2, allowed 4294967295"},
      {"\x95\xff\xff\xff\xff\xff\xff\xff\xff", "p: damaged pickle: it ends in the middle of an instruction or without STOP"},
      {"cos\nsystem", "p: damaged pickle: it ends in the middle of an instruction or without STOP"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    CHECK_FAULT(recognise(c.body), Fault::checkpoint, c.message);
  }
  CHECK_FAULT(Pickle::recognise("N.", "p"), Fault::checkpoint, "p: not a pickle of protocol 2 to 5: found 0x4e at byte 0, allowed 0x80");
  CHECK_FAULT(Pickle::recognise(proto(1, "N"), "p"), Fault::checkpoint, "p: pickle protocol: found 1, allowed 2 to 5");
  CHECK_FAULT(Pickle::recognise(proto(6, "N"), "p"), Fault::checkpoint, "p: pickle protocol: found 6, allowed 2 to 5");
  CHECK_FAULT(Pickle::recognise("", "p"), Fault::checkpoint, "p: damaged pickle: it ends in the middle of an instruction or without STOP");
}

TEST_CASE("a pickle cannot make much out of little", "[format]") {
  const auto limited = [](const std::string& body, const PickleLimits& limits) { return Pickle::recognise(proto(2, body), "p", limits); };
  CHECK_FAULT(limited("N0N0N", {.steps = 3}), Fault::checkpoint, "p: pickle uses more than 3 steps");
  CHECK_FAULT(limited("NNN", {.stack = 2}), Fault::checkpoint, "p: pickle stacks more than 2 values");
  CHECK_FAULT(limited("(((", {.stack = 2}), Fault::checkpoint, "p: pickle stacks more than 2 values");
  CHECK_FAULT(limited("N\x94\x94\x94", {.memo = 2}), Fault::checkpoint, "p: pickle remembers more than 2 values");
  CHECK_FAULT(limited("]0]0]", {.objects = 2}), Fault::checkpoint, "p: pickle makes more than 2 objects");
  CHECK_FAULT(limited("](NNNe", {.items = 2}), Fault::checkpoint, "p: pickle makes more than 2 items");
  CHECK_FAULT(limited(std::string(200'000, '('), {}), Fault::checkpoint, "p: pickle stacks more than 100000 values");
  // nested a million deep: described, and thrown away again, without recursion
  CHECK(Pickle::recognise(proto(2, cat("N", std::string(1'000'000, '\x85'))), "p").root().kind == PickleKind::tuple);
}

TEST_CASE("what goes on after STOP is the caller's", "[format]") {
  const auto p = Pickle::try_recognise(proto(2, "K\7") + "more", "p");
  REQUIRE(p.has_value());
  CHECK(p->size() == 5);
  CHECK(p->root().at == 7);
  const std::string good = proto(2, pickle::tensor(pickle::storage("HalfStorage", "0", 6), 0, {2, 3}, {3, 1}));
  for (size_t n = 0; n < good.size(); ++n) CHECK_FALSE(Pickle::try_recognise(good.substr(0, n), "p").has_value());
  CHECK(Pickle::try_recognise(good, "p").has_value());
}

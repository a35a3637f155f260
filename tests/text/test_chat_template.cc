// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/chat_template.h"

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("OPT's dialogue is Human and Assistant", "[text]") {
  const ChatTemplate t = ChatTemplate::parse(ChatTemplate::kOpt, "x");
  CHECK(t.message("Hi", true) == "Human: Hi\nAssistant:");
  CHECK(t.message("More", false) == "\nHuman: More\nAssistant:");
  CHECK(t.stop() == "\nHuman:");
}

TEST_CASE("templates are data", "[text]") {
  const ChatTemplate t = ChatTemplate::parse("[{x}{user}|{assistant}]", "x");
  CHECK(t.message("{user}{assistant}</s>", true) == "[{x}{user}{assistant}</s>|");
  CHECK(t.message("b", false) == "][{x}b|");
  CHECK(t.stop() == "][{x}");
  CHECK(t.text() == "[{x}{user}|{assistant}]");
  CHECK(ChatTemplate::parse("{user}{assistant}", "x").stop().empty());
  CHECK(ChatTemplate::parse("{user}{assistant}  ", "x").stop().empty());
}

TEST_CASE("templates without their placeholders are refused", "[text]") {
  CHECK_FAULT(ChatTemplate::parse("\xFF{user}{assistant}", "x"), Fault::usage, "x: found bytes that are not UTF-8, allowed text");
  const char* const allowed = "', allowed text with {user} once and {assistant} once after it";
  CHECK_FAULT(ChatTemplate::parse("", "--template"), Fault::usage, std::string("--template: found '") + allowed);
  CHECK_FAULT(ChatTemplate::parse("{user}", "x"), Fault::usage, std::string("x: found '{user}") + allowed);
  CHECK_FAULT(ChatTemplate::parse("{assistant}{user}", "x"), Fault::usage, std::string("x: found '{assistant}{user}") + allowed);
  CHECK_FAULT(ChatTemplate::parse("{user}{user}{assistant}", "x"), Fault::usage, std::string("x: found '{user}{user}{assistant}") + allowed);
  CHECK_FAULT(ChatTemplate::parse("{user}{assistant}\x1B{assistant}", "x"), Fault::usage,
              std::string("x: found '{user}{assistant}\\x1b{assistant}") + allowed);
}

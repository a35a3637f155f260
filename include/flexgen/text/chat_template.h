// SPDX-License-Identifier: Apache-2.0
// How a dialogue is written as text: what stands before a message, between it and the answer, and after the answer. Data, not a
// program: literal text and two placeholders. A message is never looked at for placeholders or control tokens.
#pragma once

#include <string>
#include <string_view>

#include "flexgen/base/error.h"
#include "flexgen/text/utf8.h"

namespace flexgen {

class ChatTemplate {
 public:
  // OPT's framing (Zhang et al., OPT, appendix E: dialogues as "Human: ... Assistant: ...")
  static constexpr std::string_view kOpt = "Human: {user}\nAssistant:{assistant}\n";

  // One turn of the dialogue, with {user} once and after it {assistant} once; other braces are text.
  // source: what to call it in messages. throws Fault::usage
  static ChatTemplate parse(std::string_view text, const std::string& source) {
    if (!is_utf8(text)) fail(Fault::usage, "{}: found bytes that are not UTF-8, allowed text", source);
    constexpr std::string_view kUser = "{user}", kAssistant = "{assistant}";
    const size_t user = text.find(kUser), assistant = text.find(kAssistant);
    const bool once =
        user != text.npos && assistant != text.npos && text.find(kUser, user + 1) == text.npos && text.find(kAssistant, assistant + 1) == text.npos;
    if (!once || assistant < user)
      fail(Fault::usage, "{}: found '{}', allowed text with {{user}} once and {{assistant}} once after it", source, printable(text));
    ChatTemplate t;
    t.text_ = text;
    t.before_user_ = text.substr(0, user);
    t.between_ = text.substr(user + kUser.size(), assistant - user - kUser.size());
    t.after_ = text.substr(assistant + kAssistant.size());
    return t;
  }

  const std::string& text() const { return text_; }

  // What a message adds to the dialogue, up to where the answer begins. first: nothing comes before it
  std::string message(std::string_view user, bool first) const {
    std::string out = first ? "" : after_;
    return out.append(before_user_).append(user).append(between_);
  }

  // The answer ends before this: the model would go on with the next message. Spaces at its end are left out, for a token may join them
  // with what follows. Empty where the template has nothing there.
  std::string stop() const {
    std::string out = after_ + before_user_;
    out.erase(out.find_last_not_of(' ') + 1);
    return out;
  }

 private:
  std::string text_, before_user_, between_, after_;
};

}  // namespace flexgen

// SPDX-License-Identifier: Apache-2.0
// A dialogue with a model: turns as text, and the tokens whose KV the engine keeps. What a turn adds is computed once; where an answer was
// cut inside a token, that token's text begins the next turn anew.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/engine/engine.h"
#include "flexgen/format/json_fields.h"
#include "flexgen/text/chat_template.h"
#include "flexgen/text/stream_decoder.h"
#include "flexgen/text/tokenizer.h"
#include "flexgen/text/utf8.h"

namespace flexgen::tools {

struct Turn {
  std::string user, assistant;
};

class Dialogue {
 public:
  // All references outlive this. settings: with the template's own stop string
  Dialogue(Engine& engine, const Tokenizer& tokenizer, ChatTemplate framing, GenerationSettings settings)
      : engine_(engine), tokenizer_(tokenizer), framing_(std::move(framing)), settings_(std::move(settings)), session_(engine.open_session()) {}
  Dialogue(const Dialogue&) = delete;
  Dialogue& operator=(const Dialogue&) = delete;
  ~Dialogue() { engine_.close_session(session_); }

  // What came of a message
  struct Reply {
    FinishReason reason = FinishReason::length;
    std::string error;             // why there is no answer; then the dialogue is as before
    size_t prompt_tokens = 0;      // that the message added
    size_t new_tokens = 0;
    uint64_t tokens_computed = 0;
    double seconds = 0;
  };

  // Answers a message. show(text) gets the answer as it comes. With *stop set the answer ends there, and the dialogue goes on from it.
  Reply say(std::string_view line, const std::function<void(std::string_view)>& show, const std::atomic<bool>& stop) {
    const std::string message = replace_invalid_utf8(line);
    const size_t before = tokens().size();
    const std::string text = rest_ + framing_.message(message, turns_.empty());
    Request request;
    request.id = fmt::format("turn {}", turns_.size());
    request.prompt = before == 0 ? tokenizer_.encode(text) : tokenizer_.encode_bare(text);
    request.settings = settings_;
    request.session = session_;

    Turn turn{message, ""};
    Reply reply = run(std::move(request), stop, [&](std::string_view part) {
      turn.assistant += part;
      show(part);
    });
    if (reply.reason == FinishReason::error || reply.new_tokens == 0) {  // also interrupted before the first token
      engine_.rewind_session(session_, before);
      return reply;
    }
    end_answer(turn.assistant, before + reply.prompt_tokens, reply.reason);
    turns_.push_back(std::move(turn));
    return reply;
  }

  void reset() {
    engine_.rewind_session(session_, 0);
    turns_.clear();
    rest_.clear();
  }

  const std::vector<Turn>& turns() const { return turns_; }
  const std::vector<int32_t>& tokens() const { return engine_.session_tokens(session_); }
  const ChatTemplate& framing() const { return framing_; }

  nlohmann::ordered_json to_json() const {
    nlohmann::ordered_json o;
    o["flexgen_chat"] = 1;
    o["vocabulary"] = tokenizer_.size();
    o["template"] = framing_.text();
    o["turns"] = nlohmann::ordered_json::array();
    for (const Turn& t : turns_) o["turns"].push_back({{"user", t.user}, {"assistant", t.assistant}});
    o["rest"] = rest_;
    o["tokens"] = tokens();
    return o;
  }

  // Takes over a dialogue that to_json() wrote, and computes its KV. On an error, or with *stop set, the dialogue is empty afterwards.
  // throws Fault::usage for what is no such dialogue, or one of another vocabulary or template; Fault::interrupted
  Reply load(const nlohmann::json& o, const std::string& source, const std::atomic<bool>& stop) {
    const JsonFields fields(o, source, Fault::usage);
    fields.whole("flexgen_chat", 1, 1);
    if (const int64_t n = fields.whole("vocabulary", 1, INT32_MAX); n != tokenizer_.size())
      fail(Fault::usage, "{}: vocabulary: found {} tokens, allowed {}: it was saved with another model", source, n, tokenizer_.size());
    if (const std::string t = fields.text("template"); t != framing_.text())
      fail(Fault::usage, "{}: template: found '{}', allowed '{}'. Start chat with that --template", source, printable(t), printable(framing_.text()));
    std::vector<Turn> turns;
    std::vector<int32_t> ids;
    for (const auto& t : list(o, "turns", source)) {
      const JsonFields turn(t, source + ": turns", Fault::usage);
      turns.push_back({turn.text("user"), turn.text("assistant")});
    }
    for (const auto& id : list(o, "tokens", source)) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
        fail(Fault::usage, "{}: tokens: found {}, allowed token ids", source, describe(id));
      ids.push_back(id.get<int32_t>());
    }
    if (ids.empty() != turns.empty()) fail(Fault::usage, "{}: found {} turns and {} tokens, allowed both or none", source, turns.size(), ids.size());
    const std::string rest = fields.text("rest");

    reset();
    Reply reply;
    if (ids.empty()) return reply;
    Request request;
    request.prompt = ids;
    request.settings.max_new_tokens = 1;  // what it would say next is dropped
    request.session = session_;
    reply = run(std::move(request), stop, [](std::string_view) {});
    const bool done = reply.reason != FinishReason::error && reply.new_tokens > 0;
    engine_.rewind_session(session_, done ? ids.size() : 0);
    if (!done) {
      if (reply.reason == FinishReason::error) fail(Fault::usage, "{}: tokens: {}", source, reply.error);
      fail(Fault::interrupted, "{}: interrupted", source);
    }
    turns_ = std::move(turns);
    rest_ = rest;
    return reply;
  }

 private:
  static const nlohmann::json& list(const nlohmann::json& o, const char* key, const std::string& source) {
    const auto at = o.find(key);
    if (at == o.end() || !at->is_array())
      fail(Fault::usage, "{}: {}: found {}, allowed a list", source, key, at == o.end() ? "nothing" : describe(*at));
    return *at;
  }

  Reply run(Request request, const std::atomic<bool>& stop, const std::function<void(std::string_view)>& show) {
    Reply reply;
    reply.prompt_tokens = request.prompt.size();
    const Statistics before = engine_.statistics();
    const RequestId id = engine_.submit(std::move(request));
    bool cancelled = false;
    while (!engine_.idle()) {
      try {
        for (const Event& e : engine_.step(cancelled ? nullptr : &stop)) {
          reply.new_tokens += e.kind == Event::Kind::token;
          if (!e.text.empty()) show(e.text);
          if (e.kind == Event::Kind::end) reply.reason = e.reason, reply.error = e.error;
        }
      } catch (const Error& e) {
        if (e.fault() != Fault::interrupted || cancelled) throw;
      }
      if (stop && !cancelled) engine_.cancel(id), cancelled = true;
    }
    const Statistics& after = engine_.statistics();
    reply.tokens_computed = after.tokens_computed - before.tokens_computed;
    reply.seconds = after.prefill_s + after.decode_s - before.prefill_s - before.decode_s;
    return reply;
  }

  // Keeps the tokens of what was shown: not the end token, not the stop string. first: index of the answer's first token
  void end_answer(const std::string& answer, size_t first, FinishReason reason) {
    rest_.clear();
    const std::vector<int32_t>& all = tokens();
    if (reason == FinishReason::eos) engine_.rewind_session(session_, all.size() - 1);
    if (reason != FinishReason::stop) return;
    StreamDecoder decoder(tokenizer_, /*skip_special=*/true);
    size_t kept = first, kept_bytes = 0, bytes = 0;
    for (size_t i = first; i < all.size(); ++i) {
      bytes += decoder.push(all[i]).size();
      if (bytes > answer.size()) break;
      if (bytes > kept_bytes) kept = i + 1, kept_bytes = bytes;
    }
    rest_ = answer.substr(kept_bytes);
    engine_.rewind_session(session_, kept);
  }

  Engine& engine_;
  const Tokenizer& tokenizer_;
  ChatTemplate framing_;
  GenerationSettings settings_;
  SessionId session_;
  std::vector<Turn> turns_;
  std::string rest_;  // end of the last answer that no token boundary separates from what followed it
};

}  // namespace flexgen::tools

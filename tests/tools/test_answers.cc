// SPDX-License-Identifier: Apache-2.0
// Answers come out in the order of the prompts, whatever the order of the events.
#include "tools/answers.h"

#include "support/catch.h"

using namespace flexgen;
using namespace flexgen::tools;

namespace {

Event token(RequestId request, int sample, int32_t id, const std::string& text) {
  Event e;
  e.request = request;
  e.sample = sample;
  e.token = id;
  e.text = text;
  return e;
}

Event end(RequestId request, int sample, FinishReason reason = FinishReason::eos, const std::string& text = "", const std::string& error = "") {
  Event e;
  e.kind = Event::Kind::end;
  e.request = request;
  e.sample = sample;
  e.reason = reason;
  e.text = text;
  e.error = error;
  return e;
}

// what was shown: "index.sample:new text" and "." where it ended
struct Log {
  std::string text;
  Answers answers{[this](const Answer& a, size_t from) {
    text += fmt::format("{}.{}:{}{} ", a.index, a.sample, a.text.substr(from), a.ended ? "." : "");
  }};
  std::string take(const std::vector<Event>& events) {
    for (const Event& e : events) answers.take(e);
    text.clear();
    answers.show();
    return text;
  }
};

}  // namespace

TEST_CASE("the first open answer streams, the others wait for it") {
  Log log;
  log.answers.submitted(10, 0, 1);
  log.answers.submitted(11, 1, 2);
  CHECK(log.take({token(11, 1, 5, "late"), token(10, 0, 6, "one")}) == "0.0:one ");
  CHECK(log.take({token(11, 0, 7, "two"), end(11, 1)}) == "");
  CHECK(log.take({token(10, 0, 8, "")}) == "");
  CHECK(log.take({token(10, 0, 8, " more"), end(10, 0, FinishReason::length, "!")}) == "0.0: more!. 1.0:two ");
  CHECK(log.answers.n_pending() == 1);
  CHECK(log.take({end(11, 0)}) == "1.0:. 1.1:late. ");
  CHECK(log.answers.n_pending() == 0);
  CHECK(log.answers.n_failed() == 0);
}

TEST_CASE("a request that cannot be served has one answer") {
  Log log;
  log.answers.submitted(1, 0, 3);
  log.answers.submitted(2, 1, 1);
  CHECK(log.answers.n_pending() == 4);
  Event refused = end(1, 0, FinishReason::error, "", "too long");
  refused.last = true;
  CHECK(log.take({refused, end(2, 0)}) == "0.0:. 1.0:. ");
  CHECK(log.answers.n_failed() == 1);
  CHECK(log.answers.n_pending() == 0);
}

TEST_CASE("a sample that fails on the way leaves the others alone") {
  Log log;
  log.answers.submitted(1, 0, 2);
  CHECK(log.take({token(1, 0, 4, "a"), token(1, 1, 4, "b")}) == "0.0:a ");
  CHECK(log.take({end(1, 0, FinishReason::error, "", "nan")}) == "0.0:. 0.1:b ");
  CHECK(log.take({token(1, 1, 4, "c"), end(1, 1)}) == "0.1:c. ");
  CHECK(log.answers.n_failed() == 1);
}

TEST_CASE("after an interruption what has ended is shown, and nothing twice") {
  Log log;
  for (size_t i = 0; i < 4; ++i) log.answers.submitted(i, i, 1);
  CHECK(log.take({token(0, 0, 1, "half"), token(1, 0, 1, "whole"), end(1, 0), token(2, 0, 1, "open"), token(3, 0, 1, "also"), end(3, 0)}) ==
        "0.0:half ");
  log.text.clear();
  log.answers.show_ended();
  CHECK(log.text == "1.0:whole. 3.0:also. ");
}

TEST_CASE("an answer as JSON has the fields of the contract, in order") {
  Answer a;
  a.index = 3;
  a.sample = 1;
  a.tokens = {7, 2};
  a.text = "caf\xC3\xA9\n\"";
  a.reason = FinishReason::eos;
  CHECK(answer_json(a, nullptr, "Say", {2, 9}, false) ==
        R"({"index":3,"sample":1,"prompt":"Say","prompt_tokens":[2,9],"tokens":[7,2],"text":"café\n\"","finish_reason":"eos"})");
  CHECK(answer_json(a, 17, "Say", {2}, false).starts_with(R"({"index":3,"sample":1,"id":17,"prompt":"Say")"));
  a.logprobs = {{-0.5, {{7, -0.5}, {1, -1.25}}}, {-2, {}}};
  CHECK(answer_json(a, "x", "Say", {2}, true).ends_with(
      R"("logprobs":[{"token":7,"logprob":-0.5,"top":[[7,-0.5],[1,-1.25]]},{"token":2,"logprob":-2.0,"top":[]}]})"));
  Answer failed;
  failed.reason = FinishReason::error;
  failed.error = "too long";
  CHECK(answer_json(failed, nullptr, "", {2}, false) ==
        R"({"index":0,"sample":0,"prompt":"","prompt_tokens":[2],"tokens":[],"text":"","finish_reason":"error","error":"too long"})");
}

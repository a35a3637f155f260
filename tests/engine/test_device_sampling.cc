// SPDX-License-Identifier: Apache-2.0
#include "flexgen/engine/device_sampling.h"

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("what a device may draw, and with which numbers", "[engine]") {
  GenerationSettings s;
  s.do_sample = true, s.temperature = 0.7, s.top_k = 40, s.top_p = 0.9, s.min_p = 0.1, s.seed = 5;
  const auto draw = device_draw(s, 77, 2, 9);
  REQUIRE(draw.has_value());
  CHECK((draw->temperature == 0.7f && draw->top_k == 40 && draw->top_p == 0.9 && draw->min_p == 0.1));
  CHECK(draw->uniform == uniform(5, 77, 2, 9));

  const auto with = [&](auto&& change, size_t n_new = 9) {
    GenerationSettings other = s;
    change(other);
    return device_draw(other, 77, 2, n_new).has_value();
  };
  CHECK(with([](auto& o) { o.top_k = kMostDrawn; }));
  CHECK(!with([](auto& o) { o.top_k = kMostDrawn + 1; }));
  CHECK(!with([](auto& o) { o.top_k = 0; }));  // all
  CHECK(!with([](auto& o) { o.repetition_penalty = 1.1; }));
  CHECK(!with([](auto& o) { o.no_repeat_ngram_size = 3; }));
  CHECK(!with([](auto& o) { o.logprobs = 0; }));
  CHECK(!with([](auto& o) { o.min_new_tokens = 10; }));  // an end token must wait
  CHECK(with([](auto& o) { o.min_new_tokens = 10; }, 10));
  CHECK(with([](auto& o) { o.min_new_tokens = 10, o.ignore_eos = true; }));

  s.do_sample = false;  // whatever else is set
  CHECK(device_draw(s, 77, 2, 9) == Draw{});
  s.top_k = 0;
  CHECK(device_draw(s, 77, 2, 9) == Draw{});
  CHECK(!with([](auto& o) { o.logprobs = 0; }));
  CHECK(!with([](auto& o) { o.repetition_penalty = 1.1; }));
}

// SPDX-License-Identifier: Apache-2.0
// Lines of prompt files. The first byte says how the rest is read: as a JSON line, as a list of token ids, or as text with stop strings.
// What is accepted is used: settings choose a token, an answer is printed, and printing a prompt and reading it again gives the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/engine/sampler.h"
#include "flexgen/engine/stop_strings.h"
#include "tools/answers.h"
#include "tools/prompts.h"
#include "tools/terminal_text.h"

namespace {

using namespace flexgen;
using namespace flexgen::tools;

void use_settings(const GenerationSettings& s) {
  std::vector<float> logits(37);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7) - static_cast<float>(i % 3);
  const std::vector<int32_t> context{2, 5, 3, 5};
  SamplerScratch scratch;
  const SampledToken t = Sampler(s, request_hash("id"), 0).next(logits, context, 2, scratch);
  if (t.id < 0 || t.id >= 37) std::abort();
  if (t.logprobs && t.logprobs->top.size() > 37) std::abort();
}

void use_line(std::string_view line) {
  const Prompt p = parse_prompt_line(line, {}, "line");
  if (p.text.has_value() == !p.tokens.empty()) std::abort();
  Answer a;
  a.text = p.text.value_or("");
  const std::string printed = answer_json(a, p.id, a.text, p.tokens, true);
  const Json again = Json::parse(printed);
  if (again["prompt"] != a.text || again["prompt_tokens"] != Json(p.tokens)) std::abort();
  if (terminal_safe(a.text).size() > a.text.size()) std::abort();
  use_settings(p.settings);
}

// The text never shows a stop string that it was to end before, however it is cut
void use_stops(std::string_view text) {
  const size_t cut = text.find('\n');
  if (cut == text.npos || cut == 0 || cut > 64) return;
  const std::string stop(text.substr(0, cut));
  const std::string_view rest = text.substr(cut + 1);
  StopMatcher bytes({stop}), whole({stop});
  std::string a, b = whole.push(rest);
  for (const char c : rest) a += bytes.push(std::string_view(&c, 1));
  a += bytes.finish();
  b += whole.finish();
  if (a != b || a != rest.substr(0, rest.find(stop)) || a.find(stop) != a.npos) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 3) {
      case 0: use_line(rest); break;
      case 1:
        for (const int32_t id : flexgen::tools::parse_token_list(rest, "--prompt-tokens"))
          if (id < 0) std::abort();
        break;
      default: use_stops(rest);
    }
  } catch (const flexgen::Error& e) {
    // "no token is left" is how a request ends whose settings ban everything
    if (e.fault() != flexgen::Fault::usage || std::string_view(e.what()).empty()) std::abort();
  }
  return 0;
}

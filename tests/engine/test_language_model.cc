// SPDX-License-Identifier: Apache-2.0
// A model file from conversion to tokens: what is loaded from it gives HF's answers, as what lies in the checkpoint does.
#include "flexgen/engine/language_model.h"

#include <atomic>

#include "flexgen/engine/engine.h"
#include "flexgen/format/tokenizer_files.h"
#include "flexgen/model/conversion.h"
#include "kernels/registry.h"
#include "support/errors.h"
#include "support/golden.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::Golden;
using testing::TempDir;

namespace {

std::string convert(const std::string& folder, const TempDir& dir, std::optional<DType> dtype = std::nullopt) {
  const std::string path = dir / "model.flex";
  Conversion(folder, read_tokenizer_files(folder), dtype, "test").write(path, {.file_id = 1, .overwrite = true});
  return path;
}

std::vector<std::vector<int32_t>> greedy(const LanguageModel& m, ThreadPool& pool, const std::vector<testing::GoldenSequence>& sequences) {
  EngineOptions o;
  o.kv_dtype = DType::f32;
  Engine engine(m.description(), m.weights(), m.tokenizer(), *backends().front(), pool, o);
  for (const auto& s : sequences) {
    Request r;
    r.prompt = s.prompt_tokens;
    r.settings.max_new_tokens = static_cast<int64_t>(s.tokens.size());
    r.settings.ignore_eos = true;
    engine.submit(r);
  }
  std::vector<std::vector<int32_t>> out(sequences.size());
  while (!engine.idle())
    for (const Event& e : engine.step())
      if (e.kind == Event::Kind::token) out[e.request - 1].push_back(e.token);
  return out;
}

}  // namespace

TEST_CASE("converted models give HF's greedy tokens, and HF's ids for the prompts", "[engine][golden]") {
  for (const std::string& folder : testing::golden_folders()) {
    const Golden g(folder);
    CAPTURE(g.name);
    const TempDir dir;
    LanguageModel m(convert(folder, dir));
    CHECK(m.default_kv_dtype() == (m.weight_dtype() == DType::f32 ? DType::f32 : DType::f16));
    ThreadPool pool(2);
    std::atomic<uint64_t> calls_with_all{0};  // called from several threads
    m.load_weights(pool, 1_GiB, [&](uint64_t bytes) { calls_with_all += bytes == m.file().weight_bytes(); });
    CHECK(calls_with_all == 1);
    REQUIRE(m.tokenizer());
    for (const auto& s : g.sequences) CHECK(m.tokenizer()->encode(s.prompt) == s.prompt_tokens);
    const auto got = greedy(m, pool, g.sequences);
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == g.sequences[i].tokens);
  }
}

TEST_CASE("weights that do not fit are refused before anything is read; damage is found while loading", "[engine]") {
  const TempDir dir;
  const std::string path = convert(testing::test_data("golden/prenorm-f16-bin"), dir);
  ThreadPool pool(2);
  {
    LanguageModel m(path);
    CHECK_FAULT(m.weights(), Fault::internal, "the weights are not loaded");
    CHECK_FAULT(m.load_weights(pool, 1000), Fault::space, "are missing");
    const std::atomic<bool> stop{true};
    CHECK_FAULT(m.load_weights(pool, 1_GiB, {}, &stop), Fault::interrupted, "stopped while loading");
  }
  const uint64_t where = LanguageModel(path).file().blocks()[3].offset + 5;
  {
    std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(static_cast<std::streamoff>(where));
    const char byte = static_cast<char>(f.get() ^ 1);
    f.seekp(static_cast<std::streamoff>(where));
    f.put(byte);
  }
  LanguageModel m(path);
  CHECK_FAULT(m.load_weights(pool, 1_GiB), Fault::damaged, "weights damaged: tensor '");
}

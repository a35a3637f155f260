// SPDX-License-Identifier: Apache-2.0
// flexgen inspect: what is in a model file, and whether it is whole.
#include <fmt/core.h>

#include <chrono>
#include <map>
#include <memory>

#include "flexgen/format/verify_file.h"
#include "flexgen/model/description_json.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/progress.h"

namespace flexgen::tools {

namespace {

using nlohmann::json;

struct InspectOptions {
  std::string file;
  bool verify = false, tensors = false, as_json = false;
};

struct Verdict {
  std::vector<std::string> damage;
  double seconds = 0;
};

uint64_t elements(const FileTensor& t) {
  uint64_t n = 1;
  for (const int64_t d : t.shape) n *= static_cast<uint64_t>(d);
  return n;
}

uint64_t parameters(const ModelFile& m) {
  uint64_t n = 0;
  for (const FileTensor& t : m.tensors()) n += elements(t);
  return n;
}

// dtype -> parameters in it
std::map<std::string, uint64_t> dtypes(const ModelFile& m) {
  std::map<std::string, uint64_t> out;
  for (const FileTensor& t : m.tensors()) out[std::string(name(t.dtype))] += elements(t);
  return out;
}

Verdict verify(const ModelFile& m) {
  catch_interrupts();
  std::atomic<uint64_t> done{0};
  const auto start = std::chrono::steady_clock::now();
  Verdict v;
  {
    const Progress progress("verify", done, m.file().size());
    v.damage = find_damage(m, {.stop = &interrupted, .done_bytes = &done});
  }
  v.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return v;
}

// an empty object where there is none
const json& section(const ModelFile& m, const char* key) {
  static const json kNone = json::object();
  const auto at = m.description().find(key);
  return at == m.description().end() ? kNone : *at;
}

json summary_json(const ModelFile& m, const ModelDescription& model, const InspectOptions& o, const Verdict& verdict) {
  json tokenizer = json::object();
  for (const auto& [name, text] : section(m, "tokenizer").items()) tokenizer[name] = text.get_ref<const std::string&>().size();
  json out{{"file", m.file().path()},       {"file_bytes", m.file().size()},    {"format_version", layout::kVersion},
           {"id", fmt::format("{:016x}", m.id())}, {"alignment", m.alignment()}, {"model", to_json(model)},
           {"parameters", parameters(m)},   {"weight_bytes", m.weight_bytes()}, {"dtypes", dtypes(m)},
           {"records", m.records().size()}, {"blocks", m.blocks().size()},      {"tokenizer_files", tokenizer},
           {"generation", section(m, "generation")}, {"provenance", section(m, "provenance")}};
  if (o.tensors) {
    json& list = out["tensors"] = json::array();
    for (const FileTensor& t : m.tensors())
      list.push_back({{"name", t.name},
                      {"dtype", name(t.dtype)},
                      {"shape", t.shape},
                      {"offset", t.offset},
                      {"bytes", t.bytes},
                      {"record", m.records()[t.record].name},
                      {"first_block", t.first_block},
                      {"blocks", t.n_blocks},
                      {"rows_per_block", t.rows_per_block}});
  }
  if (o.verify)
    out["verify"] = {
        {"damage", verdict.damage}, {"seconds", verdict.seconds}, {"bytes_per_second", static_cast<double>(m.file().size()) / verdict.seconds}};
  return out;
}

void print_summary(const ModelFile& m, const ModelDescription& model) {
  const auto line = [](std::string_view what, const std::string& value) { fmt::print("  {:<13} {}\n", what, value); };
  fmt::print("{}\n", m.file().path());
  line("model", fmt::format("{}, {} layers, width {}, ffn {}, {} heads of {}", model.family, model.n_layers, model.width, model.ffn, model.n_heads,
                            model.head_dim));
  line("",
       fmt::format("vocabulary {}, {} positions, {}, norm {}{}{}{}{}", with_commas(static_cast<uint64_t>(model.vocab)),
                   with_commas(static_cast<uint64_t>(model.max_positions)), name(model.activation), model.norm == NormPlace::pre ? "before" : "after",
                   model.has_projection() ? fmt::format(", embedding width {}", model.embed_width) : "", model.bias ? "" : ", no biases",
                   model.norm_affine ? "" : ", plain norms", model.tied_head ? ", tied head" : ", own head"));
  line("parameters", with_commas(parameters(m)));
  std::string formats;
  for (const auto& [dtype, n] : dtypes(m)) formats += fmt::format("{}{} {}", formats.empty() ? "" : ", ", dtype, with_commas(n));
  line("formats", formats);
  line("weights", fmt::format("{} in {} records, {} tensors, {} blocks", format_bytes(m.weight_bytes()), m.records().size(), m.tensors().size(),
                              m.blocks().size()));
  line("file", fmt::format("{} bytes, records aligned to {}, id {:016x}", with_commas(m.file().size()), format_bytes(m.alignment()), m.id()));
  std::string tokenizer;
  for (const auto& [name, text] : section(m, "tokenizer").items()) tokenizer += (tokenizer.empty() ? "" : ", ") + printable(name);
  line("tokenizer", tokenizer.empty() ? "none" : tokenizer);
  const json& generation = section(m, "generation");
  line("generation", generation.empty() ? "none" : printable(generation.dump(-1, ' ', false, json::error_handler_t::replace)));
  const json& provenance = section(m, "provenance");
  const auto text = [&](const char* key) {
    return provenance.contains(key) && provenance[key].is_string() ? printable(provenance[key].get<std::string>()) : "";
  };
  if (!text("tool").empty()) line("made by", text("tool"));
  if (!text("folder").empty()) line("made from", text("folder"));
}

void print_tensors(const ModelFile& m) {
  size_t widest = 6;
  for (const FileTensor& t : m.tensors()) widest = std::max(widest, t.name.size());
  fmt::print("\n  {:<{}}  dtype  {:<16} {:>16} {:>14} {:>8} {:>11}\n", "tensor", widest, "shape", "offset", "bytes", "blocks", "rows/block");
  for (const FileTensor& t : m.tensors())
    fmt::print("  {:<{}}  {:<5}  {:<16} {:>16} {:>14} {:>8} {:>11}\n", t.name, widest, name(t.dtype), to_string(t.shape), t.offset, t.bytes,
               t.n_blocks, t.rows_per_block);
}

int inspect(const InspectOptions& o) {
  const ModelFile m = ModelFile::open(o.file);
  const ModelDescription model = stored_description(m);
  if (!o.as_json) {
    print_summary(m, model);
    if (o.tensors) print_tensors(m);
  }
  const Verdict verdict = o.verify ? verify(m) : Verdict{};
  if (o.as_json) fmt::print("{}\n", summary_json(m, model, o, verdict).dump(-1, ' ', false, json::error_handler_t::replace));
  if (!o.verify) return 0;
  if (verdict.damage.empty()) {
    if (!o.as_json)
      fmt::print("\n  verified      every byte, in {:.1f} s ({}/s)\n", verdict.seconds,
                 format_bytes(static_cast<uint64_t>(static_cast<double>(m.file().size()) / verdict.seconds)));
    return 0;
  }
  constexpr size_t kShown = 20;
  for (size_t i = 0; i < std::min(kShown, verdict.damage.size()); ++i) fmt::print(stderr, "error[E-damaged]: {}\n", verdict.damage[i]);
  if (verdict.damage.size() > kShown) fmt::print(stderr, "error[E-damaged]: {}: {} more damaged places\n", o.file, verdict.damage.size() - kShown);
  return exit_code(Fault::damaged);
}

}  // namespace

void add_inspect(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<InspectOptions>();
  CLI::App* c = program.add_subcommand("inspect", "Show what is in a model file; check that it is whole");
  c->add_option("FILE", o->file, "The model file")->required();
  c->add_flag("--verify", o->verify, "Read all of it and check every byte (exit 7 where damaged)");
  c->add_flag("--tensors", o->tensors, "List the tensors");
  c->add_flag("--json", o->as_json, "Print JSON");
  c->callback([o, &selected] { selected = [o] { return inspect(*o); }; });
}

}  // namespace flexgen::tools

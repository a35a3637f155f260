// SPDX-License-Identifier: Apache-2.0
// Where the time went and what was moved (engine/flow_statistics.h), as a table for people and as JSON for programs.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "flexgen/base/bytes.h"
#include "flexgen/engine/flow_statistics.h"

namespace flexgen::tools {

inline bool shares_products(const FlowStatistics& f) { return f.products.library + f.products.few_tokens + f.products.unfit > 0; }

// Times in seconds, sizes in bytes:
//   sweep_seconds    the sweeps took; all other times lie within
//   stages           compute, verify, disk_read, disk_write, disk (either), and with a card link_in (to it) and link_out: busy_seconds,
//                      busy_share; what each waited for, waited_seconds:
//                      compute for disk (a read), verify (hashes) and slot (memory that was still being written);
//                      disk for compute: nothing was in flight, as all memory for reading ahead was full
//   bytes            weights, kv_cache, activations: used from memory and from disk, written to disk
//   bytes_in_flight  mean, while the disk was busy
//   products         with --gemm cublaslt: launches of matrix products by cublaslt, and by our own kernels: few_tokens, for which these are,
//                      and unfit, which the library does not take
//   share_of_roof    the largest of the busy shares of disk, link and compute; roof says whose
inline nlohmann::ordered_json to_json(const FlowStatistics& f) {
  using Object = nlohmann::ordered_json;
  const auto stage = [&](double busy_s) { return Object{{"busy_seconds", busy_s}, {"busy_share", f.share(busy_s)}}; };
  const auto tiers = [](const FlowStatistics::Tiers& t) { return Object{{"memory", t.memory}, {"disk", t.disk}, {"written", t.written}}; };
  Object compute = stage(f.compute_s), read = stage(f.read_s), write = stage(f.write_s), disk = stage(f.disk_s);
  compute["waited_seconds"] = Object{{"disk", f.wait_disk_s}, {"verify", f.verify_s}, {"slot", f.wait_slot_s}};
  disk["waited_seconds"] = Object{{"compute", f.disk_idle_s()}};
  read["bytes"] = f.bytes_read;
  write["bytes"] = f.bytes_written;
  Object stages{{"compute", compute}, {"verify", stage(f.verify_s)}, {"disk_read", read}, {"disk_write", write}, {"disk", disk}};
  if (f.link_in_bytes + f.link_out_bytes > 0) {
    stages["link_in"] = stage(f.link_in_s), stages["link_in"]["bytes"] = f.link_in_bytes;
    stages["link_out"] = stage(f.link_out_s), stages["link_out"]["bytes"] = f.link_out_bytes;
  }
  Object all{{"sweep_seconds", f.elapsed_s},
             {"stages", stages},
             {"bytes", Object{{"weights", tiers(f.weights)}, {"kv_cache", tiers(f.cache)}, {"activations", tiers(f.activations)}}},
             {"bytes_in_flight", f.disk_s > 0 ? f.byte_seconds / f.disk_s : 0},
             {"short_transfers", f.short_transfers},
             {"retries", f.retries},
             {"read_again_damaged", f.reread},
             {"share_of_roof", f.share_of_roof()},
             {"roof", f.roof()}};
  if (shares_products(f))
    all["products"] = Object{{"cublaslt", f.products.library}, {"few_tokens", f.products.few_tokens}, {"unfit", f.products.unfit}};
  return all;
}

// Ends with a newline
inline std::string table(const FlowStatistics& f) {
  std::string out = fmt::format("  {:<18} {:>9} {:>7}   {}\n", "stage", "busy s", "share", "waited");
  const auto stage = [&](std::string_view name, double busy_s, const std::string& rest) {
    std::string line = fmt::format("  {:<18} {:>9.2f} {:>6.1f}%   {}", name, busy_s, 100 * f.share(busy_s), rest);
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  const auto bytes = [](uint64_t n, double s) {
    return n == 0 ? "" : fmt::format("{}{}", format_bytes(n), s > 0 ? fmt::format(", {:.2f} GB/s", static_cast<double>(n) / s * 1e-9) : "");
  };
  stage("compute", f.compute_s, fmt::format("{:.2f} s for disk, {:.2f} s for verify, {:.2f} s for slots", f.wait_disk_s, f.verify_s, f.wait_slot_s));
  if (f.verify_s > 0) stage("verify", f.verify_s, "");
  if (f.bytes_read > 0) stage("disk read", f.read_s, bytes(f.bytes_read, f.read_s));
  if (f.bytes_written > 0) stage("disk write", f.write_s, bytes(f.bytes_written, f.write_s));
  if (f.disk_s > 0)
    stage("disk", f.disk_s,
          fmt::format("{:.2f} s for compute; {} in flight", f.disk_idle_s(), format_bytes(static_cast<uint64_t>(f.byte_seconds / f.disk_s))));
  if (f.link_in_bytes > 0) stage("to the card", f.link_in_s, bytes(f.link_in_bytes, f.link_in_s));
  if (f.link_out_bytes > 0) stage("from the card", f.link_out_s, bytes(f.link_out_bytes, f.link_out_s));
  const auto tiers = [&](std::string_view name, const FlowStatistics::Tiers& t) {
    out += fmt::format("  {:<18} {} from memory, {} from disk{}\n", name, format_bytes(t.memory), format_bytes(t.disk),
                       t.written > 0 ? fmt::format(", {} to disk", format_bytes(t.written)) : "");
  };
  tiers("weights", f.weights);
  tiers("KV cache", f.cache);
  tiers("activations", f.activations);
  if (shares_products(f))
    out += fmt::format("  {:<18} {} by cuBLASLt; by own kernels {} of few tokens, {} that do not fit it\n", "matrix products",
                       with_commas(f.products.library), with_commas(f.products.few_tokens), with_commas(f.products.unfit));
  if (f.retries + f.short_transfers + f.reread > 0)
    out += fmt::format("  {:<18} {} short transfers, {} retries, {} read again for their hash\n", "disk trouble", f.short_transfers, f.retries,
                       f.reread);
  out += fmt::format("  {:<18} {:.1f}%: {} was busy that share of {:.2f} s of sweeps\n", "of the roof", 100 * f.share_of_roof(),
                     f.roof() == std::string_view("disk") ? "the disk" : f.roof() == std::string_view("link") ? "the link to the card" : "computing",
                     f.elapsed_s);
  return out;
}

}  // namespace flexgen::tools

// SPDX-License-Identifier: Apache-2.0
// See requests.h.
#include "kernels/emu/requests.h"

#include <algorithm>
#include <bit>

namespace flexgen::emu {
namespace {
constexpr uint32_t kBanks = 32, kWordBytes = 4, kSectorBytes = 32, kFullWarp = 0xFFFFFFFFu;

uint32_t lanes_of_a_pass(const Request& r) { return r.bytes <= 4 ? 32 : r.bytes <= 8 ? 16 : 8; }
}  // namespace

uint32_t passes(const Request& r) {
  uint32_t total = 0;
  const uint32_t step = lanes_of_a_pass(r);
  for (uint32_t first = 0; first < 32; first += step) {
    std::array<std::vector<uintptr_t>, kBanks> words;  // distinct ones of each bank
    size_t most = 0;
    for (uint32_t lane = first; lane < first + step; ++lane) {
      if ((r.lanes >> lane & 1) == 0) continue;
      for (uintptr_t word = r.addresses[lane] / kWordBytes; word * kWordBytes < r.addresses[lane] + r.bytes; ++word) {
        auto& bank = words[word % kBanks];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        most = std::max(most, bank.size());
      }
    }
    total += static_cast<uint32_t>(most);
  }
  return total;
}

uint32_t fewest_passes(const Request& r) {
  uint32_t total = 0;
  const uint32_t step = lanes_of_a_pass(r);
  for (uint32_t first = 0; first < 32; first += step) {
    const uint32_t group = step == 32 ? kFullWarp : ((1u << step) - 1) << first;
    total += (r.lanes & group) != 0;
  }
  return total;
}

uint32_t sectors(const Request& r) {
  std::vector<uintptr_t> touched;
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if ((r.lanes >> lane & 1) == 0) continue;
    for (uintptr_t s = r.addresses[lane] / kSectorBytes; s * kSectorBytes < r.addresses[lane] + r.bytes; ++s) touched.push_back(s);
  }
  std::sort(touched.begin(), touched.end());
  return static_cast<uint32_t>(std::unique(touched.begin(), touched.end()) - touched.begin());
}

void RequestCounter::begin_block() {
  instructions_.clear();
  statistics_ = {};
  traffic_.clear();
}

void RequestCounter::shared(uint32_t thread, uint64_t site, bool write, size_t offset, size_t bytes) {
  access(thread, site, write, kShared, offset, bytes);
}

void RequestCounter::global(uint32_t thread, uint64_t site, bool write, size_t buffer, uintptr_t address, size_t bytes) {
  access(thread, site, write, buffer, address, bytes);
}

void RequestCounter::access(uint32_t thread, uint64_t site, bool write, size_t buffer, uintptr_t address, size_t bytes) {
  const uint32_t lane = thread % 32;
  uint64_t key = site * 0x9E3779B97F4A7C15u;
  for (const uint64_t part : {uint64_t{thread / 32}, uint64_t{buffer}, uint64_t{write}, uint64_t{bytes}})
    key = (std::rotl(key, 23) ^ part) * 0xBF58476D1CE4E5B9u;
  Instruction& instruction = instructions_[key];
  instruction.buffer = buffer;
  instruction.write = write;
  const uint32_t at = instruction.repetitions[lane]++ - instruction.tallied;
  while (instruction.open.size() <= at) instruction.open.emplace_back();
  Request& request = instruction.open[at];
  request.bytes = static_cast<uint32_t>(bytes);
  request.lanes |= 1u << lane;
  request.addresses[lane] = address;
  while (!instruction.open.empty() && instruction.open.front().lanes == kFullWarp) {
    tally(instruction, instruction.open.front());
    instruction.open.pop_front();
    ++instruction.tallied;
  }
}

void RequestCounter::tally(const Instruction& instruction, const Request& request) {
  if (instruction.buffer == kShared) {
    ++statistics_.shared_requests;
    statistics_.shared_conflicts += passes(request) - fewest_passes(request);
    return;
  }
  const uint64_t n = sectors(request), bytes = uint64_t{request.bytes} * static_cast<uint64_t>(std::popcount(request.lanes));
  ++statistics_.global_requests;
  statistics_.global_sectors += n;
  if (traffic_.size() <= instruction.buffer) traffic_.resize(instruction.buffer + 1);
  Traffic& t = traffic_[instruction.buffer];
  ++(instruction.write ? t.writes : t.reads);
  (instruction.write ? t.sectors_written : t.sectors_read) += n;
  (instruction.write ? t.bytes_written : t.bytes_read) += bytes;
}

void RequestCounter::finish(Statistics& statistics, std::vector<Traffic>& traffic) {
  for (const auto& [key, instruction] : instructions_)
    for (const Request& request : instruction.open) tally(instruction, request);
  instructions_.clear();
  statistics += statistics_;
  if (traffic.size() < traffic_.size()) traffic.resize(traffic_.size());
  for (size_t i = 0; i < traffic_.size(); ++i) traffic[i] += traffic_[i];
}

}  // namespace flexgen::emu

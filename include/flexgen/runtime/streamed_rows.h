// SPDX-License-Identifier: Apache-2.0
// Single rows of a matrix over memory and disk, for embeddings: a few rows of a large table, which no sweep streams.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "flexgen/runtime/block_reader.h"
#include "flexgen/tensor/view.h"

namespace flexgen {

// thread: one at a time
class StreamedRows {
 public:
  // memory: bytes() of it, 4 KiB aligned, the caller's; with a device of that, where rows of whole blocks are copied on `stream`.
  // slot_bytes: of the largest block. The reader outlives this.
  StreamedRows(BlockReader& reader, std::span<std::byte> memory, size_t slot_bytes, Device::Stream stream)
      : reader_(reader), memory_(memory), slot_bytes_(slot_bytes), stream_(stream) {}

  // What gather needs for n_rows different rows of t, and blocks that are read as a whole to be verified
  static size_t bytes(const FileTensor& t, int64_t n_rows, size_t slot_bytes) {
    return static_cast<size_t>(std::min(n_rows, t.shape[0])) * row_stride(t) + kBlocksAtOnce * slot_bytes;
  }

  // A view of t's rows, good until the next call. Those that are not resident come to the memory, one after the other; a block that was
  // never hashed is read as a whole. blocks: of t, with the addresses of resident ones
  std::span<const RowBlock> gather(const FileTensor& t, std::span<const RowBlock> blocks, std::span<const int32_t> rows) {
    wanted_.assign(rows.begin(), rows.end());
    std::sort(wanted_.begin(), wanted_.end());
    wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
    const size_t stride = row_stride(t), slot = slot_bytes_;
    FG_CHECK(memory_.size() >= wanted_.size() * stride + kBlocksAtOnce * slot, "{} bytes for {} rows", memory_.size(), wanted_.size());
    std::byte* const whole = memory_.data() + memory_.size() / 4096 * 4096 - kBlocksAtOnce * slot;

    // each row's place: in memory, or in its stretch of memory_
    view_.clear();
    std::vector<size_t> whole_blocks;
    while (tickets_.size() < wanted_.size()) tickets_.emplace_back();
    requests_.clear();
    std::vector<std::pair<size_t, size_t>> reading;  // (block, ticket)
    for (size_t i = 0; i < wanted_.size(); ++i) {
      const int64_t row = wanted_[i];
      const auto k = static_cast<size_t>(row / t.rows_per_block);
      const size_t b = t.first_block + k;
      const uint64_t in_block = static_cast<uint64_t>(row - blocks[k].first_row) * t.row_bytes();
      if (reader_.resident(b)) {
        view_.push_back({blocks[k].data + in_block, row, 1});
        continue;
      }
      std::byte* const place = memory_.data() + i * stride;
      if (reader_.must_verify(b)) {
        if (whole_blocks.empty() || whole_blocks.back() != b) whole_blocks.push_back(b);
        view_.push_back({place, row, 1});
        continue;
      }
      const uint64_t offset = reader_.file().blocks()[b].offset + in_block, start = offset / 4096 * 4096;
      const size_t bytes = round_up<size_t>(offset - start + t.row_bytes(), 4096);
      view_.push_back({place + (offset - start), row, 1});
      requests_.push_back(reader_.request_bytes(start, place, bytes, tickets_[i], "rows"));
      reader_.statistics().streamed_bytes += bytes;
      reading.emplace_back(b, i);
    }
    const Awaited awaited(tickets_);
    if (!requests_.empty()) reader_.submit(requests_);
    reader_.wait([&] {
      for (const auto& [block, i] : reading) reader_.check(block, tickets_[i].wait());
    }, [&] { return std::all_of(reading.begin(), reading.end(), [&](const auto& r) { return tickets_[r.second].done(); }); });

    size_t next_row = 0;
    for (size_t first = 0; first < whole_blocks.size(); first += kBlocksAtOnce) {
      const size_t n = std::min(kBlocksAtOnce, whole_blocks.size() - first);
      std::array<IoTicket, kBlocksAtOnce> tickets;
      std::array<uint64_t, kBlocksAtOnce> hashes{};
      requests_.clear();
      for (size_t i = 0; i < n; ++i) {
        requests_.push_back(reader_.request(whole_blocks[first + i], whole + i * slot, tickets[i], hashes[i]));
        reader_.statistics().streamed_bytes += requests_.back().bytes;
      }
      const Awaited these(tickets);
      reader_.submit(requests_);
      reader_.wait(
          [&] {
            for (size_t i = 0; i < n; ++i) reader_.check(whole_blocks[first + i], tickets[i].wait());
          },
          [&] {
            return std::all_of(tickets.begin(), tickets.begin() + static_cast<std::ptrdiff_t>(n),
                               [](const IoTicket& ticket) { return ticket.done(); });
          });
      verify_list_.clear();
      for (size_t i = 0; i < n; ++i) verify_list_.push_back({whole_blocks[first + i], whole + i * slot, &tickets[i], &hashes[i]});
      reader_.verify(verify_list_);
      for (size_t i = 0; i < n; ++i)
        for (; next_row < wanted_.size(); ++next_row) {
          const auto k = static_cast<size_t>(wanted_[next_row] / t.rows_per_block);
          const size_t b = t.first_block + k;
          if (b > whole_blocks[first + i]) break;
          if (b < whole_blocks[first + i] || reader_.resident(b)) continue;
          move_row(memory_.data() + next_row * stride,
                   whole + i * slot + static_cast<uint64_t>(wanted_[next_row] - blocks[k].first_row) * t.row_bytes(), t.row_bytes());
        }
    }
    return view_;
  }

 private:
  static constexpr size_t kBlocksAtOnce = 4;

  // room for the 4 KiB pages around a row, wherever it begins
  static size_t row_stride(const FileTensor& t) { return round_up<size_t>(t.row_bytes(), 4096) + 4096; }

  void move_row(std::byte* to, const std::byte* from, size_t bytes) {
    if (reader_.device()) return reader_.device()->copy(to, from, bytes, stream_);
    std::memcpy(to, from, bytes);
  }

  BlockReader& reader_;
  const std::span<std::byte> memory_;
  const size_t slot_bytes_;
  const Device::Stream stream_;

  std::vector<int32_t> wanted_;
  std::vector<RowBlock> view_;
  std::deque<IoTicket> tickets_;
  std::vector<BlockReader::Arrived> verify_list_;  // scratch
  std::vector<IoRequest> requests_;
};

}  // namespace flexgen

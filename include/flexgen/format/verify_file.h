// SPDX-License-Identifier: Apache-2.0
// Reads a whole model file at disk speed and holds every byte against what was written: blocks against their hashes, everything between
// them against zero. (Header, JSON, index and table were checked when it was opened.)
#pragma once

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "flexgen/base/thread_pool.h"
#include "flexgen/format/model_file.h"
#include "flexgen/io/direct_reader.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

struct VerifyOptions {
  int workers = 4;                              // blocking readers
  const std::atomic<bool>* stop = nullptr;      // set: Fault::interrupted
  std::atomic<uint64_t>* done_bytes = nullptr;  // grows to the file's size
};

// What is damaged, one message each, in file order; empty where nothing is. A file that cannot be read is a Fault::io.
inline std::vector<std::string> find_damage(const ModelFile& model, const VerifyOptions& options = {}) {
  struct Piece {
    uint64_t offset, bytes;
    size_t block;  // or kGap
  };
  constexpr size_t kGap = SIZE_MAX;
  constexpr uint64_t kPiece = 2_MiB;
  std::vector<Piece> pieces;
  uint64_t largest = 0;
  for (size_t i = 0; i < model.blocks().size(); ++i) pieces.push_back({model.blocks()[i].offset, model.blocks()[i].bytes, i});
  for (const auto& [offset, bytes] : model.gaps())
    for (uint64_t at = 0; at < bytes; at += kPiece) pieces.push_back({offset + at, std::min(kPiece, bytes - at), kGap});
  for (const Piece& p : pieces) largest = std::max(largest, p.bytes);
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.offset < b.offset; });

  const DirectReader reader(model.file());
  ThreadPool pool(options.workers);
  std::vector<Buffer> buffers;
  for (int i = 0; i < pool.size(); ++i) buffers.emplace_back(DirectReader::buffer_bytes(largest));
  std::mutex mutex;
  std::vector<std::pair<uint64_t, std::string>> damage;
  if (options.done_bytes && !pieces.empty()) options.done_bytes->fetch_add(pieces[0].offset);  // header and tables, read when it was opened
  pool.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i, int worker) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    const std::string& path = model.file().path();
    if (options.stop && options.stop->load(std::memory_order_relaxed))
      fail(Fault::interrupted, "{}: interrupted before all of it was verified", path);
    std::string message;
    try {
      const auto bytes = reader.read(piece.offset, piece.bytes, buffers[static_cast<size_t>(worker)]);
      if (piece.block != kGap) {
        model.verify_block(piece.block, bytes);
      } else if (const auto bad = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0}; }); bad != bytes.end()) {
        message = fmt::format("{}: padding damaged: byte {} of the file: found {:#04x}, expected 0. Copy or convert it again", path,
                              piece.offset + static_cast<uint64_t>(bad - bytes.begin()), std::to_integer<int>(*bad));
      }
    } catch (const Error& e) {
      if (e.fault() != Fault::damaged) throw;
      message = e.what();
    }
    if (!message.empty()) {
      std::lock_guard lock(mutex);
      damage.emplace_back(piece.offset, std::move(message));
    }
    if (options.done_bytes) options.done_bytes->fetch_add(piece.bytes, std::memory_order_relaxed);
  });
  std::sort(damage.begin(), damage.end());
  std::vector<std::string> messages;
  for (auto& [offset, message] : damage) messages.push_back(std::move(message));
  return messages;
}

}  // namespace flexgen

// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/foreign.h"

#include "flexgen/format/safetensors.h"
#include "flexgen/format/torch.h"
#include "support/errors.h"
#include "support/memory_file.h"

using namespace flexgen;
using testing::memory_file;

TEST_CASE("what is no checkpoint is called by its name", "[format]") {
  struct Case {
    std::string bytes, message;
  };
  const std::string tar = std::string(257, '\0') + "ustar" + std::string(250, '\0');
  const Case cases[] = {
      {"", "w.bin: file is empty (0 bytes), allowed a checkpoint. Download or copy it again"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13317\n",
       "w.bin: found a Git LFS pointer, allowed weights. Run git lfs pull"},
      {"<!DOCTYPE html><html>", "w.bin: found a web page, allowed weights. The download was answered with a page"},
      {"\n <HTML><head>", "w.bin: found a web page, allowed weights"},
      {"\xEF\xBB\xBF<?xml version=\"1.0\"?><Error>", "w.bin: found a web page, allowed weights"},
      {std::string("GGUF\3\0\0\0", 8), "w.bin: found a GGUF file, allowed a PyTorch .bin or a .safetensors file"},
      {"\x89HDF\r\n\x1a\n", "w.bin: found an HDF5 file (TensorFlow or Keras), allowed a PyTorch .bin"},
      {"\x93NUMPY\x01", "w.bin: found a NumPy array, allowed a PyTorch .bin"},
      {"\x1F\x8B\x08", "w.bin: found a gzip archive, allowed a PyTorch .bin"},
      {"BZh91AY", "w.bin: found a bzip2 archive, allowed a PyTorch .bin"},
      {tar, "w.bin: found a tar archive (PyTorch wrote these before 0.2; load and save the checkpoint with a newer one), allowed"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    CHECK_FAULT(read_torch(memory_file(c.bytes, "w.bin"), 0), Fault::checkpoint, c.message);
    CHECK_FAULT(read_safetensors(memory_file(c.bytes, "w.bin"), 0), Fault::checkpoint, c.message);
  }
}

// SPDX-License-Identifier: Apache-2.0
// What gpu_check does, in the order in which it is done: what matters most comes first, since time may run out.
#pragma once

#include <string>
#include <vector>

#include "bench/gpu/session.h"

namespace flexgen::bench {

std::vector<Job> ceiling_jobs(Scale);
std::vector<Job> case_jobs();             // the cases of tests/cuda
std::vector<Job> large_check_jobs(Scale); // shapes whose reference is computed on the card
std::vector<Job> linear_jobs(Scale);      // what is chosen, beside cuBLASLt
std::vector<Job> attention_jobs(Scale);
std::vector<Job> other_jobs(Scale);       // layer norm, KV append, embedding, argmax
std::vector<Job> variant_jobs(Scale);     // what the other kernels of the linear layer's table would have given

std::vector<Job> all_jobs(Scale);

}  // namespace flexgen::bench

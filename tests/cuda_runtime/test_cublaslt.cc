// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/runtime/cublaslt.h"

#include <cuda_runtime_api.h>

#include "support/catch.h"

using namespace flexgen;
using namespace flexgen::cuda;

TEST_CASE("cuBLASLt that is not there is a line that says so", "[cuda]") {
  std::string why_not;
  const char* const missing[] = {"libflexgen-no-such-library.so.1"};
  CHECK(CublasLt::open(why_not, missing) == nullptr);
  if (why_not == "built without cublasLt.h") return;
  CHECK_THAT(why_not, Catch::Contains("libflexgen-no-such-library.so.1"));
  CHECK_THAT(why_not, !Catch::Contains("\n"));
  const char* const both[] = {"libflexgen-no-such-library.so.1", "libm.so.6"};
  CHECK(CublasLt::open(why_not, both) == nullptr);
  CHECK_THAT(why_not, Catch::Contains("libflexgen-no-such-library.so.1") && Catch::Contains("; libm.so.6 has no cublasLtCreate"));
}

TEST_CASE("cuBLASLt has a version and names for its errors, and without a card multiplies nothing", "[cuda]") {
  std::string why_not = "before";
  const std::unique_ptr<CublasLt> lt = CublasLt::open(why_not);
  if (!lt) {
    WARN("skipped: " << why_not);
    return;
  }
  CHECK(why_not.empty());
  const std::string version = lt->version();
  CHECK((version.substr(0, 3) == "12." || version.substr(0, 3) == "13."));
  CHECK(lt->error(15) == "CUBLAS_STATUS_NOT_SUPPORTED");
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return;  // bench/gpu multiplies on a card
  const int status = lt->multiply({nullptr, nullptr, nullptr, 64, 64, 16, 64, 64, DType::f16}, {}, nullptr);
  CHECK(status != 0);
  CHECK_THAT(lt->error(status), Catch::StartsWith("CUBLAS_STATUS_"));
}

// SPDX-License-Identifier: Apache-2.0
// What fuzz targets share. A target is a file with libFuzzer's entry point, LLVMFuzzerTestOneInput; it aborts when a
// property does not hold. Linked with libFuzzer (preset `fuzz`) or with driver.cc, which mutates the seeds by itself.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "libs/catalog/model.h"

namespace mainstay::fuzz {

// Inputs that got past the parser: the driver wants some, or it tests nothing but refusals.
inline int64_t accepted = 0;

#define FUZZ_REQUIRE(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

// A resource `rows` with a field of every type, arrays too, a hidden one, and a list of `children`.
catalog::Model EveryType();

}  // namespace mainstay::fuzz

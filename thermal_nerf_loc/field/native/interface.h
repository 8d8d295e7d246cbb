// SPDX-License-Identifier: Apache-2.0
// What Python hands over (ctypes structures of `library.py`: same fields, same order).
#pragma once

#include <cstdint>

// Raised with every change of a structure or a function that Python calls; `library.VERSION` too.
#define NATIVE_VERSION 1
#define NATIVE_EXPORT __attribute__((visibility("default")))

namespace native {

// The hash grid; see `kernels/grid_levels.py`.
struct Grid {
  const float* table;          // (rows, features)
  const int64_t* offsets;      // (levels + 1)
  const float* scales;         // (levels)
  const int64_t* resolutions;  // (levels)
  const uint8_t* dense;        // (levels)
  int32_t levels, features;
};

// The density grid and how rays are cut into intervals; see `kernels/ray_sampling.py`.
struct Cells {
  const float* densities;  // (cells^3)
  float center[3], inverse_half[3];
  float near, middle, far;
  int32_t cells, bins;
};

// A chain of layers with ReLU between them; weights as torch has them, (outputs, inputs).
struct Layer {
  const float* weight;
  const float* bias;
  int32_t inputs, outputs;
};

}  // namespace native

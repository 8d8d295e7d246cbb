// SPDX-License-Identifier: Apache-2.0
// What Python hands over (ctypes structures of `library.py`: same fields, same order).
#pragma once

#include <cstdint>

// Raised with every change of a structure or a function that Python calls; `library.VERSION` too.
#define NATIVE_VERSION 2
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

// The density grid, its contracted space, and how rays are cut; see `kernels/ray_sampling.py`.
struct Cells {
  const float* densities;  // (cells^3)
  float center[3], inverse_half[3];
  float near_m, middle_m, far_m;
  int32_t cells, bins;
};

// One layer, its weights packed for row-wise products: (inputs, padded), with `padded` a multiple
// of 16 and zeros beyond `outputs`; bias (padded).
struct Layer {
  const float* weight;
  const float* bias;
  int32_t inputs, outputs, padded;
};

// What a branch needs beside the grids.
struct Networks {
  Layer density[2];
  Layer branch[3];
  Layer direction;  // part of branch[0] that reads the 9 harmonics; no inputs: it does not
  int32_t layers;   // of the branch: 2 or 3
  float bias, inverse_scale;  // density = exp(log density + bias) / scale
  float negligible;           // samples of less weight do not count
};

struct Rays {
  const float* origins;     // (rays, 3)
  const float* directions;  // (rays, 3)
  int64_t rays;
  int32_t samples;
};

}  // namespace native

// SPDX-License-Identifier: Apache-2.0
// Backward passes of layers, of the hash grid and of the contraction of space.
#pragma once

#include <cmath>
#include <cstring>

#include "encoding.h"
#include "interface.h"
#include "layers.h"
#include "vector.h"

namespace native {

// One tile of `outer`: INPUTS x VECTORS sums stay in registers while all rows go by.
template <int INPUTS, int VECTORS>
NATIVE_INLINE void outer_tile(const float* x, int x_stride, const float* pull, int pull_stride,
                              float* sums, int stride) {
  vf held[INPUTS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < INPUTS; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) held[i][v] = load(sums + i * stride + v * kLanes);
  }
  for (int r = 0; r < kRows; ++r) {
    vf p[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) p[v] = load(pull + r * pull_stride + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < INPUTS; ++i) {
      const vf input = all(x[r * x_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) held[i][v] = fma(input, p[v], held[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < INPUTS; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(sums + i * stride + v * kLanes, held[i][v]);
  }
}

// sums (inputs, outputs) += x^T (inputs, kRows) pull (kRows, outputs); widths are padded to 16.
inline void outer(const float* x, int x_stride, int inputs, const float* pull, int pull_stride,
                  int outputs, float* sums) {
  constexpr int kInputs = kLanes == 16 ? 8 : 4;
  for (int i = 0; i < inputs; i += kInputs) {
    int o = 0;
    for (; o + 2 * kLanes <= outputs; o += 2 * kLanes) {
      outer_tile<kInputs, 2>(x + i, x_stride, pull + o, pull_stride, sums + i * outputs + o,
                             outputs);
    }
    for (; o < outputs; o += kLanes) {
      outer_tile<kInputs, 1>(x + i, x_stride, pull + o, pull_stride, sums + i * outputs + o,
                             outputs);
    }
  }
}

// sums (width) += the rows of pull (kRows, width).
inline void add_rows(const float* pull, int width, float* sums) {
  for (int i = 0; i < width; i += kLanes) {
    vf total = load(sums + i);
    for (int r = 0; r < kRows; ++r) total += load(pull + r * width + i);
    store(sums + i, total);
  }
}

// Add d(loss)/d(table) of one level to `out`, as far as its rows belong to this part.
template <int FEATURES>
void table_gradient(const Grid& grid, int l, int part, int parts, const float* x, const float* y,
                    const float* z, int count, const float* pull, int stride, float* out) {
  using row = typename Row<FEATURES>::type;
  const Level level(grid, l);
  float* base = out + grid.offsets[l] * FEATURES;
  const int64_t first_row = static_cast<int64_t>(level.count) * part / parts;
  const int64_t end_row = static_cast<int64_t>(level.count) * (part + 1) / parts;
  CellsOf found;
  for (int first = 0; first < count; first += kLanes) {
    find_cells(level, x + first, y + first, z + first, found);
    const int lanes = count - first < kLanes ? count - first : kLanes;
    for (int lane = 0; lane < lanes; ++lane) {
      const row p = *reinterpret_cast<const row*>(
          pull + static_cast<int64_t>(first + lane) * stride + l * FEATURES);
      const float dx = found.x[lane], dy = found.y[lane], dz = found.z[lane];
      const row right = dx * p, left = p - right;
      const row low[2] = {left - dy * left, right - dy * right};
      const row high[2] = {dy * left, dy * right};
#pragma GCC unroll 8
      for (int corner = 0; corner < 8; ++corner) {
        const int32_t at = found.row[corner][lane];
        if (parts > 1 && (at < first_row || at >= end_row)) continue;
        const row plane = corner & 2 ? high[corner & 1] : low[corner & 1];
        row* target = reinterpret_cast<row*>(base + static_cast<int64_t>(at) * FEATURES);
        *target += corner & 4 ? dz * plane : plane - dz * plane;
      }
    }
  }
}

inline void table_gradient(const Grid& grid, int level, int part, int parts, const float* x,
                           const float* y, const float* z, int count, const float* pull,
                           int stride, float* out) {
  const auto call = [&](auto width) {
    table_gradient<decltype(width)::value>(grid, level, part, parts, x, y, z, count, pull, stride,
                                           out);
  };
  switch (grid.features) {
    case 2: return call(std::integral_constant<int, 2>());
    case 4: return call(std::integral_constant<int, 4>());
    case 8: return call(std::integral_constant<int, 8>());
  }
}

// Add d(loss)/d(position) in [0, 1]^3 to `out`: the derivative of trilinear interpolation.
inline void position_gradient(const Grid& grid, const float* x, const float* y, const float* z,
                              int count, const float* pull, int stride, float* const out[3]) {
  CellsOf found;
  const int width = grid.features;
  for (int l = 0; l < grid.levels; ++l) {
    const Level level(grid, l);
    for (int first = 0; first < count; first += kLanes) {
      find_cells(level, x + first, y + first, z + first, found);
      for (int lane = 0; lane < kLanes; ++lane) {
        const float* p = pull + static_cast<int64_t>(first + lane) * stride + l * width;
        float dot[8];
        for (int corner = 0; corner < 8; ++corner) {
          const float* row = level.rows + static_cast<int64_t>(found.row[corner][lane]) * width;
          dot[corner] = 0.0f;
          for (int f = 0; f < width; ++f) dot[corner] += p[f] * row[f];
        }
        const float dx = found.x[lane], dy = found.y[lane], dz = found.z[lane];
        const float ex = 1.0f - dx, ey = 1.0f - dy, ez = 1.0f - dz;
        out[0][first + lane] += level.scale * (
            ez * (ey * (dot[1] - dot[0]) + dy * (dot[3] - dot[2]))
            + dz * (ey * (dot[5] - dot[4]) + dy * (dot[7] - dot[6])));
        out[1][first + lane] += level.scale * (
            ez * (ex * (dot[2] - dot[0]) + dx * (dot[3] - dot[1]))
            + dz * (ex * (dot[6] - dot[4]) + dx * (dot[7] - dot[5])));
        out[2][first + lane] += level.scale * (
            ey * (ex * (dot[4] - dot[0]) + dx * (dot[5] - dot[1]))
            + dy * (ex * (dot[6] - dot[2]) + dx * (dot[7] - dot[3])));
      }
    }
  }
}

// From the gradient g of the contracted point to that of u, in place; see `contraction.py`.
inline void contraction_gradient(const float* u, float* g) {
  int axis = 0;
  for (int a = 1; a < 3; ++a) {
    if (std::fabs(u[a]) > std::fabs(u[axis])) axis = a;
  }
  const float m = std::fabs(u[axis]);
  if (m <= 1.0f) {
    for (int a = 0; a < 3; ++a) g[a] *= 0.25f;
    return;
  }
  const float inverse = 1.0f / m, along = g[0] * u[0] + g[1] * u[1] + g[2] * u[2];
  const float slope = 2.0f * (inverse - 1.0f) * inverse * inverse;  // d/dm of (2 - 1/m) / m
  for (int a = 0; a < 3; ++a) g[a] *= 0.25f * (2.0f - inverse) * inverse;
  g[axis] += 0.25f * slope * along * (u[axis] > 0.0f ? 1.0f : -1.0f);
}

}  // namespace native

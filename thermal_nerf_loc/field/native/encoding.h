// SPDX-License-Identifier: Apache-2.0
// The hash grid; equations: `kernels/grid_levels.py` and `kernels/hash_grid.py`.
//
// Rows of the table are found for a vector of points at once, and read one point after the other:
// a row is one load, where gathering its features would be one load each.
#pragma once

#include <cstring>

#include "interface.h"
#include "vector.h"

namespace native {

// One level of the grid.
struct Level {
  const float* rows;
  float scale;
  int32_t resolution, count;
  bool dense;

  Level(const Grid& grid, int level)
      : rows(grid.table + grid.offsets[level] * grid.features),
        scale(grid.scales[level]),
        resolution(static_cast<int32_t>(grid.resolutions[level])),
        count(static_cast<int32_t>(grid.offsets[level + 1] - grid.offsets[level])),
        dense(grid.dense[level] != 0) {}
};

// The cells of kLanes points on one level: rows of the corners (bit 0 is x, bit 1 y, bit 2 z) and
// the position inside.
struct CellsOf {
  alignas(64) int32_t row[8][kLanes];
  alignas(64) float x[kLanes], y[kLanes], z[kLanes];
};

NATIVE_INLINE vi locate(vf value, vf scale, float* inside) {
  const vf position = fma(min(max(value, zero()), all(1.0f)), scale, all(0.5f));
  const vi cell = truncate(position);
  store(inside, position - to_float(cell));
  return cell;
}

NATIVE_INLINE void find_cells(const Level& level, const float* x, const float* y, const float* z,
                              CellsOf& found) {
  const vf scale = all(level.scale);
  const vi ix = locate(load(x), scale, found.x);
  const vi iy = locate(load(y), scale, found.y);
  const vi iz = locate(load(z), scale, found.z);
  if (level.dense) {
    const vi line = all_int(level.resolution), count = all_int(level.count);
    const vi first = ix + line * (iy + line * iz);
    const vi plane = all_int(level.resolution * level.resolution);
    const vi one = all_int(1);
#pragma GCC unroll 8
    for (int corner = 0; corner < 8; ++corner) {
      vi row = first;
      if (corner & 1) row += one;
      if (corner & 2) row += line;
      if (corner & 4) row += plane;
      store_int(found.row[corner], row - (count & (vi)(row >= count)));  // modulo, no branch
    }
  } else {
    const vu prime_y = (vu)all_int(static_cast<int32_t>(2654435761u));
    const vu prime_z = (vu)all_int(805459861);
    const vu mask = (vu)all_int(level.count - 1), one = (vu)all_int(1);
    const vu hx[2] = {(vu)ix, (vu)ix + one};
    const vu y0 = (vu)iy * prime_y, z0 = (vu)iz * prime_z;
    const vu hy[2] = {y0, y0 + prime_y}, hz[2] = {z0, z0 + prime_z};
#pragma GCC unroll 8
    for (int corner = 0; corner < 8; ++corner) {
      const vu mixed = hx[corner & 1] ^ hy[(corner >> 1) & 1] ^ hz[corner >> 2];
      store_int(found.row[corner], (vi)(mixed & mask));
    }
  }
}

template <int FEATURES>
struct Row {
  typedef float type __attribute__((vector_size(4 * FEATURES), aligned(4), may_alias));
};

// Features (padded count, stride) of points in [0, 1]^3; `count` is rounded up to kLanes, up to
// where x, y and z must hold numbers.
template <int FEATURES>
NATIVE_INLINE void encode(const Grid& grid, const float* x, const float* y, const float* z,
                          int count, float* out, int stride) {
  using row = typename Row<FEATURES>::type;
  CellsOf found;
  for (int l = 0; l < grid.levels; ++l) {
    const Level level(grid, l);
    for (int first = 0; first < count; first += kLanes) {
      find_cells(level, x + first, y + first, z + first, found);
      float* place = out + static_cast<int64_t>(first) * stride + l * FEATURES;
      for (int lane = 0; lane < kLanes; ++lane, place += stride) {
        const auto corner = [&](int c) {
          return *reinterpret_cast<const row*>(
              level.rows + static_cast<uint32_t>(found.row[c][lane]) * FEATURES);
        };
        const float dx = found.x[lane], dy = found.y[lane], dz = found.z[lane];
        row low = corner(0), high = corner(2);
        low += dx * (corner(1) - low);
        high += dx * (corner(3) - high);
        const row front = low + dy * (high - low);
        low = corner(4);
        high = corner(6);
        low += dx * (corner(5) - low);
        high += dx * (corner(7) - high);
        const row back = low + dy * (high - low);
        *reinterpret_cast<row*>(place) = front + dz * (back - front);
      }
    }
  }
}

inline void encode(const Grid& grid, const float* x, const float* y, const float* z, int count,
                   float* out, int stride) {
  switch (grid.features) {
    case 2: return encode<2>(grid, x, y, z, count, out, stride);
    case 4: return encode<4>(grid, x, y, z, count, out, stride);
    case 8: return encode<8>(grid, x, y, z, count, out, stride);
  }
}

}  // namespace native

// SPDX-License-Identifier: Apache-2.0
// Fully connected layers on rows of samples: vector lanes are outputs, inputs are broadcast.
//
// A tile of rows x outputs stays in registers while all inputs go by: per input a few loads of
// weights (in L1: at most 8 kB a network) and one broadcast a row, so that multiply-adds, not
// loads, are what the processor is busy with.
#pragma once

#include "interface.h"
#include "vector.h"

namespace native {

// Rows of a block that goes through all layers of a network: its hidden units fit in L1. A
// multiple of the rows of every tile.
constexpr int kRows = 48;

// One tile. `starts`: row r begins at `start + stride * index[r]` (a bias of its own for each
// ray), or at `start` where index is null.
template <int ROWS, int VECTORS, bool RELU>
NATIVE_INLINE void tile(const float* x, int x_stride, int inputs, const float* weight, int padded,
                        const float* start, int stride, const int32_t* index, float* y,
                        int y_stride) {
  vf sums[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    const float* from = index ? start + static_cast<int64_t>(stride) * index[r] : start;
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(from + v * kLanes);
  }
  for (int i = 0; i < inputs; ++i) {
    vf w[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) w[v] = load(weight + i * padded + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const vf input = all(x[r * x_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sums[r][v] = fma(input, w[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const vf sum = RELU ? max(sums[r][v], zero()) : sums[r][v];
      store(y + r * y_stride + v * kLanes, sum);
    }
  }
}

// y (kRows, padded) = x (kRows, inputs) W + b; see `tile` for the starts.
template <bool RELU>
NATIVE_INLINE void apply(const Layer& layer, const float* x, int x_stride, float* y,
                         const float* starts = nullptr, const int32_t* index = nullptr) {
  const int padded = layer.padded, inputs = layer.inputs;
  const float* start = index ? starts : layer.bias;
  const auto columns = [&](auto rows, auto vectors, int column) {
    constexpr int kTile = decltype(rows)::value, kVectors = decltype(vectors)::value;
    for (int r = 0; r < kRows; r += kTile) {
      tile<kTile, kVectors, RELU>(x + r * x_stride, x_stride, inputs, layer.weight + column,
                                  padded, start + column, padded, index ? index + r : nullptr,
                                  y + r * padded + column, padded);
    }
  };
  int column = 0;
  if (kLanes == 16) {
    for (; column + 64 <= padded; column += 64) {
      columns(std::integral_constant<int, 6>(), std::integral_constant<int, 4>(), column);
    }
    for (; column + 32 <= padded; column += 32) {
      columns(std::integral_constant<int, 12>(), std::integral_constant<int, 2>(), column);
    }
    for (; column < padded; column += 16) {
      columns(std::integral_constant<int, 12>(), std::integral_constant<int, 1>(), column);
    }
  } else {
    for (; column < padded; column += 16) {
      columns(std::integral_constant<int, 6>(), std::integral_constant<int, 2>(), column);
    }
  }
}

// The last layer of a branch has few outputs: products along its inputs. `weight` is
// (outputs, padded inputs) here, y (rows, outputs).
NATIVE_INLINE void apply_narrow(const Layer& layer, const float* x, int x_stride, int rows,
                                float* y) {
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < layer.outputs; ++c) {
      vf total = zero();
      for (int i = 0; i < layer.padded; i += kLanes) {
        total = fma(load(x + r * x_stride + i), load(layer.weight + c * layer.padded + i), total);
      }
      y[r * layer.outputs + c] = sum(total) + layer.bias[c];
    }
  }
}

}  // namespace native

// SPDX-License-Identifier: Apache-2.0
// Where samples lie along a ray; equations: `kernels/ray_sampling.py`, vector lanes are intervals.
#pragma once

#include <cmath>

#include "interface.h"
#include "scratch.h"
#include "vector.h"

namespace native {

// World points to the cube [0, 1]^3, from u = (point - centre) / half extent.
struct Unit {
  vf x, y, z;
};

NATIVE_INLINE Unit contract(vf x, vf y, vf z) {
  const vf one = all(1.0f), half = all(0.5f), quarter = all(0.25f);
  const vf m = max(absolute(x), max(absolute(y), absolute(z)));
  const vf inverse = one / max(m, one);
  const vf scale = quarter * ((all(2.0f) - inverse) * inverse);  // m <= 1: inverse is 1
  return {fma(x, scale, half), fma(y, scale, half), fma(z, scale, half)};
}

// A ray in units of the half extents.
struct Line {
  float origin[3], direction[3];

  Line(const Cells& cells, const float* from, const float* along) {
    for (int i = 0; i < 3; ++i) {
      origin[i] = (from[i] - cells.center[i]) * cells.inverse_half[i];
      direction[i] = along[i] * cells.inverse_half[i];
    }
  }

  NATIVE_INLINE Unit at(vf t) const {
    return contract(fma(t, all(direction[0]), all(origin[0])),
                    fma(t, all(direction[1]), all(origin[1])),
                    fma(t, all(direction[2]), all(origin[2])));
  }
};

// The intervals of all rays: linear up to `middle`, then linear in disparity.
struct Intervals {
  int bins, padded;
  Buffer<float> edge, middle, width;

  explicit Intervals(const Cells& cells)
      : bins(cells.bins),
        padded((cells.bins + kLanes - 1) / kLanes * kLanes),
        edge(padded + 1), middle(padded), width(padded) {
    for (int b = 0; b <= padded; ++b) {
      edge[b] = distance_at(static_cast<float>(b < bins ? b : bins) / bins, cells);
    }
    for (int b = 0; b < padded; ++b) {
      middle[b] = 0.5f * (edge[b] + edge[b + 1]);
      width[b] = edge[b + 1] - edge[b];  // 0 beyond the last
    }
  }

  static float distance_at(float s, const Cells& cells) {
    if (s < 0.5f) return cells.near_m + 2.0f * s * (cells.middle_m - cells.near_m);
    const float u = 2.0f * s - 1.0f;
    return 1.0f / ((1.0f - u) / cells.middle_m + u / cells.far_m);
  }
};

// Sum of each lane and all lanes before it.
NATIVE_INLINE vf prefix_sum(vf x) {
#ifdef __AVX512F__
  const __m512i none = _mm512_setzero_si512();
  const auto up = [&](vf v, auto by) {
    return (vf)_mm512_alignr_epi32((__m512i)v, none, 16 - decltype(by)::value);
  };
  x += up(x, std::integral_constant<int, 1>());
  x += up(x, std::integral_constant<int, 2>());
  x += up(x, std::integral_constant<int, 4>());
  x += up(x, std::integral_constant<int, 8>());
  return x;
#else
  x += (vf)_mm256_slli_si256((__m256i)x, 4);
  x += (vf)_mm256_slli_si256((__m256i)x, 8);
  const vf low = _mm256_permute2f128_ps(x, x, 0x08);  // the lower half, moved up
  return x + _mm256_permute_ps(low, 0xff);
#endif
}

NATIVE_INLINE float last(vf x) {
#ifdef __AVX512F__
  return _mm_cvtss_f32(_mm_permute_ps(_mm512_extractf32x4_ps(x, 3), 0xff));
#else
  return _mm_cvtss_f32(_mm_permute_ps(_mm256_extractf128_ps(x, 1), 0xff));
#endif
}

NATIVE_INLINE uint32_t bits(vi mask) {
#ifdef __AVX512F__
  return _mm512_movepi32_mask((__m512i)mask);
#else
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#endif
}

// Weight of each interval by the densities of the grid; weight[-1] and weight[bins] are written,
// too. `weight` has kLanes of room on both sides.
NATIVE_INLINE void weigh_intervals(const Cells& cells, const Intervals& cuts, const Line& line,
                                   float* weight) {
  const float hidden = 9.2103404f;  // optical depth behind which intervals get no weight
  const vf count = all(static_cast<float>(cells.cells)), none = zero();
  const vi most = all_int(cells.cells - 1), side = all_int(cells.cells);
  float before = 0.0f, light = 1.0f;
  int b = 0;
  for (; b < cuts.bins && before < hidden; b += kLanes) {
    const Unit unit = line.at(load(&cuts.middle[b]));
    const vi ix = min_int(truncate(max(unit.x * count, none)), most);
    const vi iy = min_int(truncate(max(unit.y * count, none)), most);
    const vi iz = min_int(truncate(max(unit.z * count, none)), most);
    const vf density = gather(cells.densities, (ix * side + iy) * side + iz);
    const vf depth = prefix_sum(density * load(&cuts.width[b])) + all(before);
    const vf left = exponential(-depth);
    store(weight + b, left);
    before = last(depth);
  }
  const int seen = b;
  // From the light that is left behind each interval to what it took.
  for (b = 0; b < seen; b += kLanes) {
    const vf after = load(weight + b);
    const float next = last(after);
#ifdef __AVX512F__
    const vf shifted = (vf)_mm512_alignr_epi32(
        (__m512i)after, (__m512i)all(light), 15);
#else
    const vf moved = _mm256_permutevar8x32_ps(after, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
    const vf shifted = _mm256_blend_ps(moved, all(light), 1);
#endif
    store(weight + b, shifted - after);
    light = next;
  }
  for (; b < cuts.padded; b += kLanes) store(weight + b, none);
  weight[cuts.bins - 1] += light;
}

// Distances and lengths (samples) of one ray. `jitter` (samples) may be null: then 1/2.
NATIVE_INLINE void place(const Cells& cells, const Intervals& cuts, const Line& line,
                         float exploring, int samples, const float* jitter, float* scratch,
                         float* distances, float* widths) {
  float* weight = scratch + kLanes;
  if (exploring < 1.0f) {
    weigh_intervals(cells, cuts, line, weight);
  } else {
    for (int b = 0; b < cuts.padded; b += kLanes) store(weight + b, zero());
    weight[cuts.bins - 1] = 1.0f;
  }
  weight[-1] = weight[0];
  weight[cuts.bins] = weight[cuts.bins - 1];
  for (int b = cuts.bins + 1; b < cuts.padded; ++b) weight[b] = 0.0f;
  // Blurred over neighbours, mixed with a uniform share, summed up.
  const float floor = exploring / (1.0f - exploring + 1e-6f) / cuts.bins;
  float* share = weight + cuts.padded + kLanes;
  float* until = share + cuts.padded;
  float total = 0.0f;
  for (int b = 0; b < cuts.padded; b += kLanes) {
    const vf around = load(weight + b - 1) + load(weight + b + 1);
    const vf mixed = fma(all(0.25f), around, fma(all(0.5f), load(weight + b), all(floor)));
    const vf sums = prefix_sum(mixed) + all(total);
    store(share + b, mixed);
    store(until + b, sums);
    total = last(sums);
  }
  total = until[cuts.bins - 1];
  // Inverted: interval b holds the samples with a position below its end.
  const float per = samples / total;
  int placed = 0;
  for (int b = 0; b < cuts.padded && placed < samples; b += kLanes) {
    const vf end = load(until + b) * all(per);
    vi reached;
    if (jitter == nullptr) {
      reached = truncate(end + all(0.5f));
    } else {
      const vi whole = truncate(end);
      const vf own = gather(jitter, min_int(whole, all_int(samples - 1)));
      reached = whole - (own <= end - to_float(whole));
    }
    uint32_t hits = bits(reached > all_int(placed));
    int32_t counts[kLanes];
    store_int(counts, reached);
    while (hits) {
      const int lane = __builtin_ctz(hits);
      hits &= hits - 1;
      const int at = b + lane;
      if (at >= cuts.bins) break;
      const int stop = counts[lane] < samples ? counts[lane] : samples;
      const float inverse = 1.0f / (share[at] * per);
      const float before = (until[at] - share[at]) * per;
      for (; placed < stop; ++placed) {
        const float u = placed + (jitter == nullptr ? 0.5f : jitter[placed]);
        float inside = (u - before) * inverse;
        inside = inside > 0.0f ? inside < 1.0f ? inside : 1.0f : 0.0f;
        distances[placed] = cuts.edge[at] + inside * cuts.width[at];
      }
    }
  }
  for (; placed < samples; ++placed) distances[placed] = cuts.edge[cuts.bins];
  float start = 1.5f * distances[0] - 0.5f * distances[samples > 1];
  if (start < cells.near_m) start = cells.near_m;
  for (int k = 0; k < samples - 1; ++k) {
    const float end = 0.5f * (distances[k] + distances[k + 1]);
    widths[k] = end - start;
    start = end;
  }
  widths[samples - 1] = 2.0f * (distances[samples - 1] - start);
}

// Floats that `place` needs as scratch.
NATIVE_INLINE int place_scratch(const Intervals& cuts) { return 3 * cuts.padded + 3 * kLanes; }

}  // namespace native

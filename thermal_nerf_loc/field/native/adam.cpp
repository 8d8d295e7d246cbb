// SPDX-License-Identifier: Apache-2.0
// Adam on a hash table: cache lines without a gradient are left as they are.
//
// A line of 16 floats that is idle for k steps would have moved on by its momentum. It does so
// when it is next touched, in closed form: with gradients of zero m_j = b1^j m and v_j = b2^j v, so
//
//     sum_{j=1..k} m_j / sqrt(v_j) = m / sqrt(v) sum_{j=1..k} r^j,   r = b1 / sqrt(b2)
#include <cmath>

#include "interface.h"
#include "parallel.h"
#include "scratch.h"
#include "vector.h"

namespace native {

struct AdamStep {
  float rate;        // learning rate over the bias correction of m
  float correction;  // 1 / sqrt of the bias correction of v
  float beta1, beta2, epsilon;
  int32_t step;    // of this update, from 1
  int32_t settle;  // only catch up, on all lines
  int32_t threads;
};

namespace {

constexpr int kLine = 16;
constexpr int kMostIdle = 2048;  // steps; then m and v are as good as zero
constexpr int64_t kBlock = 4096;  // lines

// What k idle steps make of m and of v, and how many times m / sqrt(v) they move.
struct Idle {
  Buffer<float> m, v, moves;

  explicit Idle(const AdamStep& at) : m(kMostIdle + 1), v(kMostIdle + 1), moves(kMostIdle + 1) {
    const double ratio = at.beta1 / std::sqrt(static_cast<double>(at.beta2));
    double m_k = 1.0, v_k = 1.0, power = 1.0, sum = 0.0;
    for (int k = 0; k <= kMostIdle; ++k) {
      m[k] = static_cast<float>(m_k);
      v[k] = static_cast<float>(v_k);
      moves[k] = static_cast<float>(sum);
      m_k *= at.beta1;
      v_k *= at.beta2;
      sum += power *= ratio;
    }
  }
};

NATIVE_INLINE vf square_root(vf x) {
#ifdef __AVX512F__
  return _mm512_sqrt_ps(x);
#else
  return _mm256_sqrt_ps(x);
#endif
}

NATIVE_INLINE bool any(vf x) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
#else
  return _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ)) != 0;
#endif
}

void update_lines(const AdamStep& at, const Idle& idle, int64_t first, int64_t end,
                  float* parameters, float* gradient, float* mean, float* square, float* last) {
  const vf b1 = all(at.beta1), b2 = all(at.beta2), rate = all(at.rate);
  const vf new1 = all(1.0f - at.beta1), new2 = all(1.0f - at.beta2);
  const vf correction = all(at.correction), epsilon = all(at.epsilon);
  for (int64_t line = first; line < end; ++line) {
    const int64_t place = line * kLine;
    bool touched = at.settle != 0;
    for (int i = 0; i < kLine; i += kLanes) touched = touched || any(load(gradient + place + i));
    if (!touched) continue;
    int missed = at.step - 1 - static_cast<int>(last[line]);
    missed = missed < 0 ? 0 : missed > kMostIdle ? kMostIdle : missed;
    const vf m_share = all(idle.m[missed]), v_share = all(idle.v[missed]);
    const vf moves = all(idle.moves[missed]) * rate;
    for (int i = 0; i < kLine; i += kLanes) {
      const int64_t k = place + i;
      vf p = load(parameters + k), m = load(mean + k), v = load(square + k);
      if (missed) {
        p -= moves * m / fma(square_root(v), correction, epsilon);
        m *= m_share;
        v *= v_share;
      }
      if (!at.settle) {
        const vf g = load(gradient + k);
        m = fma(new1, g, m * b1);
        v = fma(new2, g * g, v * b2);
        p -= rate * m / fma(square_root(v), correction, epsilon);
        store(gradient + k, zero());
      }
      store(parameters + k, p);
      store(mean + k, m);
      store(square + k, v);
    }
    last[line] = static_cast<float>(at.settle ? at.step - 1 : at.step);
  }
}

}  // namespace
}  // namespace native

// Update parameters (floats, a multiple of 16) from their gradient, which becomes zero. `last`
// (lines): the step at which each line was last updated.
extern "C" NATIVE_EXPORT void training_adam(const native::AdamStep* at, int64_t floats,
                                            float* parameters, float* gradient, float* mean,
                                            float* square, float* last) {
  const native::Idle idle(*at);
  const int64_t lines = floats / native::kLine;
  native::parallel((lines + native::kBlock - 1) / native::kBlock, at->threads, [&](int64_t block) {
    const int64_t first = block * native::kBlock, end = first + native::kBlock;
    native::update_lines(*at, idle, first, end < lines ? end : lines, parameters, gradient, mean,
                         square, last);
  });
}

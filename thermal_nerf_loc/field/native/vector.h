// SPDX-License-Identifier: Apache-2.0
// One vector register of floats, as wide as the instruction set this file is compiled for.
//
// GCC and clang give `+ - * / < >` on vector types; here is what they lack. Comparisons give a
// vector of integers (all bits set where true), which `select` takes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace native {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
constexpr int kLanes = 16;
using vf = __m512;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8;
using vf = __m256;
#else
#error "compile with -mavx2 -mfma, or with -mavx512f -mavx512dq -mavx512bw -mavx512vl"
#endif
typedef int32_t vi __attribute__((vector_size(4 * kLanes)));
typedef uint32_t vu __attribute__((vector_size(4 * kLanes)));

#define NATIVE_INLINE inline __attribute__((always_inline))

NATIVE_INLINE vf all(float x) {
#ifdef __AVX512F__
  return _mm512_set1_ps(x);
#else
  return _mm256_set1_ps(x);
#endif
}

NATIVE_INLINE vi all_int(int32_t x) {
#ifdef __AVX512F__
  return (vi)_mm512_set1_epi32(x);
#else
  return (vi)_mm256_set1_epi32(x);
#endif
}

NATIVE_INLINE vf zero() { return all(0.0f); }

NATIVE_INLINE vf load(const float* p) {
#ifdef __AVX512F__
  return _mm512_loadu_ps(p);
#else
  return _mm256_loadu_ps(p);
#endif
}

NATIVE_INLINE void store(float* p, vf x) {
#ifdef __AVX512F__
  _mm512_storeu_ps(p, x);
#else
  _mm256_storeu_ps(p, x);
#endif
}

NATIVE_INLINE vi load_int(const int32_t* p) {
#ifdef __AVX512F__
  return (vi)_mm512_loadu_si512(p);
#else
  return (vi)_mm256_loadu_si256((const __m256i*)p);
#endif
}

NATIVE_INLINE void store_int(int32_t* p, vi x) {
#ifdef __AVX512F__
  _mm512_storeu_si512(p, (__m512i)x);
#else
  _mm256_storeu_si256((__m256i*)p, (__m256i)x);
#endif
}

// a b + c, rounded once
NATIVE_INLINE vf fma(vf a, vf b, vf c) {
#ifdef __AVX512F__
  return _mm512_fmadd_ps(a, b, c);
#else
  return _mm256_fmadd_ps(a, b, c);
#endif
}

// c - a b
NATIVE_INLINE vf fnma(vf a, vf b, vf c) {
#ifdef __AVX512F__
  return _mm512_fnmadd_ps(a, b, c);
#else
  return _mm256_fnmadd_ps(a, b, c);
#endif
}

NATIVE_INLINE vf max(vf a, vf b) {
#ifdef __AVX512F__
  return _mm512_max_ps(a, b);
#else
  return _mm256_max_ps(a, b);
#endif
}

NATIVE_INLINE vf min(vf a, vf b) {
#ifdef __AVX512F__
  return _mm512_min_ps(a, b);
#else
  return _mm256_min_ps(a, b);
#endif
}

NATIVE_INLINE vi min_int(vi a, vi b) {
#ifdef __AVX512F__
  return (vi)_mm512_min_epi32((__m512i)a, (__m512i)b);
#else
  return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b);
#endif
}

NATIVE_INLINE vf absolute(vf x) { return (vf)((vi)x & all_int(0x7fffffff)); }

// a where the mask is set, else b
NATIVE_INLINE vf select(vi mask, vf a, vf b) {
#ifdef __AVX512F__
  return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), b, a);
#else
  return _mm256_blendv_ps(b, a, (vf)mask);
#endif
}

// towards zero
NATIVE_INLINE vi truncate(vf x) {
#ifdef __AVX512F__
  return (vi)_mm512_cvttps_epi32(x);
#else
  return (vi)_mm256_cvttps_epi32(x);
#endif
}

NATIVE_INLINE vf to_float(vi x) {
#ifdef __AVX512F__
  return _mm512_cvtepi32_ps((__m512i)x);
#else
  return _mm256_cvtepi32_ps((__m256i)x);
#endif
}

// to the nearest whole number
NATIVE_INLINE vf nearest(vf x) {
#ifdef __AVX512F__
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
}

NATIVE_INLINE vf gather(const float* base, vi index) {
#ifdef __AVX512F__
  return _mm512_i32gather_ps((__m512i)index, base, 4);
#else
  return _mm256_i32gather_ps(base, (__m256i)index, 4);
#endif
}

NATIVE_INLINE float sum(vf x) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps(x);
#else
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#endif
}

// e^x within 2e-7 relative, x held to [-87, 88]: e^x = 2^n e^r, |r| <= ln 2 / 2 (Cody and Waite)
NATIVE_INLINE vf exponential(vf x) {
  x = min(max(x, all(-87.0f)), all(88.0f));
  const vf n = nearest(x * all(1.44269504088896341f));
  vf r = fnma(n, all(0.693359375f), x);
  r = fnma(n, all(-2.12194440e-4f), r);
  vf p = all(1.9875691500e-4f);  // minimax polynomial of Cephes, expf
  p = fma(p, r, all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  p = fma(p, r * r, r + all(1.0f));
  return (vf)((vi)p + (truncate(n) << 23));
}

}  // namespace native

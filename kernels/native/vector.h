// Vectors of the width that the compiler was told to build for, in GCC's and Clang's portable notation: one source for
// AVX2, AVX-512 and NEON. Products and sums are contracted into fused ones by the compiler (-ffp-contract=fast).
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX2__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

typedef float Vec __attribute__((vector_size(VL * 4)));
typedef int32_t IntVec __attribute__((vector_size(VL * 4)));
typedef float UnalignedVec __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t UnalignedIntVec __attribute__((vector_size(VL * 4), aligned(2), may_alias));
typedef float Vec4 __attribute__((vector_size(16)));
typedef float UnalignedVec4 __attribute__((vector_size(16), aligned(4), may_alias));

// A bfloat16 as it is stored: the upper half of an fp32.
struct BFloat16 {
  uint16_t bits;
};

inline Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }

inline void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }

inline float widen(float value) { return value; }

inline float widen(BFloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

inline void narrow(float value, float* to) { *to = value; }

// To the nearest, ties to even; NaN stays NaN.
inline void narrow(float value, BFloat16* to) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const bool is_nan = value != value;
  to->bits = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Vec4 load4(const float* from) { return *reinterpret_cast<const UnalignedVec4*>(from); }

inline Vec4 load4(const BFloat16* from) {
  return Vec4{widen(from[0]), widen(from[1]), widen(from[2]), widen(from[3])};
}

inline void store4(float* to, Vec4 value) { *reinterpret_cast<UnalignedVec4*>(to) = value; }

inline float sum(Vec value) {
  float total = 0;
  for (int lane = 0; lane < VL; ++lane) total += value[lane];
  return total;
}

// The largest lane; lanes that are NaN are passed over.
inline float largest(Vec value) {
  float most = -__builtin_inff();
  for (int lane = 0; lane < VL; ++lane) most = value[lane] > most ? value[lane] : most;
  return most;
}

// e^x to 2 ulp; 0 below -87.3 (where fp32 has only denormals left), inf above 88.7, NaN for NaN. The reduction to
// [-ln 2 / 2, ln 2 / 2] and the polynomial are Cephes' expf (S. Moshier).
inline Vec exp(Vec x) {
  constexpr float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec clipped = x > 88.8f ? Vec{} + 88.8f : x;
  const Vec shifted = clipped * 1.44269504f + shifter;
  const Vec whole = shifted - shifter;
  const Vec r = (clipped - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // Two steps, since 2^128 alone is no fp32.
  const IntVec exponent = __builtin_bit_cast(IntVec, shifted) - 0x4b400000;
  const IntVec half = exponent >> 1;
  const IntVec first = (half + 127) << 23;
  const IntVec second = (exponent - half + 127) << 23;
  const Vec result = p * __builtin_bit_cast(Vec, first) * __builtin_bit_cast(Vec, second);
  return x < -87.3f ? Vec{} : result;
}

// By e^2x, and below 0.625, where that would cancel, by Cephes' polynomial.
inline Vec tanh(Vec x) {
  const Vec far = 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
  const Vec z = x * x;
  Vec p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec near = p * z * x + x;
  return z < 0.390625f ? near : far;
}

}  // namespace octavo

// The one matrix product under everything: a few rows of x times one panel of weights.
//
//     x  [rows, depth]      panel  [depth, PANEL]      y  [rows, PANEL]
//
// A panel holds PANEL = two vectors' worth of output features, one after the other for each input feature, so that the
// inner loop reads weights in the order in which they lie. Sums run over the depth in one order, whatever the number
// of rows: a row's result does not depend on the other rows, to the last bit.
#pragma once

#include "vector.h"

namespace octavo {

constexpr int PANEL = 2 * VL;
constexpr int MAX_ROWS = VL == 8 ? 6 : 12;  // accumulators that fit: 2 * 6 of 16 registers, 2 * 12 of 32

// Weights of one input feature, as two vectors.
struct Pair {
  Vec low, high;
};

inline Pair load_pair(const float* panel) { return {load(panel), load(panel + VL)}; }

// Output feature j lies in the lower half of the j-th 32 bits, feature VL + j in the upper half: a shift and a mask
// make both fp32, exactly.
inline Pair load_pair(const BFloat16* panel) {
  const IntVec both = *reinterpret_cast<const UnalignedIntVec*>(panel);
  const IntVec low = both << 16;
  const IntVec high = both & static_cast<int32_t>(0xffff0000);
  return {__builtin_bit_cast(Vec, low), __builtin_bit_cast(Vec, high)};
}

// Turns PANEL rows of `depth` numbers into a panel, four by four.
template <class Number>
void make_panel(const Number* const* rows, long depth, float* panel) {
  for (long j = 0; j < PANEL; j += 4) {
    long k = 0;
    for (; k + 4 <= depth; k += 4) {
      const Vec4 a = load4(rows[j] + k), b = load4(rows[j + 1] + k);
      const Vec4 c = load4(rows[j + 2] + k), d = load4(rows[j + 3] + k);
      const Vec4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Vec4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      store4(panel + k * PANEL + j, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
      store4(panel + (k + 1) * PANEL + j, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
      store4(panel + (k + 2) * PANEL + j, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
      store4(panel + (k + 3) * PANEL + j, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
    }
    for (; k < depth; ++k) {
      for (long i = j; i < j + 4; ++i) panel[k * PANEL + i] = widen(rows[i][k]);
    }
  }
}

template <int ROWS, class Weight>
void multiply_rows(const float* x, long x_stride, const Weight* panel, long depth, float* y, long y_stride) {
  Pair sums[ROWS];
  for (int row = 0; row < ROWS; ++row) sums[row] = load_pair(y + row * y_stride);
  for (long k = 0; k < depth; ++k) {
    const Pair weight = load_pair(panel + k * PANEL);
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) {
      const float factor = x[row * x_stride + k];
      sums[row].low += factor * weight.low;
      sums[row].high += factor * weight.high;
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    store(y + row * y_stride, sums[row].low);
    store(y + row * y_stride + VL, sums[row].high);
  }
}

template <int ROWS, class Weight>
void multiply_some(long rows, const float* x, long x_stride, const Weight* panel, long depth, float* y, long y_stride) {
  if (rows == ROWS) return multiply_rows<ROWS>(x, x_stride, panel, depth, y, y_stride);
  if constexpr (ROWS > 1) multiply_some<ROWS - 1>(rows, x, x_stride, panel, depth, y, y_stride);
}

// y += x * panel for any number of rows, in groups of about equal size.
template <class Weight>
void multiply(long rows, const float* x, long x_stride, const Weight* panel, long depth, float* y, long y_stride) {
  for (long groups = (rows + MAX_ROWS - 1) / MAX_ROWS; groups > 0; --groups) {
    const long some = (rows + groups - 1) / groups;
    multiply_some<MAX_ROWS>(some, x, x_stride, panel, depth, y, y_stride);
    x += some * x_stride;
    y += some * y_stride;
    rows -= some;
  }
}

}  // namespace octavo

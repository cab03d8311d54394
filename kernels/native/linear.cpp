// y = x W^T + b in fp32, with W packed into panels (product.h) once, as fp32 or, where that loses nothing, as bfloat16.
#include <algorithm>

#include "product.h"

using namespace octavo;

namespace {

constexpr long ROWS_AT_ONCE = 48;    // rows of x that meet a panel while it is in the cache
constexpr long DEPTH_AT_ONCE = 1536;  // input features of a panel at a time; 48 * 1536 * 4 bytes stay in the L2 cache

void store_panel(const float* panel, long count, float* packed) { memcpy(packed, panel, count * sizeof(float)); }

// The layout that load_pair reads; the numbers are bfloat16s already, so nothing is lost.
void store_panel(const float* panel, long count, BFloat16* packed) {
  for (long i = 0; i < count; i += PANEL) {
    const IntVec low = __builtin_bit_cast(IntVec, load(panel + i)), high = __builtin_bit_cast(IntVec, load(panel + i + VL));
    const IntVec both = ((low >> 16) & 0xffff) | (high & static_cast<int32_t>(0xffff0000));
    *reinterpret_cast<UnalignedIntVec*>(packed + i) = both;
  }
}

template <class Weight>
void pack_panel(const float* weight, long features, long in_features, Weight* packed) {
  constexpr long at_once = 64;
  const float zeros[at_once] = {};
  float panel[at_once * PANEL];
  for (long k = 0; k < in_features; k += at_once) {
    const long depth = std::min(at_once, in_features - k);
    const float* rows[PANEL];
    for (long j = 0; j < PANEL; ++j) rows[j] = j < features ? weight + j * in_features + k : zeros;
    make_panel(rows, depth, panel);
    store_panel(panel, depth * PANEL, packed + k * PANEL);
  }
}

template <class Weight>
void pack(const float* weight, long out_features, long in_features, Weight* packed) {
  const long panels = (out_features + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static)
  for (long panel = 0; panel < panels; ++panel) {
    const long first = panel * PANEL;
    pack_panel(weight + first * in_features, std::min<long>(PANEL, out_features - first), in_features,
               packed + first * in_features);
  }
}

// One panel's part of the product for some rows. `bias` may be null.
template <class Weight>
void multiply_panel(const float* x, long rows, long in_features, const Weight* panel, const float* bias, long features,
                    float* y, long y_stride) {
  float edge[ROWS_AT_ONCE * PANEL];  // the last panel may be wider than what is left of y
  float* const to = features < PANEL ? edge : y;
  const long stride = features < PANEL ? PANEL : y_stride;
  for (long row = 0; row < rows; ++row) {
    for (long j = 0; j < PANEL; ++j) to[row * stride + j] = bias && j < features ? bias[j] : 0.0f;
  }
  for (long k = 0; k < in_features; k += DEPTH_AT_ONCE) {
    const long depth = std::min(DEPTH_AT_ONCE, in_features - k);
    multiply(rows, x + k, in_features, panel + k * PANEL, depth, to, stride);
  }
  if (to == y) return;
  for (long row = 0; row < rows; ++row) memcpy(y + row * y_stride, edge + row * PANEL, features * sizeof(float));
}

template <class Weight>
void linear(const float* x, long rows, long in_features, const Weight* packed, const float* bias, long out_features,
            float* y) {
  const long panels = (out_features + PANEL - 1) / PANEL;
  const long blocks = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  const long chunk = std::max(1L, panels * blocks / 64);
#pragma omp parallel for schedule(dynamic, chunk)
  for (long task = 0; task < panels * blocks; ++task) {
    const long panel = task % panels, first = task / panels * ROWS_AT_ONCE;
    const long feature = panel * PANEL;
    multiply_panel(x + first * in_features, std::min(ROWS_AT_ONCE, rows - first), in_features,
                   packed + panel * in_features * PANEL, bias ? bias + feature : nullptr,
                   std::min<long>(PANEL, out_features - feature), y + first * out_features + feature, out_features);
  }
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

// Output features are rounded up to a multiple of this in a packed weight.
long octavo_panel() { return PANEL; }

// Whether each of `count` numbers is a bfloat16 already.
bool octavo_is_bfloat16(const float* numbers, long count) {
  const uint32_t* const bits = reinterpret_cast<const uint32_t*>(numbers);
  for (long start = 0; start < count; start += 4096) {
    uint32_t lost = 0;
    for (long i = start; i < std::min(start + 4096, count); ++i) lost |= bits[i] << 16;
    if (lost) return false;
  }
  return true;
}

void octavo_pack(const float* weight, long out_features, long in_features, bool as_bfloat16, void* packed) {
  if (as_bfloat16) return pack(weight, out_features, in_features, static_cast<BFloat16*>(packed));
  pack(weight, out_features, in_features, static_cast<float*>(packed));
}

void octavo_linear(const float* x, long rows, long in_features, const void* packed, bool is_bfloat16, const float* bias,
                   long out_features, float* y) {
  if (is_bfloat16)
    return linear(x, rows, in_features, static_cast<const BFloat16*>(packed), bias, out_features, y);
  linear(x, rows, in_features, static_cast<const float*>(packed), bias, out_features, y);
}
#pragma GCC visibility pop
}

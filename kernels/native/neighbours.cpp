// What stands between the products and attention, each in one pass over its rows: RMSNorm, rotation, the write into the
// cache and the gated activation (octavo_kernels/interface.py).
#include <cmath>

#include "vector.h"

using namespace octavo;

namespace {

constexpr long LEAST_NUMBERS = 1 << 15;  // fewer are computed by one thread: waking another takes longer

float mean_square(const float* x, long size) {
  Vec sums = {};
  long i = 0;
  for (; i + VL <= size; i += VL) sums += load(x + i) * load(x + i);
  float total = sum(sums);
  for (; i < size; ++i) total += x[i] * x[i];
  return total / static_cast<float>(size);
}

Vec silu(Vec x) { return x / (1.0f + exp(-x)); }

// (1 + tanh u) / 2 is 1 / (1 + e^-2u), which does not cancel where tanh u is almost -1.
Vec gelu_tanh(Vec x) { return x / (1.0f + exp(-1.5957691216f * (x + 0.044715f * x * x * x))); }

template <Vec (*activate)(Vec)>
void gated_row(const float* gate_up, long size, float* out) {
  long i = 0;
  for (; i + VL <= size; i += VL) store(out + i, activate(load(gate_up + i)) * load(gate_up + size + i));
  for (; i < size; ++i) out[i] = activate(Vec{} + gate_up[i])[0] * gate_up[size + i];
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

// x and out [tokens, heads, size]; tokens of x are any distance apart.
void octavo_rms_norm(const float* x, long tokens, long token_stride, long heads, long size, const float* weight,
                     float eps, float* out) {
#pragma omp parallel for schedule(static) if (tokens * heads * size > LEAST_NUMBERS)
  for (long row = 0; row < tokens * heads; ++row) {
    const float* const from = x + row / heads * token_stride + row % heads * size;
    const float factor = 1.0f / sqrtf(mean_square(from, size) + eps);
    for (long i = 0; i < size; ++i) out[row * size + i] = from[i] * factor * weight[i];
  }
}

// Turns each pair (i, i + half) of a head by its token's angle, in place; cos and sin [tokens, half].
void octavo_rotate(float* x, long tokens, long token_stride, long heads, long size, const float* cos, const float* sin,
                   long half) {
#pragma omp parallel for schedule(static) if (tokens * heads * size > LEAST_NUMBERS)
  for (long token = 0; token < tokens; ++token) {
    const float* const c = cos + token * half;
    const float* const s = sin + token * half;
    for (long head = 0; head < heads; ++head) {
      float* const low = x + token * token_stride + head * size;
      float* const high = low + half;
      for (long i = 0; i < half; ++i) {
        const float first = low[i], second = high[i];
        low[i] = first * c[i] - second * s[i];
        high[i] = second * c[i] + first * s[i];
      }
    }
  }
}

// Keys and values [tokens, heads, head size], their tokens any distance apart, into their slots. Sizes in bytes.
void octavo_write_kv(const char* key, const char* value, long key_stride, long value_stride,
                     const int64_t* slot_mapping, char* key_cache, char* value_cache, long tokens, long heads,
                     long size, long block_size) {
#pragma omp parallel for schedule(static) if (tokens * heads * size > 4 * LEAST_NUMBERS)
  for (long token = 0; token < tokens; ++token) {
    if (slot_mapping[token] < 0) continue;
    const long block = slot_mapping[token] / block_size, offset = slot_mapping[token] % block_size;
    for (long head = 0; head < heads; ++head) {
      const long slot = ((block * heads + head) * block_size + offset) * size;
      memcpy(key_cache + slot, key + token * key_stride + head * size, size);
      memcpy(value_cache + slot, value + token * value_stride + head * size, size);
    }
  }
}

// gate_up [rows, 2 size] to out [rows, size]: activate(gate) * up; 0: SiLU, 1: GELU by tanh.
void octavo_gated(const float* gate_up, long rows, long size, int activation, float* out) {
#pragma omp parallel for schedule(static) if (rows * size > LEAST_NUMBERS)
  for (long row = 0; row < rows; ++row) {
    const float* const from = gate_up + row * 2 * size;
    if (activation == 0) {
      gated_row<silu>(from, size, out + row * size);
    } else {
      gated_row<gelu_tanh>(from, size, out + row * size);
    }
  }
}

// Raised whenever a signature here, in linear.cpp or in attention.cpp changes: Python refuses another than its own.
int octavo_abi() { return 1; }
#pragma GCC visibility pop
}

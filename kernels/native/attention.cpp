// Paged attention (octavo_kernels/interface.py) straight from the blocks, for decode, prefill and any mix.
//
// A task is some queries of one sequence and one KV head. The query heads of a group share that head's keys and values,
// so they are rows of the same products. Positions are taken TILE at a time, always from a multiple of TILE, and the
// softmax is FlashAttention's online one:
//
//     keys, values of a tile  ─ gathered from their blocks into panels (product.h), zeros past the sequence's end
//     scores = q k^T          ─ soft cap, mask, running maximum and sum
//     out    = out * correction + weights v
//
// What a row gets does not depend on the other rows of its task, on the batch, or on how a prompt was cut into chunks:
// a tile that a row does not see multiplies its sums by 1 and adds 0.
#include <algorithm>
#include <cstdlib>

#include "product.h"

using namespace octavo;

struct OctavoAttention {
  const void* query;  // [T, num_heads, head_dim], a token's heads in one piece
  const void* key_cache;
  const void* value_cache;
  void* out;  // [T, num_heads, head_dim], contiguous
  const int32_t* query_start_loc;
  const int32_t* seq_lens;
  const int32_t* block_table;
  int64_t query_stride;  // numbers from one token to the next
  int64_t table_stride;
  int64_t num_sequences;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t block_size;
  int64_t window;  // positions that a query sees, its own among them; 0: all
  float scale;
  float soft_cap;  // 0: none
};

namespace {

constexpr long TILE = 64;
constexpr long ROWS = 48;  // (query, head) pairs of a task, about
constexpr long MOST_HEAD_DIM = 256;

static_assert(TILE % PANEL == 0, "a tile is whole panels");

struct Task {
  int32_t sequence, first_query;
};

// Rounds up to whole panels; what is added is zero.
long padded(long head_dim) { return (head_dim + PANEL - 1) / PANEL * PANEL; }

struct Scratch {
  float* memory;
  float *query, *keys, *values, *scores, *sums, *most, *total;

  Scratch(long rows, long head_dim) {
    const long depth = padded(head_dim);
    const long floats = rows * (head_dim + TILE + depth + 2) + TILE * (head_dim + depth);
    memory = static_cast<float*>(malloc(floats * sizeof(float)));
    query = memory;
    keys = query + rows * head_dim;
    values = keys + TILE * head_dim;
    scores = values + TILE * depth;
    sums = scores + rows * TILE;
    most = sums + rows * depth;
    total = most + rows;
  }
  ~Scratch() { free(memory); }
};

template <class Number>
class Worker {
 public:
  Worker(const OctavoAttention& call, long queries_per_task)
      : call_(call),
        group_(call.num_heads / call.num_kv_heads),
        queries_(queries_per_task),
        depth_(padded(call.head_dim)),
        scratch_(queries_per_task * group_, call.head_dim) {}

  void run(Task task, long kv_head) {
    const long start = call_.query_start_loc[task.sequence];
    const long num_queries = call_.query_start_loc[task.sequence + 1] - start;
    const long count = std::min<long>(queries_, num_queries - task.first_query);
    const long first = call_.seq_lens[task.sequence] - num_queries + task.first_query;  // the first query's position
    begin(start + task.first_query, count, kv_head);
    const long seen_from = call_.window ? std::max(0L, first - call_.window + 1) : 0;
    for (long tile = seen_from / TILE * TILE; tile < first + count; tile += TILE) {
      const long length = std::min<long>(TILE, first + count - tile);
      gather(task.sequence, kv_head, tile, length);
      score(count * group_);
      mask(tile, first, count);
      accumulate(count * group_);
    }
    finish(start + task.first_query, count, kv_head);
  }

 private:
  void begin(long token, long count, long kv_head) {
    for (long row = 0; row < count * group_; ++row) {
      const long head = kv_head * group_ + row % group_;
      const Number* const from =
          static_cast<const Number*>(call_.query) + (token + row / group_) * call_.query_stride + head * call_.head_dim;
      for (long d = 0; d < call_.head_dim; ++d) scratch_.query[row * call_.head_dim + d] = widen(from[d]) * call_.scale;
      scratch_.most[row] = -__builtin_inff();
      scratch_.total[row] = 0;
    }
    std::fill_n(scratch_.sums, count * group_ * depth_, 0.0f);
  }

  // Keys and values of positions [tile, tile + length) into panels. Slots that follow are not read.
  void gather(long sequence, long kv_head, long tile, long length) {
    static const Number zeros[MOST_HEAD_DIM] = {};
    const Number* keys[TILE];
    const Number* values[TILE];
    for (long i = 0; i < TILE; ++i) {
      keys[i] = values[i] = zeros;
      if (i >= length) continue;
      const long block = call_.block_table[sequence * call_.table_stride + (tile + i) / call_.block_size];
      const long slot = (block * call_.num_kv_heads + kv_head) * call_.block_size + (tile + i) % call_.block_size;
      keys[i] = static_cast<const Number*>(call_.key_cache) + slot * call_.head_dim;
      values[i] = static_cast<const Number*>(call_.value_cache) + slot * call_.head_dim;
    }
    for (long i = 0; i < TILE; i += PANEL) make_panel(keys + i, call_.head_dim, scratch_.keys + i * call_.head_dim);
    for (long d = 0; d < depth_; d += PANEL) copy_values(values, d, scratch_.values + d * TILE);
  }

  void copy_values(const Number* const* values, long d, float* panel) {
    const long width = std::min<long>(PANEL, call_.head_dim - d);
    for (long i = 0; i < TILE; ++i) {
      for (long j = 0; j < width; ++j) panel[i * PANEL + j] = widen(values[i][d + j]);
      for (long j = width; j < PANEL; ++j) panel[i * PANEL + j] = 0;
    }
  }

  void score(long rows) {
    std::fill_n(scratch_.scores, rows * TILE, 0.0f);
    for (long i = 0; i < TILE; i += PANEL) {
      multiply(rows, scratch_.query, call_.head_dim, scratch_.keys + i * call_.head_dim, call_.head_dim,
               scratch_.scores + i, TILE);
    }
    if (call_.soft_cap == 0) return;
    for (long i = 0; i < rows * TILE; i += VL) {
      store(scratch_.scores + i, call_.soft_cap * tanh(load(scratch_.scores + i) / call_.soft_cap));
    }
  }

  // -inf where a row's query does not look: after its own position, and before its window.
  void mask(long tile, long first, long count) {
    for (long row = 0; row < count * group_; ++row) {
      const long position = first + row / group_;
      float* const scores = scratch_.scores + row * TILE;
      const long end = std::clamp(position + 1 - tile, 0L, TILE);
      std::fill(scores + end, scores + TILE, -__builtin_inff());
      if (!call_.window) continue;
      std::fill_n(scores, std::clamp(position + 1 - call_.window - tile, 0L, TILE), -__builtin_inff());
    }
  }

  void accumulate(long rows) {
    for (long row = 0; row < rows; ++row) {
      const float correction = soften(scratch_.scores + row * TILE, scratch_.most + row, scratch_.total + row);
      if (correction == 1) continue;
      for (long d = 0; d < depth_; ++d) scratch_.sums[row * depth_ + d] *= correction;
    }
    for (long d = 0; d < depth_; d += PANEL) {
      multiply(rows, scratch_.scores, TILE, scratch_.values + d * TILE, TILE, scratch_.sums + d, depth_);
    }
  }

  // One row's scores to weights, in place. Returns what earlier sums have to be multiplied by.
  static float soften(float* scores, float* most, float* total) {
    Vec most_of_tile = load(scores);
    for (long i = VL; i < TILE; i += VL) {
      const Vec some = load(scores + i);
      most_of_tile = some > most_of_tile ? some : most_of_tile;
    }
    const float before = *most, now = std::max(before, largest(most_of_tile));
    // Nothing seen so far (a window that begins later): the weights are zeros, and -inf - -inf is avoided.
    const float reference = now == -__builtin_inff() ? 0 : now;
    Vec sums = {};
    for (long i = 0; i < TILE; i += VL) {
      const Vec weights = exp(load(scores + i) - reference);
      store(scores + i, weights);
      sums += weights;
    }
    const float correction = before == now ? 1 : exp(Vec{} + (before - reference))[0];
    *most = now;
    *total = *total * correction + sum(sums);
    return correction;
  }

  void finish(long token, long count, long kv_head) {
    for (long row = 0; row < count * group_; ++row) {
      const long head = kv_head * group_ + row % group_;
      Number* const to =
          static_cast<Number*>(call_.out) + ((token + row / group_) * call_.num_heads + head) * call_.head_dim;
      for (long d = 0; d < call_.head_dim; ++d) narrow(scratch_.sums[row * depth_ + d] / scratch_.total[row], to + d);
    }
  }

  const OctavoAttention& call_;
  const long group_, queries_, depth_;
  Scratch scratch_;
};

long list_tasks(const OctavoAttention& call, long queries_per_task, Task* tasks) {
  long count = 0;
  for (int32_t sequence = 0; sequence < call.num_sequences; ++sequence) {
    const int32_t num_queries = call.query_start_loc[sequence + 1] - call.query_start_loc[sequence];
    for (int32_t first = 0; first < num_queries; first += queries_per_task) tasks[count++] = {sequence, first};
  }
  return count;
}

template <class Number>
void attend(const OctavoAttention& call) {
  const long group = call.num_heads / call.num_kv_heads;
  const long queries_per_task = std::max(1L, ROWS / group);
  const long num_tokens = call.query_start_loc[call.num_sequences];
  Task* const tasks = static_cast<Task*>(malloc((num_tokens / queries_per_task + call.num_sequences) * sizeof(Task)));
  const long count = list_tasks(call, queries_per_task, tasks);
#pragma omp parallel
  {
    Worker<Number> worker(call, queries_per_task);
#pragma omp for schedule(dynamic)
    for (long i = 0; i < count * call.num_kv_heads; ++i) worker.run(tasks[i / call.num_kv_heads], i % call.num_kv_heads);
  }
  free(tasks);
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

void octavo_attend(const OctavoAttention* call, bool is_bfloat16) {
  if (is_bfloat16) return attend<BFloat16>(*call);
  attend<float>(*call);
}
#pragma GCC visibility pop
}

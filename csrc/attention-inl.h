// Softmax attention over paged keys and values, one KV head at a time, in tiles of kPageTokens positions.
//
// A tile is aligned to absolute position and tiles are taken in order, so a query's result depends on nothing but its
// own position and the cache. A tile in which a query sees nothing leaves its state untouched, bit for bit. Online
// softmax as in Milakov & Gimelshein 2018; per query row: the running maximum, sixteen lanes of the denominator, and
// the weighted sum of values.
#pragma once

#include "kernel_table.h"
#include "math-inl.h"
#include "runs-inl.h"

namespace abaci {
namespace {

// Up to this many queries, pages are converted to floats where they are read; with more, once into a tile.
constexpr int64_t kFewQueries = 2 * kQueryRows;
constexpr float kLargestF16 = 65504.0f;

ABACI_INLINE F32x16 clamp_to_f16(F32x16 x) {
    return min(max(x, splat(-kLargestF16)), splat(kLargestF16));
}

// Keys are kept transposed: element d of slot s lies at page[d * kPageTokens + s].
void store_keys(const float* head, int32_t head_dim, uint16_t* page, int32_t slot) {
    for (int32_t d = 0; d < head_dim; d += 16) {
        const int lanes = head_dim - d < 16 ? head_dim - d : 16;
        uint16_t halves[16];
        store_f16(halves, clamp_to_f16(load_first(head + d, lanes)));
        for (int i = 0; i < lanes; ++i) page[(d + i) * kPageTokens + slot] = halves[i];
    }
}

void store_values(const float* head, int32_t head_dim, uint16_t* page, int32_t slot) {
    uint16_t* out = page + slot * head_dim;
    for (int32_t d = 0; d < head_dim; d += 16) {
        const int lanes = head_dim - d < 16 ? head_dim - d : 16;
        uint16_t halves[16];
        store_f16(halves, clamp_to_f16(load_first(head + d, lanes)));
        std::memcpy(out + d, halves, lanes * sizeof(uint16_t));
    }
}

struct AttentionScratch {
    int32_t padded_dim, padded_values;
    float* queries;       // [rows][padded_dim], scaled
    float* sums;          // [rows][padded_values]
    float* maxima;        // [rows]
    float* denominators;  // [rows][16]
    float* keys;          // [head_dim][kPageTokens]
    float* values;        // [kPageTokens][padded_values]
    float* weights;       // [kQueryRows][kPageTokens]
};

ABACI_INLINE int32_t padded_head_dim(int32_t head_dim) {
    return (head_dim + 31) / 32 * 32;
}

size_t attention_scratch_bytes(int64_t rows, int32_t head_dim) {
    const size_t padded = padded_head_dim(head_dim);
    const size_t floats = 2 * rows * padded + rows * 17 + 2 * padded * kPageTokens + kQueryRows * kPageTokens + 7 * 16;
    return floats * sizeof(float) + 64;
}

AttentionScratch lay_out(uint8_t* scratch, int64_t rows, int32_t head_dim, int32_t value_dim) {
    auto* next = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
    const auto take = [&](size_t count) {
        float* taken = next;
        next += (count + 15) / 16 * 16;
        return taken;
    };
    AttentionScratch s;
    s.padded_dim = padded_head_dim(head_dim);
    s.padded_values = padded_head_dim(value_dim);
    s.queries = take(rows * s.padded_dim);
    s.sums = take(rows * s.padded_values);
    s.maxima = take(rows);
    s.denominators = take(rows * 16);
    s.keys = take(s.padded_dim * kPageTokens);
    s.values = take(kPageTokens * s.padded_values);
    s.weights = take(kQueryRows * kPageTokens);
    return s;
}

// A page's keys and values as floats. Values of slots at or after `used` may be anything: they become zero, so that a
// weight of zero times them is zero.
void load_tile(const AttentionTask& task, int64_t page, int used, const AttentionScratch& s) {
    const uint16_t* keys = task.keys + page;
    for (int i = 0; i < task.head_dim * kPageTokens; i += 16) store(s.keys + i, load_f16(keys + i));
    if (!task.values) {
        for (int slot = 0; slot < kPageTokens; ++slot)
            for (int d = 0; d < s.padded_values; ++d)
                s.values[slot * s.padded_values + d] =
                    slot < used && d < task.value_dim ? s.keys[d * kPageTokens + slot] : 0.0f;
        return;
    }
    const uint16_t* values = task.values + page;
    for (int slot = 0; slot < kPageTokens; ++slot)
        for (int d = 0; d < s.padded_values; d += 16) {
            F32x16 v = zeros();
            if (slot < used && d + 16 <= task.value_dim) v = load_f16(values + slot * task.value_dim + d);
            if (slot < used && d < task.value_dim && d + 16 > task.value_dim) {
                uint16_t halves[16] = {};
                std::memcpy(halves, values + slot * task.value_dim + d, (task.value_dim - d) * sizeof(uint16_t));
                v = load_f16(halves);
            }
            store(s.values + slot * s.padded_values + d, v);
        }
}

// Where a tile's keys and values are read from: the page itself, or its float copy.
struct PageTile {
    const uint16_t* keys;
    const uint16_t* values;
    int32_t stride;
    ABACI_INLINE F32x16 key(int32_t at) const { return load_f16(keys + at); }
    ABACI_INLINE F32x16 value(int32_t at) const { return load_f16(values + at); }
};
struct FloatTile {
    const float* keys;
    const float* values;
    int32_t stride;
    ABACI_INLINE F32x16 key(int32_t at) const { return load(keys + at); }
    ABACI_INLINE F32x16 value(int32_t at) const { return load(values + at); }
};

// Scores of Rows queries against the tile's 32 positions.
template <int Rows, class Tile>
ABACI_INLINE void score_rows(const float* queries, int32_t stride, int32_t head_dim, const Tile& tile,
                             F32x16 (&scores)[Rows][2]) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) scores[r][0] = scores[r][1] = zeros();
    for (int32_t d = 0; d < head_dim; ++d) {
        const F32x16 k0 = tile.key(d * kPageTokens), k1 = tile.key(d * kPageTokens + 16);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const F32x16 q = splat(queries[r * stride + d]);
            scores[r][0] = fma(q, k0, scores[r][0]);
            scores[r][1] = fma(q, k1, scores[r][1]);
        }
    }
}

// sums += weights x values for Rows queries.
template <int Rows, class Tile>
ABACI_INLINE void add_values(const float* weights, const Tile& tile, int32_t stride, int num_slots, float* sums) {
    for (int32_t d = 0; d < stride; d += 32) {
        F32x16 acc[Rows][2];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            acc[r][0] = load(sums + r * stride + d);
            acc[r][1] = load(sums + r * stride + d + 16);
        }
        for (int slot = 0; slot < num_slots; ++slot) {
            const F32x16 v0 = tile.value(slot * tile.stride + d), v1 = tile.value(slot * tile.stride + d + 16);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                const F32x16 w = splat(weights[r * kPageTokens + slot]);
                acc[r][0] = fma(w, v0, acc[r][0]);
                acc[r][1] = fma(w, v1, acc[r][1]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            store(sums + r * stride + d, acc[r][0]);
            store(sums + r * stride + d + 16, acc[r][1]);
        }
    }
}

// One tile for queries [first, first + Rows). Query row i belongs to token row i / heads_per_group.
template <int Rows, class Tile>
void attend_tile(const AttentionTask& task, const AttentionScratch& s, const Tile& tile, int64_t tile_start,
                 int64_t first) {
    F32x16 scores[Rows][2];
    score_rows<Rows>(s.queries + first * s.padded_dim, s.padded_dim, task.head_dim, tile, scores);
    const F32x16 nothing = splat(-__builtin_inff());
    bool any = false;
    int num_slots = 0;
    for (int r = 0; r < Rows; ++r) {
        const int64_t position = task.first_position + (first + r) / task.heads_per_group;
        const int64_t last = position - tile_start + 1;
        const int64_t oldest = task.window ? position - task.window + 1 - tile_start : 0;
        const int begin = static_cast<int>(oldest < 0 ? 0 : oldest > kPageTokens ? kPageTokens : oldest);
        const int end = static_cast<int>(last < 0 ? 0 : last > kPageTokens ? kPageTokens : last);
        float* weights = s.weights + r * kPageTokens;
        if (begin >= end) {
            store(weights, zeros());
            store(weights + 16, zeros());
            continue;
        }
        any = true;
        num_slots = end > num_slots ? end : num_slots;
        F32x16 a = scores[r][0], b = scores[r][1];
        if (begin > 0 || end < kPageTokens) {
            a = select_lanes(begin < 16 ? begin : 16, end < 16 ? end : 16, a, nothing);
            b = select_lanes(begin > 16 ? begin - 16 : 0, end > 16 ? end - 16 : 0, b, nothing);
        }
        float& maximum = s.maxima[first + r];
        const float tile_maximum = reduce_max(max(a, b));
        float* denominator = s.denominators + (first + r) * 16;
        if (tile_maximum > maximum) {
            const F32x16 shrink = exp(splat(maximum - tile_maximum));
            maximum = tile_maximum;
            store(denominator, mul(load(denominator), shrink));
            float* sums = s.sums + (first + r) * s.padded_values;
            for (int32_t d = 0; d < s.padded_values; d += 16) store(sums + d, mul(load(sums + d), shrink));
        }
        a = exp(sub(a, splat(maximum)));
        b = exp(sub(b, splat(maximum)));
        store(denominator, add(add(load(denominator), a), b));
        store(weights, a);
        store(weights + 16, b);
    }
    if (any) add_values<Rows>(s.weights, tile, s.padded_values, num_slots, s.sums + first * s.padded_values);
}

template <class Tile>
void attend_tile_rows(const AttentionTask& task, const AttentionScratch& s, const Tile& tile, int64_t tile_start,
                      int64_t num_queries) {
    for_runs<kQueryRows>(0, num_queries, [&](auto rows, int64_t first) {
        attend_tile<decltype(rows)::value>(task, s, tile, tile_start, first);
    });
}

// A query's start: scaled, with nothing seen, or its sink as if a position without a value had been.
void begin_query(const AttentionTask& task, const AttentionScratch& s, int64_t i) {
    const int64_t row = i / task.heads_per_group, head = i % task.heads_per_group;
    const float* query = task.query + row * task.query_stride + head * task.query_head_stride;
    float* scaled = s.queries + i * s.padded_dim;
    for (int32_t d = 0; d < task.tail_begin; ++d) scaled[d] = query[d] * task.scale;
    if (task.query_tail) {
        const float* tail = task.query_tail + row * task.tail_stride + head * task.tail_head_stride;
        for (int32_t d = task.tail_begin; d < task.head_dim; ++d) scaled[d] = tail[d - task.tail_begin] * task.scale;
    }
    std::memset(s.sums + i * s.padded_values, 0, s.padded_values * sizeof(float));
    std::memset(s.denominators + i * 16, 0, 16 * sizeof(float));
    s.maxima[i] = -__builtin_inff();
    if (task.sinks) {
        s.maxima[i] = task.sinks[head];
        s.denominators[i * 16] = 1.0f;
    }
}

void attention(const AttentionTask& task) {
    const int64_t num_queries = int64_t(task.num_rows) * task.heads_per_group;
    const AttentionScratch s = lay_out(task.scratch, num_queries, task.head_dim, task.value_dim);
    for (int64_t i = 0; i < num_queries; ++i) begin_query(task, s, i);
    const int64_t last_position = task.first_position + task.num_rows - 1;
    const int64_t oldest =
        task.window && task.first_position >= task.window ? task.first_position - task.window + 1 : 0;
    for (int64_t tile = oldest / kPageTokens; tile <= last_position / kPageTokens; ++tile) {
        const int64_t start = tile * kPageTokens;
        const int64_t used = last_position - start + 1;
        const int64_t page = task.page_table[tile] * static_cast<int64_t>(task.page_stride);
        // A page that is not full may hold anything behind its last position, and heads may need padding.
        if (num_queries <= kFewQueries && used >= kPageTokens && task.values && task.head_dim % 32 == 0) {
            const PageTile direct{task.keys + page, task.values + page, task.head_dim};
            attend_tile_rows(task, s, direct, start, num_queries);
        } else {
            load_tile(task, page, static_cast<int>(used < kPageTokens ? used : kPageTokens), s);
            attend_tile_rows(task, s, FloatTile{s.keys, s.values, s.padded_values}, start, num_queries);
        }
    }
    for (int64_t i = 0; i < num_queries; ++i) {
        const int64_t row = i / task.heads_per_group, head = i % task.heads_per_group;
        float* out = task.output + row * task.output_stride + head * task.value_dim;
        const float inverse = 1.0f / reduce_add(load(s.denominators + i * 16));
        for (int32_t d = 0; d < task.value_dim; ++d) out[d] = s.sums[i * s.padded_values + d] * inverse;
    }
}

}  // namespace
}  // namespace abaci

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

// The nearest bfloat16 to a float, given as bits, of two equally near ones the even. Cut off at 2^60: larger keys would
// make infinite scores, and those mark other tokens. What is no number is the largest, what is too small for a normal
// one zero, whatever an instruction set makes of them.
inline uint16_t to_cached_bf16(uint32_t bits) {
    constexpr uint32_t largest = (127 + 60) << 23, smallest = 1 << 23, infinity = 255u << 23;
    uint32_t sign = bits & 0x80000000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > infinity) sign = 0;
    if (magnitude > largest) magnitude = largest;
    if (magnitude < smallest) magnitude = 0;
    return static_cast<uint16_t>((sign | (magnitude + 0x7FFF + (magnitude >> 16 & 1))) >> 16);
}

void store_bf16(uint16_t* p, F32x16 x) {
    uint32_t bits[16];
    store(reinterpret_cast<float*>(bits), x);
    for (int i = 0; i < 16; ++i) p[i] = to_cached_bf16(bits[i]);
}

// Groups of a head and slots of a page are equally many, so a group's scales begin where its first number's index says.
static_assert(kCacheGroup == kPageTokens);

// Quantises `count` values, at most a group, to codes of which there is room for a whole group: gives the scale. It is
// rounded first, so that the codes belong to it; no value leaves its mark on another token or head.
uint16_t quantise_cache_group(const float* values, int count, int8_t* codes) {
    const F32x16 low = clamp_to_f16(load_first(values, count < 16 ? count : 16));
    const F32x16 high = count > 16 ? clamp_to_f16(load_first(values + 16, count - 16)) : zeros();
    const float largest = reduce_max(max(absolute(low), absolute(high)));
    uint16_t halves[16];
    store_f16(halves, splat(largest / 127.0f));
    const float scale = reduce_max(load_f16(halves));
    const F32x16 inverse = splat(scale > 0.0f ? 1.0f / scale : 0.0f);
    const auto round = [&](F32x16 x) { return round_to_int(min(max(mul(x, inverse), splat(-127.0f)), splat(127.0f))); };
    store_low_bytes(codes, round(low));
    store_low_bytes(codes + 16, round(high));
    return halves[0];
}

// Calls place(d, numbers that stand for elements d.., how many) over a head; in int8 keeps the scales of its groups.
template <class Place>
void store_int8(const float* head, int32_t head_dim, uint8_t* page, int32_t slot, Place place) {
    auto* scales = reinterpret_cast<uint16_t*>(page + head_dim * kPageTokens);
    for (int32_t d = 0; d < head_dim; d += kCacheGroup) {
        const int count = head_dim - d < kCacheGroup ? head_dim - d : kCacheGroup;
        int8_t codes[kCacheGroup];
        scales[d + slot] = quantise_cache_group(head + d, count, codes);
        place(d, codes, count);
    }
}
// The same in two bytes, float16 or bfloat16.
template <class Place>
void store_halves(CacheType type, const float* head, int32_t head_dim, Place place) {
    for (int32_t d = 0; d < head_dim; d += 16) {
        const int count = head_dim - d < 16 ? head_dim - d : 16;
        const F32x16 values = load_first(head + d, count);
        uint16_t halves[16];
        if (type == CacheType::BFloat16)
            store_bf16(halves, values);
        else
            store_f16(halves, clamp_to_f16(values));
        place(d, halves, count);
    }
}

// Keys are kept transposed: element d of slot s is number d * kPageTokens + s of the head's part of the page.
void store_keys(CacheType type, const float* head, int32_t head_dim, uint8_t* page, int32_t slot) {
    const auto spread = [slot](auto* out) {
        return [out, slot](int32_t d, const auto* from, int count) {
            for (int i = 0; i < count; ++i) out[(d + i) * kPageTokens + slot] = from[i];
        };
    };
    if (type == CacheType::Int8)
        store_int8(head, head_dim, page, slot, spread(reinterpret_cast<int8_t*>(page)));
    else
        store_halves(type, head, head_dim, spread(reinterpret_cast<uint16_t*>(page)));
}

void store_values(CacheType type, const float* head, int32_t head_dim, uint8_t* page, int32_t slot) {
    const auto append = [slot, head_dim](auto* out) {
        return [out, slot, head_dim](int32_t d, const auto* from, int count) {
            std::memcpy(out + slot * head_dim + d, from, count * sizeof *from);
        };
    };
    if (type == CacheType::Int8)
        store_int8(head, head_dim, page, slot, append(reinterpret_cast<int8_t*>(page)));
    else
        store_halves(type, head, head_dim, append(reinterpret_cast<uint16_t*>(page)));
}

struct AttentionScratch {
    int32_t padded_dim, padded_values;
    float* queries;       // [rows][padded_dim], scaled
    float* sums;          // [rows][padded_values]
    float* maxima;        // [rows]
    float* denominators;  // [rows][16]
    float* keys;          // [head_dim][kPageTokens]
    float* values;        // [kPageTokens][padded_values]
    float* key_scales;    // [groups of head_dim][kPageTokens]
    float* value_scales;  // [groups of value_dim][kPageTokens]
    float* weights;       // [kQueryRows][kPageTokens]
};

ABACI_INLINE int32_t padded_head_dim(int32_t head_dim) {
    return (head_dim + 31) / 32 * 32;
}

size_t attention_scratch_bytes(int64_t rows, int32_t head_dim) {
    const size_t padded = padded_head_dim(head_dim);
    const size_t floats =
        2 * rows * padded + rows * 17 + 2 * padded * (kPageTokens + 1) + kQueryRows * kPageTokens + 9 * 16;
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
    s.key_scales = take(s.padded_dim);
    s.value_scales = take(s.padded_values);
    return s;
}

// Where one head's keys or values of a tile are read from: number `at`, and the scale of what lies in its group. The
// page itself, of any type, or its float copy.
template <CacheType Type>
struct HalfPart {
    static constexpr bool kScaled = false;
    static constexpr int32_t kElementBytes = kPageTokens * sizeof(uint16_t);  // of a page, for an element of a head
    const uint16_t* numbers;
    HalfPart(const uint8_t* head, int32_t) : numbers(reinterpret_cast<const uint16_t*>(head)) {}
    static ABACI_INLINE F32x16 read(const uint16_t* p) {
        if constexpr (Type == CacheType::BFloat16) return load_bf16(p);
        return load_f16(p);
    }
    ABACI_INLINE F32x16 load(int32_t at) const { return read(numbers + at); }
    ABACI_INLINE F32x16 first(int32_t at, int count) const {
        uint16_t halves[16] = {};
        std::memcpy(halves, numbers + at, count * sizeof(uint16_t));
        return read(halves);
    }
};
struct CodePart {
    static constexpr bool kScaled = true;
    static constexpr int32_t kElementBytes = kPageTokens + sizeof(uint16_t);
    const uint8_t* codes;
    const uint16_t* scales;
    CodePart(const uint8_t* head, int32_t head_dim)
        : codes(head), scales(reinterpret_cast<const uint16_t*>(head + head_dim * kPageTokens)) {}
    ABACI_INLINE F32x16 load(int32_t at) const { return to_floats(load_i8(codes + at)); }
    ABACI_INLINE F32x16 first(int32_t at, int count) const {
        uint8_t some[16] = {};
        std::memcpy(some, codes + at, count);
        return to_floats(load_i8(some));
    }
    ABACI_INLINE F32x16 scale(int32_t at) const { return load_f16(scales + at); }
};
template <bool Scaled>
struct FloatPart {
    static constexpr bool kScaled = Scaled;
    const float* numbers;
    const float* scales;
    ABACI_INLINE F32x16 load(int32_t at) const { return abaci::load(numbers + at); }
    ABACI_INLINE F32x16 scale(int32_t at) const { return abaci::load(scales + at); }
};

// A head's keys and values of the page that follows, asked for while the ones before are multiplied: from page to page
// no prefetcher sees what comes, and a burst would fill the queue to memory.
template <class Part>
struct PageAhead {
    const uint8_t* keys;
    const uint8_t* values;
    // Its share for one of the head's elements.
    ABACI_INLINE void ask(int32_t element) const {
        prefetch_far(keys + Part::kElementBytes * element);
        prefetch_far(values + Part::kElementBytes * element);
    }
};
struct NothingAhead {
    ABACI_INLINE void ask(int32_t) const {}
};

template <class Part, class Ahead>
struct Tile {
    Part keys, values;
    int32_t stride;  // from slot to slot of the values
    Ahead ahead;
};

// Numbers of a head's groups, of which the last may be shorter, are multiplied with a scale for each slot.
template <class Part>
void load_scales(const Part& part, int32_t dim, float* scales) {
    if constexpr (Part::kScaled)
        for (int32_t i = 0; i < cache_groups(dim) * kPageTokens; i += 16) store(scales + i, part.scale(i));
}

// A page's keys and values as floats. Values of slots at or after `used` may be anything: they become zero, so that a
// weight of zero times them is zero.
template <class Part>
Tile<FloatPart<Part::kScaled>, NothingAhead> load_tile(const AttentionTask& task, int64_t page, int used,
                                                       const AttentionScratch& s) {
    const Part keys(task.keys + page, task.head_dim);
    for (int i = 0; i < task.head_dim * kPageTokens; i += 16) store(s.keys + i, keys.load(i));
    load_scales(keys, task.head_dim, s.key_scales);
    if (!task.values) {
        for (int slot = 0; slot < kPageTokens; ++slot)
            for (int d = 0; d < s.padded_values; ++d)
                s.values[slot * s.padded_values + d] =
                    slot < used && d < task.value_dim ? s.keys[d * kPageTokens + slot] : 0.0f;
        return {{s.keys, s.key_scales}, {s.values, s.key_scales}, s.padded_values, {}};
    }
    const Part values(task.values + page, task.value_dim);
    load_scales(values, task.value_dim, s.value_scales);
    for (int slot = 0; slot < kPageTokens; ++slot)
        for (int d = 0; d < s.padded_values; d += 16) {
            const int left = slot < used ? task.value_dim - d : 0;
            const int32_t at = slot * task.value_dim + d;
            const F32x16 v = left >= 16 ? values.load(at) : left > 0 ? values.first(at, left) : zeros();
            store(s.values + slot * s.padded_values + d, v);
        }
    return {{s.keys, s.key_scales}, {s.values, s.value_scales}, s.padded_values, {}};
}

// sums += queries' elements [begin, end) x keys, for Rows queries and the tile's 32 positions.
template <int Rows, class Part, class Ahead>
ABACI_INLINE void add_products(const float* queries, int32_t stride, int32_t begin, int32_t end,
                               const Tile<Part, Ahead>& tile, F32x16 (&sums)[Rows][2]) {
    const Part& keys = tile.keys;
    for (int32_t d = begin; d < end; ++d) {
        tile.ahead.ask(d);
        const F32x16 k0 = keys.load(d * kPageTokens), k1 = keys.load(d * kPageTokens + 16);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const F32x16 q = splat(queries[r * stride + d]);
            sums[r][0] = fma(q, k0, sums[r][0]);
            sums[r][1] = fma(q, k1, sums[r][1]);
        }
    }
}

template <int Rows>
ABACI_INLINE void clear(F32x16 (&sums)[Rows][2]) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = zeros();
}

// Scores of Rows queries against the tile's 32 positions. With scales, each group is summed up by itself.
template <int Rows, class Part, class Ahead>
ABACI_INLINE void score_rows(const float* queries, int32_t stride, int32_t head_dim, const Tile<Part, Ahead>& tile,
                             F32x16 (&scores)[Rows][2]) {
    const Part& keys = tile.keys;
    clear(scores);
    if constexpr (!Part::kScaled) {
        add_products(queries, stride, 0, head_dim, tile, scores);
    } else {
        for (int32_t begin = 0; begin < head_dim; begin += kCacheGroup) {
            F32x16 sums[Rows][2];
            clear(sums);
            add_products(queries, stride, begin, head_dim - begin < kCacheGroup ? head_dim : begin + kCacheGroup, tile,
                         sums);
            const F32x16 s0 = keys.scale(begin), s1 = keys.scale(begin + 16);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                scores[r][0] = fma(sums[r][0], s0, scores[r][0]);
                scores[r][1] = fma(sums[r][1], s1, scores[r][1]);
            }
        }
    }
}

// sums += weights x values for Rows queries, a group of the values' elements at a time; its scales go to the weights.
template <int Rows, class Part, class Ahead>
ABACI_INLINE void add_values(const float* weights, const Tile<Part, Ahead>& tile, int32_t stride, int num_slots,
                             float* sums) {
    for (int32_t d = 0; d < stride; d += kCacheGroup) {
        const float* factors = weights;
        float scaled[Part::kScaled ? Rows * kPageTokens : 1];
        if constexpr (Part::kScaled) {
            for (int i = 0; i < Rows * kPageTokens; i += 16)
                store(scaled + i, mul(load(weights + i), tile.values.scale(d + i % kPageTokens)));
            factors = scaled;
        }
        F32x16 acc[Rows][2];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            acc[r][0] = load(sums + r * stride + d);
            acc[r][1] = load(sums + r * stride + d + 16);
        }
        for (int slot = 0; slot < num_slots; ++slot) {
            const int32_t at = slot * tile.stride + d;
            const F32x16 v0 = tile.values.load(at), v1 = tile.values.load(at + 16);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                const F32x16 w = splat(factors[r * kPageTokens + slot]);
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
template <int Rows, class Part, class Ahead>
void attend_tile(const AttentionTask& task, const AttentionScratch& s, const Tile<Part, Ahead>& tile,
                 int64_t tile_start, int64_t first) {
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

template <class Part, class Ahead>
void attend_tile_rows(const AttentionTask& task, const AttentionScratch& s, const Tile<Part, Ahead>& tile,
                      int64_t tile_start, int64_t num_queries) {
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

template <class Part>
void attend(const AttentionTask& task) {
    const int64_t num_queries = int64_t(task.num_rows) * task.heads_per_group;
    const AttentionScratch s = lay_out(task.scratch, num_queries, task.head_dim, task.value_dim);
    const int64_t last_position = task.first_position + task.num_rows - 1;
    const int64_t oldest =
        task.window && task.first_position >= task.window ? task.first_position - task.window + 1 : 0;
    const int64_t first_tile = oldest / kPageTokens, last_tile = last_position / kPageTokens;
    const auto page_of = [&](int64_t tile) { return task.page_table[tile] * static_cast<int64_t>(task.page_stride); };
    // Heads may need padding, and values that are a part of the keys are made while those are copied.
    const bool is_in_place = num_queries <= kFewQueries && task.values && task.head_dim % 32 == 0;
    for (int64_t i = 0; i < num_queries; ++i) begin_query(task, s, i);
    for (int64_t tile = first_tile; tile <= last_tile; ++tile) {
        const int64_t start = tile * kPageTokens, page = page_of(tile);
        if (is_in_place) {
            const Part keys(task.keys + page, task.head_dim), values(task.values + page, task.head_dim);
            const int64_t next = page_of(tile < last_tile ? tile + 1 : tile);
            const PageAhead<Part> ahead{task.keys + next, task.values + next};
            const Tile<Part, PageAhead<Part>> in_place{keys, values, task.head_dim, ahead};
            attend_tile_rows(task, s, in_place, start, num_queries);
        } else {
            const int64_t used = last_position - start + 1;
            const int num_used = static_cast<int>(used < kPageTokens ? used : kPageTokens);
            attend_tile_rows(task, s, load_tile<Part>(task, page, num_used, s), start, num_queries);
        }
    }
    for (int64_t i = 0; i < num_queries; ++i) {
        const int64_t row = i / task.heads_per_group, head = i % task.heads_per_group;
        float* out = task.output + row * task.output_stride + head * task.value_dim;
        const float inverse = 1.0f / reduce_add(load(s.denominators + i * 16));
        for (int32_t d = 0; d < task.value_dim; ++d) out[d] = s.sums[i * s.padded_values + d] * inverse;
    }
}

void attention(const AttentionTask& task) {
    switch (task.cache_type) {
        case CacheType::Float16:
            return attend<HalfPart<CacheType::Float16>>(task);
        case CacheType::BFloat16:
            return attend<HalfPart<CacheType::BFloat16>>(task);
        case CacheType::Int8:
            return attend<CodePart>(task);
    }
}

}  // namespace
}  // namespace abaci

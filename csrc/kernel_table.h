// The seam between the step program and the kernels of one instruction set: plain structs and function pointers.
//
// Everything a kernel touches has been checked before: shapes, offsets and page numbers are in range.
// Rows are token positions of the step; a row of activations is contiguous, rows are `stride` elements apart.
#pragma once

#include <cstddef>
#include <cstdint>

namespace abaci {

// Positions per KV page, and the tile in which attention reduces over positions.
inline constexpr int kPageTokens = 32;
// Outputs per panel of packed weights; widths of all activation buffers are rounded up to it.
inline constexpr int kPanel = 32;
// Values that share one activation scale.
inline constexpr int kGroup = 32;

// The order is part of the packed layout's version; append only.
enum class Format : uint32_t {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    Q2_K,
    Q3_K,
    IQ4_NL,
    IQ4_XS,
    IQ3_S,
    IQ3_XXS,
    IQ2_S,
    IQ2_XS,
    IQ2_XXS,
    MXFP4,
    INT4,
    INT4_128,
    INT8,
};
inline constexpr int kNumFormats = 24;

// What weights can be quantised to: GGUF's names for its blocks. See quantise/blocks-inl.h.
enum class BlockFormat : uint32_t { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4 };

inline constexpr bool is_quantised(Format format) {
    return format >= Format::Q4_0;
}

// A matrix of `rows` outputs by `columns` inputs, packed in panels (see matmul/layout.h).
struct PackedMatrix {
    const uint8_t* data;
    size_t panel_bytes;
    int64_t rows;
    int64_t columns;
    Format format;
};

// What is known of every group's values, an int32 each; those of all groups of a row stand together, kind after kind.
enum class GroupSum {
    Whole,  // the sum of its values
    First,  // the sum of the first 16
};
inline constexpr int kGroupSums = 2;

// Rows of activations in both forms. `values`: int8 in [-127, 113], those of one sign in a group summing to at most
// 2,184 (see quantise_group); `scales`: one per group, of either sign; `sums`: [row][GroupSum][group]. Scales and
// sums are readable 64 bytes past their end.
struct Activations {
    const float* floats;
    size_t float_stride;
    const int8_t* values;
    const float* scales;
    const int32_t* sums;
    size_t columns;  // of a whole row, of which a product may read a part

    // The rows, or what begins in them at a group.
    Activations at(int64_t row, int64_t column) const {
        const size_t groups = columns / kGroup;
        Activations part = *this;
        part.floats += row * float_stride + column;
        if (values) {
            part.values += row * columns + column;
            part.scales += row * groups + column / kGroup;
            part.sums += row * kGroupSums * groups + column / kGroup;
        }
        return part;
    }

    const int32_t* group_sums(int64_t row, GroupSum kind, int64_t group) const {
        const int64_t groups = columns / kGroup;
        return sums + (row * kGroupSums + static_cast<int>(kind)) * groups + group;
    }
};

// Keeps a task's activations in the second-level cache.
inline constexpr int kMaxTaskRows = 136;

struct MatmulTask {
    PackedMatrix matrix;
    Activations input;
    float* output;
    size_t output_stride;
    const float* bias;           // null, or rounded up to whole panels
    bool accumulate;             // start from what the output holds (a residual) instead of zero
    int64_t row_begin, row_end;  // at most kMaxTaskRows
    int64_t panel_begin, panel_end;
};

// See abaci/models/spec.py, Activation.
enum class ActivationKind : int32_t { Silu, GeluTanh, Sigmoid, ClampedSwiglu };
inline constexpr int kNumActivations = 4;

// Where a row, or a part of it that starts at a group, is quantised to. See Activations.
struct QuantiseTarget {
    int8_t* values;  // null: not wanted
    float* scales;
    int32_t* sums;
    int64_t row_groups;  // groups of the whole row: how far the sums of one kind lie behind those of another
};

struct NormTask {
    const float* input;
    float* output;  // may be the input
    const float* weight;
    int64_t columns;
    float epsilon;
    QuantiseTarget quantised;
};

// Rotation of one head. `cosines`, `sines`: dim/2 values of the row's position.
struct RopeTask {
    float* head;
    const float* cosines;
    const float* sines;
    int32_t dim;
    bool interleaved;
};

// What pages keep keys and values as. Int8: a head of a token is quantised by itself, in groups of kCacheGroup along
// the head (the last may be shorter), value = code * scale. Some models have single large elements in their keys, which
// would coarsen the step of their group. So keys and queries are both mixed first, which leaves their products as they
// are and spreads such an element over the head (QuaRot, Ashkboos et al. 2024).
enum class CacheType : int32_t { Float16, BFloat16, Int8 };
inline constexpr int kNumCacheTypes = 3;
inline constexpr int kCacheGroup = 32;

// Values mixed with each other: the largest power of two that divides a head.
inline constexpr int32_t mixed_size(int32_t head_dim) {
    return head_dim & -head_dim;
}

// Scales of a head's groups.
inline constexpr int64_t cache_groups(int64_t head_dim) {
    return (head_dim + kCacheGroup - 1) / kCacheGroup;
}
// Bytes of the keys, or of the values, of one head in a page.
inline constexpr int64_t cache_head_bytes(CacheType type, int64_t head_dim) {
    if (type != CacheType::Int8) return head_dim * kPageTokens * 2;
    return (head_dim + cache_groups(head_dim) * 2) * kPageTokens;
}

// One KV head, a run of rows of one sequence, all query heads of the group. A layer's part of a page:
//   keys   [kv_head] of [head_dim][kPageTokens] values or codes (transposed, so that lanes are positions)
//   values [kv_head] of [kPageTokens][head_dim] values or codes
// of float16, bfloat16 or int8; each head's codes are followed by its scales, float16 [groups][kPageTokens].
// In latent attention there are no values: they are the first `value_dim` elements of the keys; and the last
// `head_dim - tail_begin` elements of a query lie elsewhere, in `query_tail`.
struct AttentionTask {
    const float* query;  // first row, first query head of the group
    size_t query_stride, query_head_stride;
    const float* query_tail;
    size_t tail_stride, tail_head_stride;
    int32_t tail_begin;  // head_dim where there is no tail
    float* output;
    size_t output_stride;
    CacheType cache_type;
    const uint8_t* keys;    // at this KV head of page 0
    const uint8_t* values;  // null: see above
    const float* sinks;     // per query head of the group; null: none
    size_t page_stride;     // bytes from page to page
    const int32_t* page_table;
    int64_t first_position;  // of the first row
    int32_t num_rows;
    int32_t heads_per_group;
    int32_t head_dim, value_dim;
    int32_t window;  // 0: none
    float scale;
    uint8_t* scratch;  // attention_scratch_bytes(num_rows * heads_per_group, head_dim)
};
inline constexpr int kMaxHeadDim = 1024;

// The gated delta rule of one value head over the tokens of one sequence (see abaci/models/spec.py, DeltaNet).
struct DeltaTask {
    const float* query;  // of the first token; from token to token `stride` elements
    const float* key;
    const float* value;
    size_t stride;
    const float* decay;  // what the state is multiplied by, and the share of the correction; `factor_stride` apart
    const float* share;
    size_t factor_stride;
    float* output;
    size_t output_stride;
    float* state;  // [key_dim][value_dim]
    int32_t num_tokens, key_dim, value_dim;
};

// One row of the convolution before a delta net: out[c] = silu(sum over i of inputs[i][c] * kernel[i][c]).
struct ConvolutionTask {
    const float* const* inputs;  // kernel_size rows, oldest first
    const float* kernel;         // [kernel_size][channels]
    int64_t channels;
    int32_t kernel_size;
    float* output;
};
inline constexpr int kMaxConvolution = 64;

struct KernelTable {
    const char* name;
    void (*matmul[kNumFormats])(const MatmulTask&);
    void (*quantise)(const float* input, int64_t columns, const QuantiseTarget&);
    void (*rms_norm)(const NormTask&);
    void (*rope)(const RopeTask&);
    // The Walsh-Hadamard transform of each run of `size` values, a power of two of at most kMaxHeadDim, in place.
    void (*mix)(float* x, int64_t count, int32_t size);
    void (*gated)(const float* gate, const float* up, int64_t columns, ActivationKind, float* out);
    void (*add)(const float* x, const float* y, int64_t columns, float* out);
    // out = x + scale * y.
    void (*add_scaled)(const float* x, const float* y, float scale, int64_t columns, float* out);
    // x / sqrt(sum of squares + epsilon) * scale.
    void (*unit)(const float* x, int64_t columns, float epsilon, float scale, float* out);
    void (*convolve)(const ConvolutionTask&);
    void (*delta_rule)(const DeltaTask&);
    // One head of one token into its slot; `page`: the head's part of the page. What is not finite becomes finite.
    void (*store_keys)(CacheType type, const float* head, int32_t head_dim, uint8_t* page, int32_t slot);
    void (*store_values)(CacheType type, const float* head, int32_t head_dim, uint8_t* page, int32_t slot);
    void (*attention)(const AttentionTask&);
    size_t (*attention_scratch_bytes)(int64_t num_query_rows, int32_t head_dim);
    float (*row_max)(const float* x, int64_t n);
    // Sum of exp((x - shift) * scale) in blocks of kSumBlock: block_sums gets one value per block.
    void (*exp_sums)(const float* x, int64_t n, float shift, float scale, float* block_sums);
    void (*exp_values)(const float* x, int64_t n, float shift, float scale, float* out);
    void (*block_maxima)(const float* x, int64_t n, float* maxima);
    void (*prepare_thread)();  // rounding and flush modes
    int64_t (*int8_peak)(int64_t rounds, int32_t* sink);
    int32_t (*read_memory)(const uint8_t* p, int64_t num_bytes);
    // A row of weights, whole blocks of it, into the file's form. `importance`: null, or a weight for each column.
    // False where a value is not finite or too large for the format.
    bool (*quantise_weights)(BlockFormat format, const float* x, const float* importance, int64_t columns,
                             uint8_t* blocks);
};
inline constexpr int kSumBlock = 1024;
inline constexpr int kMaxBlock = 64;

const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_vnni_kernels();
const KernelTable* neon_dotprod_kernels();

}  // namespace abaci

// The kernel table of one target: included at the end of each targets/*.cpp, after its simd header.
#include "attention-inl.h"
#include "ceilings-inl.h"
#include "delta-inl.h"
#include "elementwise-inl.h"
#include "matmul/paired-inl.h"
#include "quantise/blocks-inl.h"

#define ABACI_STRING_OF(x) #x
#define ABACI_STRING(x) ABACI_STRING_OF(x)
#define ABACI_JOIN_OF(a, b) a##b
#define ABACI_JOIN(a, b) ABACI_JOIN_OF(a, b)

namespace abaci {

const KernelTable* ABACI_JOIN(ABACI_TARGET, _kernels)() {
    static constexpr KernelTable table = {
        .name = ABACI_STRING(ABACI_TARGET),
        .matmul = {matmul_floats<ReadF32>,
                   matmul_floats<ReadF16>,
                   matmul_floats<ReadBF16>,
                   matmul_quantised<Layout<Format::Q4_0>>,
                   matmul_paired<Layout<Format::Q4_1>>,
                   matmul_quantised<Layout<Format::Q5_0>>,
                   matmul_quantised<Layout<Format::Q5_1>>,
                   matmul_quantised<Layout<Format::Q8_0>>,
                   matmul_paired<Layout<Format::Q4_K>>,
                   matmul_quantised<Layout<Format::Q5_K>>,
                   matmul_quantised<Layout<Format::Q6_K>>,
                   matmul_quantised<Layout<Format::Q2_K>>,
                   matmul_quantised<Layout<Format::Q3_K>>,
                   matmul_quantised<Layout<Format::IQ4_NL>>,
                   matmul_quantised<Layout<Format::IQ4_XS>>,
                   matmul_quantised<Layout<Format::IQ3_S>>,
                   matmul_quantised<Layout<Format::IQ3_XXS>>,
                   matmul_quantised<Layout<Format::IQ2_S>>,
                   matmul_quantised<Layout<Format::IQ2_XS>>,
                   matmul_quantised<Layout<Format::IQ2_XXS>>,
                   matmul_quantised<Layout<Format::MXFP4>>,
                   matmul_quantised<Layout<Format::INT4>>,
                   matmul_quantised<Layout<Format::INT4_128>>,
                   matmul_quantised<Layout<Format::INT8>>},
        .quantise = quantise_row,
        .rms_norm = rms_norm,
        .rope = rope,
        .mix = mix,
        .gated = gated,
        .add = add_rows,
        .add_scaled = add_scaled,
        .unit = unit,
        .convolve = convolve,
        .delta_rule = delta_rule,
        .store_keys = store_keys,
        .store_values = store_values,
        .attention = attention,
        .attention_scratch_bytes = attention_scratch_bytes,
        .row_max = row_max,
        .exp_sums = exp_sums,
        .exp_values = exp_values,
        .block_maxima = block_maxima,
        .prepare_thread = set_float_modes,
        .int8_peak = int8_peak,
        .read_memory = read_memory,
        .quantise_weights = quantise_weights,
    };
    return &table;
}

}  // namespace abaci

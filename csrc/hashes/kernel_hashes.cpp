// Runs every kernel of every target that this processor has on made-up inputs, and prints what each gave, as a hash:
// lines of "target kernel hash". Equal lines from two machines mean equal bytes. For tests; not part of the package.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "dispatch.h"
#include "hashes/inputs.h"
#include "pool.h"
#include "sample.h"
#include "scalar_math.h"
#include "weights.h"

namespace abaci {
namespace {

// A kernel that is added must be hashed below, and counted here.
static_assert(sizeof(KernelTable) == (kNumFormats + 23) * sizeof(void*));

class Hashing {
  public:
    explicit Hashing(const KernelTable& kernels) : k_(kernels) {}

    void run() {
        for (int i = 0; i < kNumFormats; ++i) matmul(static_cast<Format>(i));
        quantise();
        norms();
        rotations();
        rows();
        exponentials();
        delta_net();
        pages();
        for (int type = 0; type < kNumCacheTypes; ++type) attention(static_cast<CacheType>(type));
        for (int i = 0; i <= static_cast<int>(BlockFormat::MXFP4); ++i) quantise_weights(static_cast<BlockFormat>(i));
        ceilings();
        sampling();
        angles();
    }

  private:
    void report(const std::string& name, const Hash& hash) {
        std::printf("%s %s %016" PRIx64 "\n", k_.name, name.c_str(), hash.value());
    }

    static std::string named(const std::string& kernel, CacheType type) {
        return kernel + "/" + std::to_string(static_cast<int>(type));
    }

    // Few rows and many, groups that fill no whole block, a last panel that is not full.
    void matmul(Format format) {
        constexpr int64_t outputs = 70, padded = 96, most_rows = 25;
        const int block = source_block(format).values;
        const int64_t columns = block == 1 ? 70 : block == 32 ? 544 : block == 128 ? 640 : 768;
        const Buffer<uint8_t> stored = stored_rows(format, outputs, columns);
        const size_t panel_bytes = packed_panel_bytes(format, columns);
        Buffer<uint8_t> packed(panel_bytes * padded / kPanel);
        Hash hash;
        const bool finite = pack_panels(format, stored.data(), outputs, columns, 0, padded / kPanel, packed.data());
        if (!finite) std::abort();
        hash.add(packed);
        const PackedMatrix matrix = {packed.data(), panel_bytes, outputs, columns, format};
        Floats row(columns);
        for (int64_t i = 0; i < outputs; i += 7) {
            unpack_row(matrix, i, 0.75f, row.data());
            hash.add(row);
        }

        Random random(7);
        const float magnitudes[] = {1.0f, 1e-3f, 1e4f, 1e-29f, 1e-31f, from_bits(0x00300000), 0.0f};
        Floats input;
        for (int64_t r = 0; r < most_rows; ++r)
            for (float value : random.numbers(columns, magnitudes[r % 7])) input.push_back(value);
        const int64_t num_groups = columns / kGroup;
        constexpr size_t readable = 16;
        Buffer<int8_t> values(most_rows * columns);
        Floats scales(most_rows * num_groups + readable);
        Buffer<int32_t> sums(kGroupSums * most_rows * num_groups + readable);
        Activations activations = {input.data(), static_cast<size_t>(columns), nullptr, nullptr,
                                   nullptr,      static_cast<size_t>(columns)};
        if (is_quantised(format)) {
            for (int64_t r = 0; r < most_rows; ++r)
                k_.quantise(input.data() + r * columns, columns,
                            {values.data() + r * columns, scales.data() + r * num_groups,
                             sums.data() + kGroupSums * r * num_groups, num_groups});
            activations.values = values.data();
            activations.scales = scales.data();
            activations.sums = sums.data();
        }
        const Floats bias = random.numbers(padded);
        for (int64_t num_rows : {1, 2, 3, 5, 25})
            for (int start = 0; start < 3; ++start) {
                Floats output = random.numbers(num_rows * padded);
                k_.matmul[static_cast<int>(format)]({.matrix = matrix,
                                                     .input = activations,
                                                     .output = output.data(),
                                                     .output_stride = padded,
                                                     .bias = start == 1 ? bias.data() : nullptr,
                                                     .accumulate = start == 2,
                                                     .row_begin = 0,
                                                     .row_end = num_rows,
                                                     .panel_begin = 0,
                                                     .panel_end = padded / kPanel});
                hash.add(output);
            }
        report("matmul/" + std::to_string(static_cast<int>(format)), hash);
    }

    struct Quantised {
        explicit Quantised(int64_t columns)
            : values(columns),
              scales(columns / kGroup),
              sums(kGroupSums * columns / kGroup),
              num_groups(columns / kGroup) {}
        QuantiseTarget target() { return {values.data(), scales.data(), sums.data(), num_groups}; }
        void add_to(Hash& hash) const {
            hash.add(values);
            hash.add(scales);
            hash.add(sums);
        }
        Buffer<int8_t> values;
        Floats scales;
        Buffer<int32_t> sums;
        int64_t num_groups;
    };

    void quantise() {
        Random random(11);
        Hash hash;
        const Floats odd = extremes();
        for (float magnitude : {1.0f, 1e20f, 1e-29f, 1.1e-30f, 1e-31f}) {
            Floats x = random.numbers(256, magnitude);
            for (int i = 0; i < 32; ++i) x[i] = i == 0 ? 127.0f : i * 0.5f - 8.0f;  // ties
            for (int group = 1; group < 4; ++group)
                x[32 * group + random.bits() % 32] = odd[random.bits() % odd.size()];
            for (int i = 128; i < 160; ++i) x[i] = odd[random.bits() % odd.size()];
            Quantised out(256);
            k_.quantise(x.data(), 256, out.target());
            out.add_to(hash);
        }
        report("quantise", hash);
    }

    void norms() {
        Random random(13);
        Hash norm, unit;
        for (int64_t n : {1, 15, 16, 17, 33, 64, 896})
            for (float magnitude : {1.0f, 1e15f, 1e-15f, 1e-30f, 0.0f}) {
                const Floats x = random.numbers(n, magnitude), weight = random.numbers(n);
                Floats out(n);
                Quantised quantised(n / 32 * 32);
                k_.rms_norm({x.data(), out.data(), weight.data(), n, 1e-6f,
                             n % 32 == 0 ? quantised.target() : QuantiseTarget{}});
                norm.add(out);
                quantised.add_to(norm);
                k_.unit(x.data(), n, 1e-6f, 0.125f, out.data());
                unit.add(out);
            }
        report("rms_norm", norm);
        report("unit", unit);
    }

    void rotations() {
        Random random(17);
        for (bool interleaved : {false, true}) {
            Hash hash;
            for (int32_t dim : {2, 6, 32, 40, 128}) {
                Floats head = random.numbers(dim), cosines = random.numbers(dim / 2), sines = random.numbers(dim / 2);
                k_.rope({head.data(), cosines.data(), sines.data(), dim, interleaved});
                hash.add(head);
            }
            report(interleaved ? "rope/interleaved" : "rope", hash);
        }
        Hash mixed;
        for (int32_t size : {1, 2, 16, 64, 128}) {
            Floats heads = random.numbers(3 * size);
            k_.mix(heads.data(), 3 * size, size);
            mixed.add(heads);
        }
        report("mix", mixed);
    }

    void rows() {
        Random random(19);
        Hash gates[kNumActivations], sums, scaled_sums, maxima;
        for (int64_t n : {1, 16, 31, 64, 333}) {
            const Floats x = random.numbers(n, 12.0f), y = random.numbers(n, 12.0f);
            Floats out(n), blocks((n + kMaxBlock - 1) / kMaxBlock);
            for (int kind = 0; kind < kNumActivations; ++kind) {
                k_.gated(x.data(), y.data(), n, static_cast<ActivationKind>(kind), out.data());
                gates[kind].add(out);
            }
            k_.add(x.data(), y.data(), n, out.data());
            sums.add(out);
            k_.add_scaled(x.data(), y.data(), 0.3f, n, out.data());
            scaled_sums.add(out);
            k_.block_maxima(x.data(), n, blocks.data());
            blocks.push_back(k_.row_max(x.data(), n));
            maxima.add(blocks);
        }
        for (int kind = 0; kind < kNumActivations; ++kind) report("gated/" + std::to_string(kind), gates[kind]);
        report("add", sums);
        report("add_scaled", scaled_sums);
        report("row_max", maxima);
    }

    void exponentials() {
        Random random(23);
        Floats x = random.numbers(3000, 90.0f);
        for (float value : extremes()) x.push_back(value);
        Floats out(x.size());
        Hash values, sums;
        for (float scale : {1.0f, 1.3f}) {
            k_.exp_values(x.data(), static_cast<int64_t>(x.size()), 0.0f, scale, out.data());
            values.add(out);
            Floats blocks(x.size() / kSumBlock + 1);
            k_.exp_sums(x.data(), static_cast<int64_t>(x.size()), 0.5f, scale, blocks.data());
            sums.add(blocks);
        }
        report("exp_values", values);
        report("exp_sums", sums);
    }

    void delta_net() {
        Random random(29);
        Hash convolved, delta;
        for (int64_t channels : {5, 16, 100}) {
            const Floats inputs = random.numbers(4 * channels), kernel = random.numbers(4 * channels);
            const float* const oldest_first[] = {inputs.data(), inputs.data() + channels, inputs.data() + 2 * channels,
                                                 inputs.data() + 3 * channels};
            Floats out(channels);
            k_.convolve({oldest_first, kernel.data(), channels, 4, out.data()});
            convolved.add(out);
        }
        for (int32_t value_dim : {8, 64, 100}) {
            constexpr int32_t num_tokens = 5, key_dim = 24;
            const size_t stride = 2 * key_dim + value_dim;
            const Floats rows = random.numbers(num_tokens * stride), factors = random.numbers(num_tokens * 2);
            Floats state = random.numbers(key_dim * value_dim), out(num_tokens * value_dim);
            k_.delta_rule({rows.data(), rows.data() + key_dim, rows.data() + 2 * key_dim, stride, factors.data(),
                           factors.data() + 1, 2, out.data(), static_cast<size_t>(value_dim), state.data(), num_tokens,
                           key_dim, value_dim});
            delta.add(out);
            delta.add(state);
        }
        report("convolve", convolved);
        report("delta_rule", delta);
    }

    void pages() {
        for (int type = 0; type < kNumCacheTypes; ++type) pages(static_cast<CacheType>(type));
    }
    void pages(CacheType type) {
        Random random(31);
        Hash keys, values;
        const Floats odd = extremes();
        for (int32_t head_dim : {8, 40, 64}) {
            Buffer<uint8_t> page(cache_head_bytes(type, head_dim));
            for (int32_t slot = 0; slot < kPageTokens; ++slot) {
                Floats head = random.numbers(head_dim, slot % 2 ? 1e-4f : 3.0f);
                head[slot % head_dim] = odd[slot % odd.size()];
                k_.store_keys(type, head.data(), head_dim, page.data(), slot);
            }
            keys.add(page);
            for (int32_t slot = 0; slot < kPageTokens; ++slot) {
                Floats head = random.numbers(head_dim, slot % 2 ? 1e-4f : 3.0f);
                head[slot % head_dim] = odd[(slot + 7) % odd.size()];
                k_.store_values(type, head.data(), head_dim, page.data(), slot);
            }
            values.add(page);
        }
        report(named("store_keys", type), keys);
        report(named("store_values", type), values);
    }

    struct AttentionCase {
        int32_t head_dim = 64, value_dim = 64, tail_begin = 0;
        int32_t num_rows = 9, heads_per_group = 2, window = 0;
        bool sinks = false, is_latent = false;
    };

    void attention(CacheType type) {
        attention(type, "attention", {});
        attention(type, "attention/narrow", {.head_dim = 40, .value_dim = 40, .heads_per_group = 3});
        attention(type, "attention/one", {.num_rows = 1, .heads_per_group = 2});
        attention(type, "attention/window", {.window = 37});
        attention(type, "attention/sinks", {.sinks = true});
        attention(type, "attention/latent", {.head_dim = 80, .value_dim = 56, .tail_begin = 64, .is_latent = true});
    }

    // Rows from position 70 on: two full pages and some of a third, the pages in no order.
    void attention(CacheType type, const char* name, const AttentionCase& of) {
        constexpr int32_t num_pages = 3, first_position = 70;
        constexpr int32_t page_table[num_pages] = {2, 0, 1};
        Random random(37);
        Hash hash;
        // A page of a layer: its keys, then its values.
        const auto key_bytes = static_cast<size_t>(cache_head_bytes(type, of.head_dim));
        const size_t page_bytes = key_bytes + cache_head_bytes(type, of.value_dim);
        Buffer<uint8_t> pages(num_pages * page_bytes);
        for (int32_t position = 0; position < first_position + of.num_rows; ++position) {
            uint8_t* page = pages.data() + page_table[position / kPageTokens] * page_bytes;
            const Floats key = random.numbers(of.head_dim), value = random.numbers(of.value_dim);
            k_.store_keys(type, key.data(), of.head_dim, page, position % kPageTokens);
            k_.store_values(type, value.data(), of.value_dim, page + key_bytes, position % kPageTokens);
        }
        const int64_t num_queries = of.num_rows * of.heads_per_group;
        const Floats queries = random.numbers(num_queries * of.head_dim, 8.0f);
        const Floats tails = random.numbers(num_queries * of.head_dim, 8.0f),
                     sinks = random.numbers(of.heads_per_group);
        Floats out(num_queries * of.value_dim);
        Buffer<uint8_t> scratch(k_.attention_scratch_bytes(num_queries, of.head_dim));
        AttentionTask task = {};
        task.query = queries.data();
        task.query_head_stride = of.head_dim;
        task.query_stride = of.head_dim * of.heads_per_group;
        task.query_tail = of.is_latent ? tails.data() : nullptr;
        task.tail_head_stride = of.head_dim;
        task.tail_stride = of.head_dim * of.heads_per_group;
        task.tail_begin = of.is_latent ? of.tail_begin : of.head_dim;
        task.output = out.data();
        task.output_stride = of.value_dim * of.heads_per_group;
        task.cache_type = type;
        task.keys = pages.data();
        task.values = of.is_latent ? nullptr : pages.data() + key_bytes;
        task.sinks = of.sinks ? sinks.data() : nullptr;
        task.page_stride = page_bytes;
        task.page_table = page_table;
        task.first_position = first_position;
        task.num_rows = of.num_rows;
        task.heads_per_group = of.heads_per_group;
        task.head_dim = of.head_dim;
        task.value_dim = of.value_dim;
        task.window = of.window;
        task.scale = 0.125f;
        task.scratch = scratch.data();
        k_.attention(task);
        hash.add(out);
        report(named(name, type), hash);
    }

    void quantise_weights(BlockFormat format) {
        constexpr int64_t columns = 512;
        Random random(41);
        Hash hash;
        for (float magnitude : {0.05f, 1e-9f, 3e7f, 0.0f}) {
            const Floats x = random.numbers(columns, magnitude);
            Floats importance = random.numbers(columns);
            for (float& weight : importance) weight = std::fabs(weight);
            for (const float* weights :
                 {static_cast<const float*>(nullptr), const_cast<const float*>(importance.data())}) {
                Buffer<uint8_t> blocks(columns * 2);
                blocks.push_back(k_.quantise_weights(format, x.data(), weights, columns, blocks.data()));
                if (blocks.back()) hash.add(blocks);
            }
        }
        report("quantise_weights/" + std::to_string(static_cast<int>(format)), hash);
    }

    void ceilings() {
        Hash hash;
        int32_t sink = 3;
        const int64_t operations = k_.int8_peak(50, &sink);
        Random random(43);
        Buffer<uint8_t> bytes(1 << 13);
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.bits() & random.bits() & random.bits());
        const int32_t read = k_.read_memory(bytes.data(), 1 << 12);
        hash.add(&operations, sizeof operations);
        hash.add(&sink, sizeof sink);
        hash.add(&read, sizeof read);
        report("ceilings", hash);
    }

    void sampling() {
        constexpr int32_t vocab_size = 5000;
        Random random(47);
        Hash hash;
        SampleScratch scratch;
        const HistoryEntry history[] = {{17, 1, 0}, {4000, 0, 3}};
        const BiasEntry bias[] = {{99, 4.0f}, {1234, -100.0f}};
        for (uint32_t i = 0; i < 40; ++i) {
            LogitRow row = {};
            row.seed = random.bits();
            row.target = i % 8 == 7 ? 321 : -1;
            row.sample_index = i % 3;
            row.token_index = i;
            row.temperature = i % 5 == 0 ? 0.0f : 0.25f * static_cast<float>(i % 5);
            row.top_p = i % 2 ? 0.9f : 1.0f;
            row.min_p = i % 3 == 2 ? 0.02f : 0.0f;
            row.top_k = i % 4 == 3 ? 50 : 0;
            row.repetition_penalty = 1.1f;
            row.presence_penalty = 0.5f;
            row.frequency_penalty = 0.25f;
            row.num_top = 5;
            row.history_end = i % 6 == 0 ? 2 : 0;
            row.bias_end = i % 6 == 1 ? 2 : 0;
            Floats logits = random.numbers(vocab_size, 10.0f);
            int32_t token = 0, top_ids[5] = {};
            float logprob = 0.0f, top_logprobs[5] = {};
            sample(k_, {&row, logits.data(), vocab_size, history, bias, nullptr}, scratch,
                   {&token, &logprob, top_ids, top_logprobs});
            hash.add(&token, sizeof token);
            hash.add(&logprob, sizeof logprob);
            hash.add(top_ids, sizeof top_ids);
            hash.add(top_logprobs, sizeof top_logprobs);
        }
        report("sample", hash);
    }

    // Of rope: not kernels, but theirs are the inputs.
    void angles() {
        Hash hash;
        for (int i = 0; i < 2000; ++i) {
            double values[4];
            sin_cos_of(i * i * 0.01, values[0], values[1]);
            values[2] = log_of(0.001 + i);
            values[3] = exp_of(i * 0.1 - 100.0);
            hash.add(values, sizeof values);
        }
        report("scalar_math", hash);
    }

    const KernelTable& k_;
};

}  // namespace
}  // namespace abaci

int main() {
    for (const abaci::KernelTable* kernels : abaci::available_kernels()) {
        const abaci::KernelFloatModes modes(kernels->prepare_thread);
        abaci::Hashing(*kernels).run();
    }
}

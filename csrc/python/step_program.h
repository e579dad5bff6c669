// The step program as Python records and runs it; every operation is checked as it is recorded.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>

#include "python/matrices.h"
#include "python/step_bounds.h"

namespace abaci {

// Heads of a slot with the norm and rotation that go before attention. rope -1: none.
struct PreparedHeads {
    int slot, count;
    std::optional<std::vector<float>> norm;
    float epsilon;
    int rope;
};

// The program with what it points to, and with the checks that the engine's arrays pass before a kernel sees them.
class StepProgram {
  public:
    StepProgram(std::shared_ptr<ThreadPool> pool, const std::string& target, int32_t max_tokens, int32_t vocab_size,
                std::vector<int32_t> windows, int cache_type)
        : max_tokens_(max_tokens),
          vocab_size_(vocab_size),
          num_groups_(static_cast<int>(windows.size())),
          windows_(std::move(windows)) {
        require(max_tokens > 0 && max_tokens <= 65536 && vocab_size > 0 && num_groups_ > 0, "sizes out of range");
        require(cache_type >= 0 && cache_type < kNumCacheTypes, "no such cache type");
        program_ = std::make_unique<Program>(std::move(pool), kernels_of(target), max_tokens, vocab_size, num_groups_,
                                             static_cast<CacheType>(cache_type));
    }

    int add_slot(int64_t columns, int rows_per_token) {
        require(columns > 0 && columns < (int64_t{1} << 24), "columns out of range");
        require(rows_per_token > 0 && rows_per_token <= 1024, "rows per token out of range");
        columns_.push_back(columns);
        return program_->add_slot(columns, rows_per_token);
    }
    int add_rope(double theta, int dim, double linear_scale, const std::optional<Floats1>& factors, bool interleaved,
                 double magnitude, double yarn_factor, double yarn_context, double yarn_fast, double yarn_slow,
                 bool yarn_truncate) {
        require(theta > 0 && std::isfinite(theta) && linear_scale > 0 && dim > 0 && dim % 2 == 0 && dim <= kMaxHeadDim,
                "rope out of range");
        require(!factors || factors->shape(0) == static_cast<size_t>(dim / 2), "rope factors of the wrong size");
        require(magnitude > 0 && std::isfinite(magnitude) && yarn_factor >= 0 && std::isfinite(yarn_factor) &&
                    (yarn_factor == 0 || (yarn_context >= 1 && yarn_context < 1e12 && yarn_fast > 0 &&
                                          yarn_fast < 1e6 && yarn_slow > 0 && yarn_slow < 1e6 && theta > 1)),
                "yarn out of range");
        rope_dims_.push_back(dim);
        return program_->add_rope(theta, dim, linear_scale, factors ? factors->data() : nullptr, interleaved,
                                  {yarn_factor, yarn_context, yarn_fast, yarn_slow, yarn_truncate}, magnitude);
    }
    int add_cache_layer(int group, int num_heads, int head_dim, bool has_values) {
        require(group >= 0 && group < num_groups_ && windows_[group] >= 0 && num_heads > 0 && num_heads <= 4096 &&
                    head_dim > 0 && head_dim <= kMaxHeadDim,
                "cache layer out of range");
        layers_.push_back({num_heads, head_dim, has_values});
        program_->add_cache_layer(group, num_heads, head_dim, has_values);
        return static_cast<int>(layers_.size()) - 1;
    }
    int add_routing(int num_experts, int num_active, bool sigmoid, bool normalise,
                    const std::optional<Floats1>& choice_bias, int num_groups, int top_groups, int group_best,
                    float scale, const std::optional<Floats1>& expert_scales) {
        RouterParameters router{num_experts, num_active, sigmoid,    normalise, nullptr,
                                num_groups,  top_groups, group_best, scale,     nullptr};
        check_router(router);
        require(!choice_bias || static_cast<int>(choice_bias->shape(0)) == num_experts, "bias of the wrong size");
        require(!expert_scales || static_cast<int>(expert_scales->shape(0)) == num_experts, "not one scale per expert");
        if (choice_bias) router.choice_bias = keep(*choice_bias);
        if (expert_scales) router.expert_scales = keep(*expert_scales);
        routings_.push_back({num_experts, num_active});
        return program_->add_routing(router);
    }
    void embed(const Matrix& table, float scale, int out) {
        check_slot(out, table.packed.columns);
        require(table.packed.rows == vocab_size_, "embedding rows are not the vocabulary");
        program_->embed(keep(table), scale, out);
    }
    void embed_from_file(int descriptor, int64_t offset, int format, int64_t columns, float scale, int out) {
        check_matrix(format_of(format), vocab_size_, columns);
        check_slot(out, columns);
        require(descriptor >= 0 && offset >= 0, "no such file");
        program_->embed(descriptor, offset, format_of(format), columns, scale, out);
    }
    void rms_norm(int in, int out, const Floats1& weight, float epsilon, bool quantise) {
        const int64_t columns = weight.shape(0);
        check_slot(in, columns);
        check_slot(out, columns);
        require(!quantise || columns % kGroup == 0, "a quantised row is a multiple of 32");
        program_->rms_norm(in, out, keep(weight), columns, epsilon, quantise);
    }
    void quantise(int slot) {
        check_slot(slot, -1);
        require(columns_[slot] % kGroup == 0, "a quantised row is a multiple of 32");
        program_->quantise(slot);
    }
    void reorder(int in, int out, std::vector<int32_t> order, bool quantise) {
        const int64_t columns = static_cast<int64_t>(order.size());
        check_slot(in, columns);
        check_slot(out, columns);
        require(in != out, "columns cannot change places within a slot");
        for (const int32_t column : order) require(column >= 0 && column < columns, "a column out of range");
        require(!quantise || columns % kGroup == 0, "a quantised row is a multiple of 32");
        program_->reorder(in, out, std::move(order), quantise);
    }
    void linear(int in, const std::vector<Matrix>& matrices, const std::vector<int>& outs,
                const std::vector<std::optional<Floats1>>& biases, bool accumulate) {
        require(!matrices.empty() && matrices.size() == outs.size() && outs.size() == biases.size(),
                "one output and one bias per matrix");
        std::vector<Program::Part> parts;
        for (size_t i = 0; i < matrices.size(); ++i) {
            const PackedMatrix& m = matrices[i].packed;
            check_slot(in, m.columns);
            check_slot(outs[i], m.rows);
            check_input(in, m);
            require(!biases[i] || static_cast<int64_t>(biases[i]->shape(0)) == m.rows, "bias of the wrong size");
            parts.push_back({keep(matrices[i]), outs[i], biases[i] ? keep(*biases[i]) : nullptr, accumulate});
        }
        program_->linear(in, std::move(parts));
    }
    void prepare_heads(const PreparedHeads& query, const std::optional<PreparedHeads>& key,
                       const std::optional<PreparedHeads>& value, int layer, int head_dim, double scale_beta,
                       int scale_period) {
        require(std::isfinite(scale_beta) && scale_period > 0, "scale by position out of range");
        require(key.has_value() == value.has_value(), "a key without a value, or a value without a key");
        require(query.count > 0 && head_dim > 0 && head_dim <= kMaxHeadDim, "heads out of range");
        check_heads(query, head_dim);
        Program::Heads keys = {}, values = {};
        if (key) {
            check_layer(layer, key->count, head_dim);
            require(value->count == key->count && value->slot != key->slot, "values do not go with the keys");
            check_heads(*key, head_dim);
            check_heads(*value, head_dim);
            keys = keep(*key);
            values = keep(*value);
        }
        program_->prepare_heads(keep(query), keys, values, layer, head_dim, {scale_beta, scale_period});
    }
    void attention(int query, int out, int layer, int num_heads, int num_kv_heads, int head_dim, float scale,
                   int window, const std::optional<Floats1>& sinks, bool quantise) {
        check_layer(layer, num_kv_heads, head_dim);
        require(num_heads > 0 && num_heads % num_kv_heads == 0, "attention out of range");
        require(window == windows_[program_->cache_layer(layer).group], "a window that is not the cache's");
        check_slot(query, int64_t{num_heads} * head_dim);
        check_slot(out, int64_t{num_heads} * head_dim);
        require(!quantise || num_heads / num_kv_heads * head_dim % kGroup == 0,
                "a quantised group is a multiple of 32");
        require(!sinks || static_cast<int>(sinks->shape(0)) == num_heads, "not one sink per head");
        program_->attention(query, out, layer, num_heads, num_kv_heads, head_dim, scale, window,
                            sinks ? keep(*sinks) : nullptr, quantise);
    }
    void head_norm(int slot, const Floats1& weight, float epsilon) {
        check_slot(slot, -1);
        const int64_t head_dim = weight.shape(0);
        require(head_dim > 0 && columns_[slot] % head_dim == 0, "heads do not fill the row");
        program_->head_norm(slot, keep(weight), head_dim, epsilon);
    }
    void head_linear(int in, const Matrix& stack, int num_heads, int out) {
        const PackedMatrix& m = stack.packed;
        check_slot(out, -1);
        check_slot(in, -1);
        require(num_heads > 0 && columns_[out] % num_heads == 0, "heads do not fill the row");
        const int64_t rows = columns_[out] / num_heads;
        require(m.rows == num_heads * whole_panels(rows), "heads are not whole panels");
        const int64_t stride = columns_[in] / num_heads;
        require(columns_[in] % num_heads == 0 && stride >= m.columns, "heads do not fill the row");
        check_input(in, m);
        require(!is_quantised(m.format) || stride % kGroup == 0, "heads are not whole groups");
        program_->head_linear(in, stride, keep(stack), num_heads, rows, out);
    }
    void latent_attention(int query, int absorbed, int compressed, int out, int layer, int rope, const Floats1& norm,
                          float epsilon, float scale, int num_heads, int nope_dim) {
        const int64_t latent_dim = norm.shape(0);
        require(num_heads > 0 && num_heads <= 4096 && nope_dim > 0 && latent_dim > 0 && rope >= 0 &&
                    rope < static_cast<int>(rope_dims_.size()) && latent_dim + rope_dims_[rope] <= kMaxHeadDim,
                "latent attention out of range");
        const int64_t rotated = rope_dims_[rope];
        check_slot(query, num_heads * (nope_dim + rotated));
        check_slot(absorbed, num_heads * latent_dim);
        check_slot(compressed, latent_dim + rotated);
        check_slot(out, num_heads * latent_dim);
        require(layer >= 0 && layer < static_cast<int>(layers_.size()) && layers_[layer].num_heads == 1 &&
                    layers_[layer].head_dim == latent_dim + rotated && !layers_[layer].has_values,
                "no such cache layer");
        program_->latent_attention({query, absorbed, compressed, out, layer, rope, keep(norm), epsilon, scale,
                                    num_heads, nope_dim, static_cast<int32_t>(latent_dim)});
    }
    void delta_net(int in, int beta, int alpha, int convolved, int factors, int out, const Floats2& kernel,
                   const Floats1& decay, const Floats1& time_bias, int num_key_heads, int num_value_heads, int key_dim,
                   int value_dim, bool tiled_heads) {
        const int64_t channels = kernel.shape(0), kernel_size = kernel.shape(1);
        require(num_key_heads > 0 && num_value_heads > 0 && num_value_heads <= 4096 && key_dim > 0 &&
                    key_dim <= kMaxHeadDim && value_dim > 0 && value_dim <= kMaxHeadDim &&
                    num_value_heads % num_key_heads == 0 && kernel_size > 0 && kernel_size <= kMaxConvolution &&
                    channels == int64_t{2} * num_key_heads * key_dim + int64_t{num_value_heads} * value_dim,
                "delta net out of range");
        check_slot(in, channels);
        check_slot(convolved, channels);
        check_slot(beta, num_value_heads);
        check_slot(alpha, num_value_heads);
        check_slot(factors, int64_t{2} * num_value_heads);
        check_slot(out, int64_t{num_value_heads} * value_dim);
        require(static_cast<int>(decay.shape(0)) == num_value_heads &&
                    static_cast<int>(time_bias.shape(0)) == num_value_heads,
                "not one decay and bias per head");
        std::vector<float> transposed(channels * kernel_size);
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < kernel_size; ++i) transposed[i * channels + c] = kernel.data()[c * kernel_size + i];
        floats_.push_back(std::move(transposed));
        const float* weights = floats_.back().data();
        program_->delta_net({in, beta, alpha, convolved, factors, out, weights, keep(decay), keep(time_bias), nullptr,
                             channels, 0, num_key_heads, num_value_heads, key_dim, value_dim,
                             static_cast<int32_t>(kernel_size), tiled_heads});
    }
    int observe(int slot, int routing) {
        check_slot(slot, -1);
        if (routing >= 0) check_dispatched(slot, routing);
        observations_.push_back(&program_->observe(slot, routing));
        return static_cast<int>(observations_.size()) - 1;
    }
    auto observed(int index) const {
        require(index >= 0 && index < static_cast<int>(observations_.size()), "no such observation");
        const Observation& observation = *observations_[index];
        auto sums = new_array<double>({observation.counts.size(), static_cast<size_t>(observation.columns)});
        auto counts = new_array<int64_t>({observation.counts.size()});
        std::copy(observation.sums.begin(), observation.sums.end(), sums.data());
        std::copy(observation.counts.begin(), observation.counts.end(), counts.data());
        return std::make_tuple(sums, counts);
    }
    void choose(int logits, int routing) {
        check_slot(logits, routing_at(routing).num_experts);
        program_->choose(logits, routing);
    }
    void dispatch(int in, int routing, int out, bool floats, bool quantise) {
        check_slot(in, -1);
        check_slot(out, columns_[in]);
        check_dispatched(out, routing);
        require(!quantise || columns_[in] % kGroup == 0, "a quantised row is a multiple of 32");
        program_->dispatch(in, routing, out, floats, quantise);
    }
    void expert_linear(int in, int routing, const std::vector<Matrix>& stacks, const std::vector<int>& outs,
                       const std::vector<std::optional<Floats2>>& biases) {
        require(!stacks.empty() && stacks.size() == outs.size() && outs.size() == biases.size(),
                "one output and one bias per matrix");
        const int64_t experts = routing_at(routing).num_experts;
        check_dispatched(in, routing);
        std::vector<Program::ExpertPart> parts;
        for (size_t i = 0; i < stacks.size(); ++i) {
            const PackedMatrix& m = stacks[i].packed;
            check_slot(in, m.columns);
            check_input(in, m);
            check_slot(outs[i], -1);
            check_dispatched(outs[i], routing);
            const int64_t rows = columns_[outs[i]], height = whole_panels(rows);
            require(m.rows == experts * height, "experts are not whole panels");
            require(!biases[i] || (static_cast<int64_t>(biases[i]->shape(0)) == experts &&
                                   static_cast<int64_t>(biases[i]->shape(1)) == rows),
                    "biases of the wrong size");
            const float* bias = nullptr;
            if (biases[i]) {
                floats_.emplace_back(m.rows);
                for (int64_t expert = 0; expert < experts; ++expert)
                    std::copy_n(biases[i]->data() + expert * rows, rows, floats_.back().begin() + expert * height);
                bias = floats_.back().data();
            }
            parts.push_back({keep(stacks[i]), rows, outs[i], bias});
        }
        program_->expert_linear(in, routing, std::move(parts));
    }
    void combine(int in, int routing, int shared, int shared_gate, int out) {
        check_slot(out, -1);
        check_slot(in, columns_[out]);
        check_dispatched(in, routing);
        if (shared >= 0) check_slot(shared, columns_[out]);
        if (shared_gate >= 0) check_slot(shared_gate, 1);
        require(shared_gate < 0 || shared >= 0, "a gate without a shared expert");
        program_->combine(in, routing, shared, shared_gate, out);
    }
    void gated(int gate, int up, int64_t up_begin, int out, int kind, bool quantise) {
        check_slot(out, -1);
        check_slot(gate, columns_[out]);
        check_slot(up, -1);
        require(up_begin >= 0 && up_begin <= columns_[up] - columns_[out], "columns out of range");
        require(kind >= 0 && kind < kNumActivations, "no such activation");
        require(program_->slot(gate).rows_per_token == program_->slot(out).rows_per_token &&
                    program_->slot(up).rows_per_token == program_->slot(out).rows_per_token,
                "slots of other rows");
        require(!quantise || columns_[out] % kGroup == 0, "a quantised row is a multiple of 32");
        program_->gated(gate, up, up_begin, out, columns_[out], static_cast<ActivationKind>(kind), quantise);
    }
    void add(int x, int y, int out, float scale) {
        check_slot(out, -1);
        check_slot(x, columns_[out]);
        check_slot(y, columns_[out]);
        require(std::isfinite(scale), "a scale that is not finite");
        program_->add(x, y, out, scale);
    }
    void keep_asked(int slot) {
        check_slot(slot, -1);
        program_->keep_asked(slot);
    }
    void scale(const std::vector<int>& slots, const std::vector<float>& factors) {
        require(slots.size() == factors.size(), "one factor per slot");
        std::vector<Program::Scaled> scaled;
        for (size_t i = 0; i < slots.size(); ++i) {
            check_slot(slots[i], -1);
            require(std::isfinite(factors[i]), "a factor that is not finite");
            scaled.push_back({slots[i], factors[i]});
        }
        program_->scale(std::move(scaled));
    }
    void head(int in, const Matrix& matrix, const std::optional<Floats1>& bias, float soft_cap) {
        require(std::isfinite(soft_cap) && soft_cap >= 0, "soft cap out of range");
        check_slot(in, matrix.packed.columns);
        require(matrix.packed.rows == vocab_size_, "head rows are not the vocabulary");
        require(!bias || static_cast<int64_t>(bias->shape(0)) == matrix.packed.rows, "bias of the wrong size");
        program_->head(in, keep(matrix), bias ? keep(*bias) : nullptr, soft_cap);
        columns_.push_back(matrix.packed.columns);
        columns_.push_back(matrix.packed.rows);
    }

    void allocate_cache(const std::vector<int64_t>& num_pages, int64_t num_states) {
        require(num_states >= 0 && num_states < (int64_t{1} << 24), "number of states out of range");
        require(num_states > 0 || program_->state_values() == 0, "the model needs states");
        for (int64_t n : num_pages) require(n > 0 && n < (int64_t{1} << 31), "number of pages out of range");
        program_->allocate_cache(num_pages, num_states);
    }
    int64_t page_bytes(int group) const {
        require(group >= 0 && group < num_groups_, "no such cache group");
        return program_->page_bytes(group);
    }
    int64_t state_bytes() const { return program_->state_values() * sizeof(float); }
    int64_t workspace_bytes() const { return program_->workspace_bytes(); }

    void step(nb::handle token_ids, nb::handle sequence_offsets, nb::handle first_positions, nb::tuple page_tables,
              nb::handle logit_rows, nb::handle history, nb::handle bias, nb::handle masks, nb::handle token_out,
              nb::handle logprob_out, nb::handle top_ids_out, nb::handle top_logprobs_out, nb::handle hidden_rows,
              nb::handle hidden_out, nb::handle states) {
        const Bytes tokens(token_ids), offsets(sequence_offsets), positions(first_positions), rows(logit_rows),
            seen(history), biases(bias), mask(masks), out_ids(token_out, true), out_logprobs(logprob_out, true),
            out_top_ids(top_ids_out, true), out_top_logprobs(top_logprobs_out, true), wanted(hidden_rows),
            out_hidden(hidden_out, true), kept(states);
        StepInput in;
        in.num_tokens = static_cast<int32_t>(tokens.count<int32_t>("token_ids"));
        in.num_sequences = static_cast<int32_t>(positions.count<int32_t>("first_positions"));
        in.num_logit_rows = static_cast<int32_t>(rows.count<LogitRow>("logit_rows"));
        in.token_ids = tokens.as<int32_t>();
        in.sequence_offsets = offsets.as<int32_t>();
        in.first_positions = positions.as<int32_t>();
        in.logit_rows = rows.as<LogitRow>();
        in.history = seen.as<HistoryEntry>();
        in.bias = biases.as<BiasEntry>();
        in.masks = mask.as<uint32_t>();
        in.mask_words = (vocab_size_ + 31) / 32;
        in.token_out = out_ids.as<int32_t>();
        in.logprob_out = out_logprobs.as<float>();
        in.top_ids_out = out_top_ids.as<int32_t>();
        in.top_logprobs_out = out_top_logprobs.as<float>();
        require(offsets.count<int32_t>("sequence_offsets") == in.num_sequences + 1, "one offset more than sequences");
        require(nb::len(page_tables) == static_cast<size_t>(num_groups_), "one page table per cache group");
        require(out_ids.count<int32_t>("out") == in.num_logit_rows &&
                    out_logprobs.count<float>("out") == in.num_logit_rows &&
                    out_top_ids.size() == out_top_logprobs.size(),
                "outputs of the wrong size");
        in.top_width = in.num_logit_rows ? out_top_ids.count<int32_t>("out") / in.num_logit_rows : 0;
        in.num_hidden_rows = static_cast<int32_t>(wanted.count<int32_t>("hidden_rows"));
        in.hidden_rows = wanted.as<int32_t>();
        in.hidden_out = out_hidden.as<float>();
        in.states = kept.as<int32_t>();
        const StepBounds bounds{*program_, max_tokens_, vocab_size_, windows_};
        bounds.check_rows(in);
        bounds.check_states(in, kept.count<int32_t>("states"));
        require(out_hidden.count<float>("out") == in.num_hidden_rows * program_->hidden_size(),
                "outputs of the wrong size");
        for (int32_t i = 0; i < in.num_hidden_rows; ++i)
            require(in.hidden_rows[i] >= 0 && in.hidden_rows[i] < in.num_tokens, "hidden row out of range");
        std::vector<std::unique_ptr<Bytes>> tables;
        for (int group = 0; group < num_groups_; ++group) {
            tables.push_back(std::make_unique<Bytes>(page_tables[group]));
            in.page_tables.push_back(tables.back()->as<int32_t>());
            in.pages_per_sequence.push_back(tables.back()->count<int32_t>("page_tables") / in.num_sequences);
            bounds.check_pages(in, group);
        }
        bounds.check_logit_rows(in, seen.count<HistoryEntry>("history"), biases.count<BiasEntry>("bias"),
                                mask.count<uint32_t>("masks") / in.mask_words);
        nb::gil_scoped_release release;
        program_->step(in);
    }

  private:
    void check_slot(int slot, int64_t columns) const {
        require(slot >= 0 && slot < static_cast<int>(columns_.size()), "no such slot");
        require(columns < 0 || columns_[slot] == columns, "slot of another width");
    }
    void check_layer(int layer, int num_kv_heads, int head_dim) const {
        require(layer >= 0 && layer < static_cast<int>(layers_.size()) && layers_[layer].num_heads == num_kv_heads &&
                    layers_[layer].head_dim == head_dim && layers_[layer].has_values,
                "no such cache layer");
    }
    void check_input(int slot, const PackedMatrix& matrix) const {
        require(!is_quantised(matrix.format) || program_->slot(slot).values,
                "input of a quantised matrix is not quantised");
    }
    struct Experts {
        int num_experts, num_active;
    };
    const Experts& routing_at(int routing) const {
        require(routing >= 0 && routing < static_cast<int>(routings_.size()), "no such routing");
        return routings_[routing];
    }
    void check_dispatched(int slot, int routing) const {
        check_slot(slot, -1);
        require(program_->slot(slot).rows_per_token == routing_at(routing).num_active,
                "slot of another number of rows");
    }
    void check_heads(const PreparedHeads& heads, int head_dim) const {
        check_slot(heads.slot, int64_t{heads.count} * head_dim);
        require(!heads.norm || static_cast<int>(heads.norm->size()) == head_dim, "head norm of the wrong size");
        require(heads.rope >= -1 && heads.rope < static_cast<int>(rope_dims_.size()) &&
                    (heads.rope < 0 || rope_dims_[heads.rope] <= head_dim),
                "no such rope");
    }
    PackedMatrix keep(const Matrix& matrix) {
        arenas_.push_back(matrix.arena);
        return matrix.packed;
    }
    Program::Heads keep(const PreparedHeads& heads) {
        if (heads.norm) floats_.push_back(*heads.norm);
        return {heads.slot, heads.count, heads.norm ? floats_.back().data() : nullptr, heads.epsilon, heads.rope};
    }
    const float* keep(const Floats1& values) {
        // Kernels read biases in whole panels.
        floats_.emplace_back(whole_panels(values.shape(0)));
        std::copy_n(values.data(), values.shape(0), floats_.back().begin());
        return floats_.back().data();
    }

    const int32_t max_tokens_, vocab_size_;
    const int num_groups_;
    const std::vector<int32_t> windows_;  // 0: full attention
    std::vector<int64_t> columns_;
    struct Layer {
        int num_heads, head_dim;
        bool has_values;
    };
    std::vector<int> rope_dims_;
    std::vector<Layer> layers_;
    std::vector<Experts> routings_;
    std::vector<std::shared_ptr<WeightArena>> arenas_;
    std::deque<std::vector<float>> floats_;
    std::vector<const Observation*> observations_;
    std::unique_ptr<Program> program_;
};

}  // namespace abaci

#include "program.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <stdexcept>

#include "expert_operations.h"
#include "latent_operations.h"
#include "operations.h"
#include "platform.h"
#include "scalar_math.h"
#include "state_operations.h"

namespace abaci {

namespace {

// How much of each pair YaRN stretches, 0 to 1: the pairs that turn beta_fast and beta_slow times are the ends of a
// ramp.
std::vector<double> yarn_ramp(const Yarn& yarn, double theta, int dim) {
    const auto pair_of = [&](double turns) {
        return dim * log_of(yarn.original_context / (turns * 6.283185307179586)) / (2 * log_of(theta));
    };
    double low = pair_of(yarn.beta_fast), high = pair_of(yarn.beta_slow);
    if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, dim - 1.0);
    if (low == high) high += 0.001;
    std::vector<double> ramp(dim / 2);
    for (int i = 0; i < dim / 2; ++i) ramp[i] = std::clamp((i - low) / (high - low), 0.0, 1.0);
    return ramp;
}

}  // namespace

std::vector<float> rope_frequencies(double theta, int dim, double linear_scale, const float* factors,
                                    const Yarn& yarn) {
    std::vector<float> out(dim / 2);
    std::vector<double> ramp(dim / 2, 0.0);
    if (yarn.factor > 0) ramp = yarn_ramp(yarn, theta, dim);
    for (int i = 0; i < dim / 2; ++i) {
        double frequency = exp_of(-2.0 * i / dim * log_of(theta)) / linear_scale;
        if (factors) frequency /= factors[i];
        if (ramp[i] > 0) frequency = frequency * (1 - ramp[i]) + frequency / yarn.factor * ramp[i];
        out[i] = static_cast<float>(frequency);
    }
    return out;
}

QuantiseTarget Slot::quantised(int64_t r, int64_t first_group) const {
    if (!values) return {nullptr, nullptr, nullptr, 0};
    return {values + r * columns + first_group * kGroup, scales + r * groups() + first_group,
            sums + r * kGroupSums * groups() + first_group, groups()};
}

Activations Slot::activations() const {
    return {data, static_cast<size_t>(stride), values, scales, sums, static_cast<size_t>(columns)};
}

Program::Program(std::shared_ptr<ThreadPool> pool, const KernelTable* kernels, int32_t max_tokens, int32_t vocab_size,
                 int32_t num_cache_groups, CacheType cache_type)
    : pool_(std::move(pool)),
      kernels_(kernels),
      max_tokens_(max_tokens),
      vocab_size_(vocab_size),
      cache_type_(cache_type),
      num_pages_(num_cache_groups, 0),
      page_bytes_(num_cache_groups, 0),
      sample_scratch_(pool_->num_threads()) {
    step_.positions.resize(max_tokens);
    step_.sequences.resize(max_tokens);
    step_.places.resize(max_tokens);
}

Program::~Program() {
    for (const auto& [memory, size] : allocations_) free_large(memory, size);
}

void* Program::workspace(size_t num_bytes) {
    void* memory = allocate_large(num_bytes);
    if (!memory) throw std::bad_alloc();
    allocations_.emplace_back(memory, num_bytes);
    workspace_bytes_ += static_cast<int64_t>(num_bytes);
    return memory;
}

std::unique_ptr<Slot> Program::make_slot(int64_t columns, int64_t rows, int32_t rows_per_token) {
    auto slot = std::make_unique<Slot>();
    rows *= rows_per_token;
    slot->columns = columns;
    slot->num_rows = rows;
    slot->rows_per_token = rows_per_token;
    slot->stride = divide_up(columns, kPanel) * kPanel;
    slot->data = static_cast<float*>(workspace(rows * slot->stride * sizeof(float)));
    return slot;
}

void Program::want_quantised(Slot& slot) {
    if (slot.values) return;
    const int64_t rows = slot.num_rows, groups = slot.groups();
    // Kernels read scales and sums in blocks, past the end of the last row.
    slot.values = static_cast<int8_t*>(workspace(rows * slot.columns));
    slot.scales = static_cast<float*>(workspace(rows * groups * sizeof(float) + 128));
    slot.sums = static_cast<int32_t*>(workspace(rows * kGroupSums * groups * sizeof(int32_t) + 128));
}

int Program::add_slot(int64_t columns, int32_t rows_per_token) {
    slots_.push_back(make_slot(columns, max_tokens_, rows_per_token));
    return static_cast<int>(slots_.size()) - 1;
}

int Program::add_rope(double theta, int dim, double linear_scale, const float* factors, bool interleaved,
                      const Yarn& yarn, double magnitude) {
    auto table = std::make_unique<RopeTable>();
    table->frequencies = rope_frequencies(theta, dim, linear_scale, factors, yarn);
    table->cosines.resize(int64_t{max_tokens_} * (dim / 2));
    table->sines.resize(int64_t{max_tokens_} * (dim / 2));
    table->dim = dim;
    table->interleaved = interleaved;
    table->magnitude = magnitude;
    ropes_.push_back(std::move(table));
    const int rope = static_cast<int>(ropes_.size()) - 1;
    operations_.push_back(std::make_unique<RopeTableOperation>(*this, rope));
    return rope;
}

void Program::add_cache_layer(int group, int32_t num_heads, int32_t head_dim, bool has_values) {
    const int64_t head_bytes = cache_head_bytes(cache_type_, head_dim);
    cache_layers_.push_back({.group = group,
                             .type = cache_type_,
                             .head_bytes = head_bytes,
                             .key_bytes = num_heads * head_bytes,
                             .offset = page_bytes_[group]});
    page_bytes_[group] += num_heads * head_bytes * (has_values ? 2 : 1);
}

int Program::add_routing(const RouterParameters& router) {
    auto routing = std::make_unique<Routing>();
    const size_t num_rows = size_t(max_tokens_) * router.num_active;
    routing->router = router;
    routing->experts.resize(num_rows);
    routing->weights.resize(num_rows);
    routing->rows.resize(num_rows);
    routing->tokens.resize(num_rows);
    routing->begins.resize(router.num_experts + 1);
    routing->work.resize(router.num_experts + 1);
    routing->next.resize(router.num_experts);
    routings_.push_back(std::move(routing));
    return static_cast<int>(routings_.size()) - 1;
}

void Program::embed(const PackedMatrix& table, float scale, int out) {
    operations_.push_back(std::make_unique<EmbedOperation>(*this, table, scale, out));
}

void Program::embed(int descriptor, int64_t offset, Format format, int64_t columns, float scale, int out) {
    operations_.push_back(std::make_unique<FileEmbedOperation>(*this, descriptor, offset, format, columns, scale, out));
}

void Program::rms_norm(int in, int out, const float* weight, int64_t columns, float epsilon, bool quantise) {
    if (quantise) want_quantised(slot(out));
    operations_.push_back(std::make_unique<NormOperation>(*this, in, out, weight, columns, epsilon, quantise));
}

const Observation& Program::observe(int index, int routing_index) {
    const int64_t columns = slot(index).columns;
    const int64_t experts = routing_index < 0 ? 1 : routing(routing_index).router.num_experts;
    observations_.push_back({columns, std::vector<double>(experts * columns), std::vector<int64_t>(experts)});
    operations_.push_back(std::make_unique<ObserveOperation>(*this, index, routing_index, observations_.back()));
    return observations_.back();
}

void Program::quantise(int index) {
    want_quantised(slot(index));
    operations_.push_back(std::make_unique<QuantiseOperation>(*this, index));
}

void Program::reorder(int in, int out, std::vector<int32_t> order, bool quantise) {
    if (quantise) want_quantised(slot(out));
    operations_.push_back(std::make_unique<ReorderOperation>(*this, in, out, std::move(order), quantise));
}

void Program::linear(int in, std::vector<Part> parts) {
    std::vector<Slot*> outs;
    for (const Part& part : parts) outs.push_back(&slot(part.out));
    operations_.push_back(std::make_unique<LinearOperation>(*this, slot(in), std::move(parts), std::move(outs)));
}

void Program::prepare_heads(Heads query, Heads key, Heads value, int layer, int32_t head_dim,
                            PositionScale query_scale) {
    operations_.push_back(
        std::make_unique<PrepareHeadsOperation>(*this, query, key, value, layer, head_dim, query_scale));
}

void Program::want_attention_scratch(int32_t queries, int32_t head_dim) {
    const size_t scratch = kernels_->attention_scratch_bytes(std::max(queries, kAttentionQueries), head_dim);
    attention_scratch_bytes_ = std::max(attention_scratch_bytes_, scratch);
    attention_scratch_.resize(pool_->num_threads());
    for (auto& memory : attention_scratch_) memory.resize(attention_scratch_bytes_);
}

void Program::attention(int query, int out, int layer, int32_t num_heads, int32_t num_kv_heads, int32_t head_dim,
                        float scale, int32_t window, const float* sinks, bool quantise) {
    if (quantise) want_quantised(slot(out));
    want_attention_scratch(num_heads / num_kv_heads, head_dim);
    operations_.push_back(std::make_unique<AttentionOperation>(*this, query, out, layer, num_heads, num_kv_heads,
                                                               head_dim, scale, window, sinks, quantise));
}

void Program::head_norm(int index, const float* weight, int64_t head_dim, float epsilon) {
    operations_.push_back(std::make_unique<HeadNormOperation>(*this, index, weight, head_dim, epsilon));
}

void Program::head_linear(int in, int64_t in_stride, const PackedMatrix& stack, int32_t num_heads, int64_t rows,
                          int out) {
    operations_.push_back(std::make_unique<HeadLinearOperation>(*this, in, in_stride, stack, num_heads, rows, out));
}

void Program::latent_attention(const Latent& latent) {
    want_attention_scratch(kAttentionQueries, latent.latent_dim + rope(latent.rope).dim);
    operations_.push_back(std::make_unique<PrepareLatentOperation>(*this, latent));
    operations_.push_back(std::make_unique<LatentAttentionOperation>(*this, latent));
}

void Program::delta_net(DeltaNetParameters net) {
    net.zeros = zeros_.emplace_back(net.channels, 0.0f).data();
    net.state_offset = state_values_;
    state_values_ += (net.kernel_size - 1) * net.channels + int64_t{net.num_value_heads} * net.key_dim * net.value_dim;
    operations_.push_back(std::make_unique<ConvolveOperation>(*this, net));
    operations_.push_back(std::make_unique<DeltaRuleOperation>(*this, net));
    operations_.push_back(std::make_unique<KeepInputsOperation>(*this, net));
}

void Program::choose(int logits, int routing) {
    operations_.push_back(std::make_unique<ChooseOperation>(*this, logits, routing));
    operations_.push_back(std::make_unique<ArrangeOperation>(*this, routing));
}

void Program::dispatch(int in, int routing, int out, bool floats, bool quantise) {
    if (quantise) want_quantised(slot(out));
    slot(out).wants_floats = floats;
    operations_.push_back(std::make_unique<DispatchOperation>(*this, in, routing, out));
}

void Program::expert_linear(int in, int routing, std::vector<ExpertPart> parts) {
    operations_.push_back(std::make_unique<ExpertLinearOperation>(*this, in, routing, std::move(parts)));
}

void Program::combine(int in, int routing, int shared, int shared_gate, int out) {
    operations_.push_back(std::make_unique<CombineOperation>(*this, in, routing, shared, shared_gate, out));
}

void Program::gated(int gate, int up, int64_t up_begin, int out, int64_t columns, ActivationKind kind, bool quantise) {
    if (quantise) want_quantised(slot(out));
    operations_.push_back(std::make_unique<GatedOperation>(*this, gate, up, up_begin, out, columns, kind, quantise));
}

void Program::add(int x, int y, int out, float scale) {
    operations_.push_back(std::make_unique<AddOperation>(*this, x, y, out, scale));
}

void Program::keep_asked(int index) {
    operations_.push_back(std::make_unique<KeepAskedOperation>(*this, index));
    keeps_asked_ = true;
}

void Program::scale(std::vector<Scaled> scaled) {
    operations_.push_back(std::make_unique<ScaleOperation>(*this, std::move(scaled)));
}

void Program::head(int in, const PackedMatrix& matrix, const float* bias, float soft_cap) {
    const int64_t columns = slot(in).columns;
    hidden_operation_ = std::make_unique<HiddenOperation>(*this, in);
    hidden_size_ = columns;
    slots_.push_back(make_slot(columns, kHeadTile));
    Slot& gathered = *slots_.back();
    if (is_quantised(matrix.format)) want_quantised(gathered);
    slots_.push_back(make_slot(matrix.rows, kHeadTile));
    Slot& logits = *slots_.back();
    for (int32_t tile = 0; tile < divide_up(max_tokens_, kHeadTile); ++tile) {
        head_operations_.push_back(std::make_unique<GatherOperation>(*this, in, gathered, tile));
        head_operations_.push_back(std::make_unique<LinearOperation>(
            *this, gathered, std::vector<Part>{{matrix, 0, bias, false}}, std::vector<Slot*>{&logits}));
        head_operations_.push_back(std::make_unique<SampleOperation>(*this, logits, tile, soft_cap));
    }
}

void Program::allocate_cache(const std::vector<int64_t>& num_pages, int64_t num_states) {
    if (num_pages.size() != num_pages_.size()) throw std::invalid_argument("one number of pages per cache group");
    std::vector<uint8_t*> groups;
    for (size_t group = 0; group < num_pages.size(); ++group) {
        if (num_pages_[group] != 0) throw std::invalid_argument("the cache is allocated once");
        groups.push_back(static_cast<uint8_t*>(workspace(num_pages[group] * page_bytes_[group])));
    }
    for (CacheLayer& layer : cache_layers_) {
        layer.page_stride = page_bytes_[layer.group];
        layer.keys = groups[layer.group] + layer.offset;
        layer.values = layer.keys + layer.key_bytes;
    }
    num_pages_ = num_pages;
    num_states_ = state_values_ ? num_states : 0;
    if (num_states_) states_ = static_cast<float*>(workspace(num_states_ * state_values_ * sizeof(float)));
}

const std::vector<RowRun>& Program::row_runs(int32_t rows_per_run) {
    for (const auto& [rows, runs] : row_runs_)
        if (rows == rows_per_run) return runs;
    std::vector<RowRun> runs;
    const StepInput& in = step_.input;
    for (int32_t s = 0; s < in.num_sequences; ++s)
        for (int32_t row = in.sequence_offsets[s]; row < in.sequence_offsets[s + 1]; row += rows_per_run)
            runs.push_back({s, row, std::min(rows_per_run, in.sequence_offsets[s + 1] - row)});
    row_runs_.emplace_back(rows_per_run, std::move(runs));
    return row_runs_.back().second;
}

void Program::find_asked() {
    const StepInput& in = step_.input;
    constexpr int32_t is_asked = -1;
    std::fill_n(step_.places.begin(), in.num_tokens, 0);
    for (int32_t i = 0; i < in.num_logit_rows; ++i) step_.places[in.logit_rows[i].row] = is_asked;
    for (int32_t i = 0; i < in.num_hidden_rows; ++i) step_.places[in.hidden_rows[i]] = is_asked;
    step_.asked.clear();
    for (int32_t row = 0; row < in.num_tokens; ++row) {
        if (step_.places[row] != is_asked) continue;
        step_.places[row] = static_cast<int32_t>(step_.asked.size());
        step_.asked.push_back(row);
    }
    step_.num_asked = static_cast<int32_t>(step_.asked.size());
}

void Program::step(const StepInput& input) {
    step_.input = input;
    for (int32_t s = 0; s < input.num_sequences; ++s)
        for (int32_t row = input.sequence_offsets[s]; row < input.sequence_offsets[s + 1]; ++row) {
            step_.positions[row] = input.first_positions[s] + row - input.sequence_offsets[s];
            step_.sequences[row] = s;
        }
    find_asked();
    row_runs_.clear();
    phases_.clear();
    const auto schedule = [&](Operation& operation) {
        const auto run = [](void* context, uint32_t piece, int worker) {
            static_cast<Operation*>(context)->run(piece, worker);
        };
        const uint32_t num_pieces = operation.plan();
        if (num_pieces > ThreadPool::kMaxPieces) throw std::invalid_argument("a step of too many pieces");
        phases_.push_back({run, &operation, num_pieces});
    };
    for (const auto& operation : operations_) schedule(*operation);
    if (input.num_hidden_rows > 0) schedule(*hidden_operation_);
    const int32_t num_tiles = static_cast<int32_t>(divide_up(input.num_logit_rows, kHeadTile));
    for (int32_t tile = 0; tile < num_tiles; ++tile) {
        const int32_t rows = std::min(kHeadTile, input.num_logit_rows - tile * kHeadTile);
        static_cast<LinearOperation&>(*head_operations_[3 * tile + 1]).set_rows(rows);
        for (int i = 0; i < 3; ++i) schedule(*head_operations_[3 * tile + i]);
    }
    failure_ = nullptr;
    pool_->run(phases_);
    if (const char* what = failure_.load()) throw std::runtime_error(what);
}

}  // namespace abaci

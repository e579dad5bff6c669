#include "program.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

#include "platform.h"
#include "scalar_math.h"

namespace abaci {
namespace {

constexpr int32_t kHeadTile = 64;           // logit rows that are computed and reduced at once
constexpr int32_t kAttentionQueries = 128;  // query rows (tokens x heads of a group) of one attention piece, about
constexpr int64_t kGatedColumns = 1024;     // columns of one piece of the gated activation
constexpr int64_t kSmallPieceBytes = 24 * 1024;

int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Rows per piece so that `rows` make about eight pieces per thread, at least one row each.
int64_t rows_per_piece(int64_t rows, int num_threads) {
    return std::max<int64_t>(1, rows / (8 * num_threads));
}

}  // namespace

WeightArena::WeightArena(size_t num_bytes)
    : memory_(static_cast<uint8_t*>(allocate_large(num_bytes))), size_(num_bytes) {
    if (!memory_) throw std::bad_alloc();
}

WeightArena::~WeightArena() {
    free_large(memory_, size_);
}

uint8_t* WeightArena::take(size_t num_bytes) {
    const size_t begin = divide_up(used_, 64) * 64;
    if (begin + num_bytes > size_) throw std::bad_alloc();
    used_ = begin + num_bytes;
    return memory_ + begin;
}

bool pack_matrix(ThreadPool& pool, Format format, const uint8_t* source, int64_t rows, int64_t columns,
                 uint8_t* packed) {
    struct Context {
        Format format;
        const uint8_t* source;
        int64_t rows, columns, panels;
        uint8_t* packed;
        std::atomic<bool> finite{true};
    } context{format, source, rows, columns, divide_up(rows, kPanel), packed};
    constexpr int64_t panels_per_piece = 8;
    const auto run = [](void* opaque, uint32_t piece, int) {
        auto& c = *static_cast<Context*>(opaque);
        const int64_t begin = piece * panels_per_piece, end = std::min(c.panels, begin + panels_per_piece);
        if (!pack_panels(c.format, c.source, c.rows, c.columns, begin, end, c.packed)) c.finite = false;
    };
    pool.run({{run, &context, static_cast<uint32_t>(divide_up(context.panels, panels_per_piece))}});
    return context.finite;
}

std::vector<float> rope_frequencies(double theta, int dim, double linear_scale, const float* factors) {
    std::vector<float> out(dim / 2);
    for (int i = 0; i < dim / 2; ++i) {
        const double frequency = exp_of(-2.0 * i / dim * log_of(theta)) / linear_scale;
        out[i] = static_cast<float>(factors ? frequency / factors[i] : frequency);
    }
    return out;
}

QuantiseTarget Slot::quantised(int64_t r, int64_t first_group) const {
    if (!values) return {nullptr, nullptr, nullptr, 0};
    return {values + r * columns + first_group * kGroup, scales + r * groups() + first_group,
            sums + r * 2 * groups() + first_group, groups()};
}

Activations Slot::activations() const {
    return {data, static_cast<size_t>(stride), values, scales, sums, static_cast<size_t>(columns)};
}

namespace {

class EmbedOperation final : public Operation {
  public:
    EmbedOperation(Program& program, const PackedMatrix& table, float scale, int out)
        : p_(program), table_(table), scale_(scale), out_(out) {}
    uint32_t plan() override {
        rows_ = rows_per_piece(p_.current().input.num_tokens, p_.num_threads());
        return divide_up(p_.current().input.num_tokens, rows_);
    }
    void run(uint32_t piece, int) override {
        const int64_t end = std::min<int64_t>((piece + 1) * rows_, p_.current().input.num_tokens);
        for (int64_t r = piece * rows_; r < end; ++r)
            unpack_row(table_, p_.current().input.token_ids[r], scale_, p_.slot(out_).row(r));
    }

  private:
    Program& p_;
    const PackedMatrix table_;
    const float scale_;
    const int out_;
    int64_t rows_ = 1;
};

// Rows of an untied table are read where they are stored: few are needed, and the rest costs no memory.
class FileEmbedOperation final : public Operation {
  public:
    FileEmbedOperation(Program& program, int descriptor, int64_t offset, Format format, int64_t columns, float scale,
                       int out)
        : p_(program),
          descriptor_(duplicate_file(descriptor)),
          offset_(offset),
          format_(format),
          columns_(columns),
          scale_(scale),
          out_(out),
          row_bytes_(source_row_bytes(format, columns)) {
        if (descriptor_ < 0) throw std::runtime_error("the model file cannot be kept open");
        for (int i = 0; i < program.num_threads(); ++i) {
            scratch_.emplace_back(row_bytes_);
            panels_.push_back(std::make_unique<WeightArena>(packed_panel_bytes(format, columns)));
        }
    }
    ~FileEmbedOperation() override { close_file(descriptor_); }
    uint32_t plan() override {
        rows_ = rows_per_piece(p_.current().input.num_tokens, p_.num_threads());
        return divide_up(p_.current().input.num_tokens, rows_);
    }
    void run(uint32_t piece, int worker) override {
        const int64_t end = std::min<int64_t>((piece + 1) * rows_, p_.current().input.num_tokens);
        for (int64_t r = piece * rows_; r < end; ++r) {
            const int64_t at = offset_ + p_.current().input.token_ids[r] * static_cast<int64_t>(row_bytes_);
            uint8_t* source = scratch_[worker].data();
            float* out = p_.slot(out_).row(r);
            if (!read_at(descriptor_, source, row_bytes_, at)) {
                p_.fail("a row of the embedding could not be read: the model file was cut short");
            } else if (!unpack_source_row(format_, source, columns_, scale_, panels_[worker]->data(), out)) {
                p_.fail("a row of the embedding holds values that are not finite: the model file is damaged");
            }
        }
    }

  private:
    Program& p_;
    const int descriptor_;
    const int64_t offset_;
    const Format format_;
    const int64_t columns_;
    const float scale_;
    const int out_;
    const size_t row_bytes_;
    std::vector<std::vector<uint8_t>> scratch_;
    std::vector<std::unique_ptr<WeightArena>> panels_;
    int64_t rows_ = 1;
};

class RopeTableOperation final : public Operation {
  public:
    RopeTableOperation(Program& program, int rope) : p_(program), rope_(rope) {}
    uint32_t plan() override { return divide_up(p_.current().input.num_tokens, kRows); }
    void run(uint32_t piece, int) override {
        RopeTable& table = p_.rope(rope_);
        const int half = table.dim / 2;
        const int64_t end = std::min<int64_t>((piece + 1) * kRows, p_.current().input.num_tokens);
        for (int64_t r = piece * kRows; r < end; ++r)
            for (int i = 0; i < half; ++i) {
                // The angle is a float product, as in the reference implementations.
                const float angle = static_cast<float>(p_.current().positions[r]) * table.frequencies[i];
                double sine, cosine;
                sin_cos_of(angle, sine, cosine);
                table.cosines[r * half + i] = static_cast<float>(cosine);
                table.sines[r * half + i] = static_cast<float>(sine);
            }
    }

  private:
    static constexpr int64_t kRows = 16;
    Program& p_;
    const int rope_;
};

class NormOperation final : public Operation {
  public:
    NormOperation(Program& program, int in, int out, const float* weight, int64_t columns, float epsilon, bool quantise)
        : p_(program), in_(in), out_(out), weight_(weight), columns_(columns), epsilon_(epsilon), quantise_(quantise) {}
    uint32_t plan() override {
        rows_ = rows_per_piece(p_.current().input.num_tokens, p_.num_threads());
        return divide_up(p_.current().input.num_tokens, rows_);
    }
    void run(uint32_t piece, int) override {
        const int64_t end = std::min<int64_t>((piece + 1) * rows_, p_.current().input.num_tokens);
        for (int64_t r = piece * rows_; r < end; ++r) {
            const QuantiseTarget quantised = quantise_ ? p_.slot(out_).quantised(r) : QuantiseTarget{};
            p_.kernels().rms_norm({p_.slot(in_).row(r), p_.slot(out_).row(r), weight_, columns_, epsilon_, quantised});
        }
    }

  private:
    Program& p_;
    const int in_, out_;
    const float* weight_;
    const int64_t columns_;
    const float epsilon_;
    const bool quantise_;
    int64_t rows_ = 1;
};

class QuantiseOperation final : public Operation {
  public:
    QuantiseOperation(Program& program, int slot) : p_(program), slot_(slot) {}
    uint32_t plan() override {
        rows_ = rows_per_piece(p_.current().input.num_tokens, p_.num_threads());
        return divide_up(p_.current().input.num_tokens, rows_);
    }
    void run(uint32_t piece, int) override {
        const Slot& slot = p_.slot(slot_);
        const int64_t end = std::min<int64_t>((piece + 1) * rows_, p_.current().input.num_tokens);
        for (int64_t r = piece * rows_; r < end; ++r)
            p_.kernels().quantise(slot.row(r), slot.columns, slot.quantised(r));
    }

  private:
    Program& p_;
    const int slot_;
    int64_t rows_ = 1;
};

// Pieces are panels of one matrix for one block of rows, block by block, so that a block's activations stay in cache.
class LinearOperation final : public Operation {
  public:
    LinearOperation(Program& program, Slot& in, std::vector<Program::Part> parts, std::vector<Slot*> outs)
        : p_(program), in_(in), parts_(std::move(parts)), outs_(std::move(outs)) {
        for (const Program::Part& part : parts_) total_panels_ += divide_up(part.matrix.rows, kPanel);
    }
    void set_rows(int32_t rows) { fixed_rows_ = rows; }
    uint32_t plan() override {
        num_rows_ = fixed_rows_ >= 0 ? fixed_rows_ : p_.current().input.num_tokens;
        num_blocks_ = divide_up(num_rows_, kMaxTaskRows);
        block_rows_ = divide_up(num_rows_, num_blocks_);
        const int64_t wanted = 8 * p_.num_threads();
        const int64_t small = divide_up(kSmallPieceBytes, static_cast<int64_t>(parts_[0].matrix.panel_bytes));
        panels_per_piece_ = std::clamp<int64_t>(total_panels_ * num_blocks_ / wanted, num_rows_ <= 16 ? small : 1, 16);
        pieces_per_block_ = 0;
        for (const Program::Part& part : parts_)
            pieces_per_block_ += divide_up(divide_up(part.matrix.rows, kPanel), panels_per_piece_);
        return num_blocks_ * pieces_per_block_;
    }
    void run(uint32_t piece, int) override {
        const int64_t block = piece / pieces_per_block_;
        int64_t index = piece % pieces_per_block_;
        size_t i = 0;
        int64_t panels = divide_up(parts_[0].matrix.rows, kPanel);
        while (index >= divide_up(panels, panels_per_piece_)) {
            index -= divide_up(panels, panels_per_piece_);
            panels = divide_up(parts_[++i].matrix.rows, kPanel);
        }
        const Program::Part& part = parts_[i];
        MatmulTask task;
        task.matrix = part.matrix;
        task.input = in_.activations();
        task.output = outs_[i]->data;
        task.output_stride = outs_[i]->stride;
        task.bias = part.bias;
        task.accumulate = part.accumulate;
        task.row_begin = block * block_rows_;
        task.row_end = std::min(num_rows_, task.row_begin + block_rows_);
        task.panel_begin = index * panels_per_piece_;
        task.panel_end = std::min(panels, task.panel_begin + panels_per_piece_);
        p_.kernels().matmul[static_cast<int>(part.matrix.format)](task);
    }

  private:
    Program& p_;
    Slot& in_;
    const std::vector<Program::Part> parts_;
    const std::vector<Slot*> outs_;
    int64_t total_panels_ = 0;
    int32_t fixed_rows_ = -1;
    int64_t num_rows_ = 0, num_blocks_ = 1, block_rows_ = 0, panels_per_piece_ = 1, pieces_per_block_ = 1;
};

// Norm and rotation of query and key heads, then keys and values into their pages.
class PrepareHeadsOperation final : public Operation {
  public:
    PrepareHeadsOperation(Program& program, Program::Heads query, Program::Heads key, int value, int layer,
                          int32_t head_dim)
        : p_(program), query_(query), key_(key), value_(value), layer_(layer), head_dim_(head_dim) {}
    uint32_t plan() override {
        rows_ = rows_per_piece(p_.current().input.num_tokens, p_.num_threads());
        return divide_up(p_.current().input.num_tokens, rows_);
    }
    void run(uint32_t piece, int) override {
        const int64_t end = std::min<int64_t>((piece + 1) * rows_, p_.current().input.num_tokens);
        for (int64_t r = piece * rows_; r < end; ++r) {
            prepare(query_, r);
            prepare(key_, r);
            append(r);
        }
    }

  private:
    void prepare(const Program::Heads& heads, int64_t r) {
        float* head = p_.slot(heads.slot).row(r);
        for (int32_t h = 0; h < heads.count; ++h, head += head_dim_) {
            if (heads.norm) p_.kernels().rms_norm({head, head, heads.norm, head_dim_, heads.epsilon, QuantiseTarget{}});
            if (heads.rope >= 0) {
                const RopeTable& table = p_.rope(heads.rope);
                const int64_t at = r * (table.dim / 2);
                p_.kernels().rope(
                    {head, table.cosines.data() + at, table.sines.data() + at, table.dim, table.interleaved});
            }
        }
    }
    void append(int64_t r) {
        const Step& step = p_.current();
        const CacheLayer& cache = p_.cache_layer(layer_);
        const int32_t position = step.positions[r];
        const int32_t* table =
            step.input.page_tables[cache.group] + step.sequences[r] * step.input.pages_per_sequence[cache.group];
        const int64_t page = table[position / kPageTokens] * cache.page_stride;
        const int64_t head_elements = int64_t{head_dim_} * kPageTokens;
        for (int32_t h = 0; h < key_.count; ++h) {
            const int64_t at = page + h * head_elements;
            p_.kernels().store_keys(p_.slot(key_.slot).row(r) + h * head_dim_, head_dim_, cache.keys + at,
                                    position % kPageTokens);
            p_.kernels().store_values(p_.slot(value_).row(r) + h * head_dim_, head_dim_, cache.values + at,
                                      position % kPageTokens);
        }
    }
    Program& p_;
    const Program::Heads query_, key_;
    const int value_, layer_;
    const int32_t head_dim_;
    int64_t rows_ = 1;
};

class AttentionOperation final : public Operation {
  public:
    AttentionOperation(Program& program, int query, int out, int layer, int32_t num_heads, int32_t num_kv_heads,
                       int32_t head_dim, float scale, int32_t window, bool quantise)
        : p_(program),
          query_(query),
          out_(out),
          layer_(layer),
          heads_per_group_(num_heads / num_kv_heads),
          num_kv_heads_(num_kv_heads),
          head_dim_(head_dim),
          scale_(scale),
          window_(window),
          quantise_(quantise) {}
    uint32_t plan() override {
        runs_ = &p_.row_runs(std::max(1, kAttentionQueries / heads_per_group_));
        return runs_->size() * num_kv_heads_;
    }
    void run(uint32_t piece, int worker) override {
        const Step& step = p_.current();
        const CacheLayer& cache = p_.cache_layer(layer_);
        // Late rows of long sequences first: they take longest.
        const RowRun& rows = (*runs_)[runs_->size() - 1 - piece / num_kv_heads_];
        const int64_t kv_head = piece % num_kv_heads_;
        const int64_t head = kv_head * heads_per_group_ * head_dim_;
        const int64_t page_offset = kv_head * head_dim_ * kPageTokens;
        AttentionTask task;
        task.query = p_.slot(query_).row(rows.row) + head;
        task.query_stride = p_.slot(query_).stride;
        task.output = p_.slot(out_).row(rows.row) + head;
        task.output_stride = p_.slot(out_).stride;
        task.keys = cache.keys + page_offset;
        task.values = cache.values + page_offset;
        task.page_stride = cache.page_stride;
        task.page_table =
            step.input.page_tables[cache.group] + rows.sequence * step.input.pages_per_sequence[cache.group];
        task.first_position = step.positions[rows.row];
        task.num_rows = rows.num_rows;
        task.heads_per_group = heads_per_group_;
        task.head_dim = head_dim_;
        task.window = window_;
        task.scale = scale_;
        task.scratch = p_.attention_scratch(worker);
        p_.kernels().attention(task);
        if (!quantise_) return;
        const Slot& out = p_.slot(out_);
        const int64_t columns = int64_t{heads_per_group_} * head_dim_;
        for (int64_t r = rows.row; r < rows.row + rows.num_rows; ++r)
            p_.kernels().quantise(out.row(r) + head, columns, out.quantised(r, head / kGroup));
    }

  private:
    Program& p_;
    const int query_, out_, layer_;
    const int32_t heads_per_group_, num_kv_heads_, head_dim_;
    const float scale_;
    const int32_t window_;
    const bool quantise_;
    const std::vector<RowRun>* runs_ = nullptr;
};

class GatedOperation final : public Operation {
  public:
    GatedOperation(Program& program, int gate, int up, int out, int64_t columns, ActivationKind kind, bool quantise)
        : p_(program),
          gate_(gate),
          up_(up),
          out_(out),
          columns_(columns),
          kind_(kind),
          quantise_(quantise),
          parts_(divide_up(columns, kGatedColumns)) {}
    uint32_t plan() override { return p_.current().input.num_tokens * parts_; }
    void run(uint32_t piece, int) override {
        const int64_t r = piece / parts_, begin = piece % parts_ * kGatedColumns;
        const int64_t columns = std::min(kGatedColumns, columns_ - begin);
        float* out = p_.slot(out_).row(r) + begin;
        p_.kernels().gated(p_.slot(gate_).row(r) + begin, p_.slot(up_).row(r) + begin, columns, kind_, out);
        if (quantise_) p_.kernels().quantise(out, columns, p_.slot(out_).quantised(r, begin / kGroup));
    }

  private:
    Program& p_;
    const int gate_, up_, out_;
    const int64_t columns_;
    const ActivationKind kind_;
    const bool quantise_;
    const int64_t parts_;
};

class AddOperation final : public Operation {
  public:
    AddOperation(Program& program, int x, int y, int out) : p_(program), x_(x), y_(y), out_(out) {}
    uint32_t plan() override {
        rows_ = rows_per_piece(p_.current().input.num_tokens, p_.num_threads());
        return divide_up(p_.current().input.num_tokens, rows_);
    }
    void run(uint32_t piece, int) override {
        const int64_t end = std::min<int64_t>((piece + 1) * rows_, p_.current().input.num_tokens);
        for (int64_t r = piece * rows_; r < end; ++r)
            p_.kernels().add(p_.slot(x_).row(r), p_.slot(y_).row(r), p_.slot(out_).columns, p_.slot(out_).row(r));
    }

  private:
    Program& p_;
    const int x_, y_, out_;
    int64_t rows_ = 1;
};

// Copies one tile of logit rows together.
class GatherOperation final : public Operation {
  public:
    GatherOperation(Program& program, int in, Slot& out, int32_t tile) : p_(program), in_(in), out_(out), tile_(tile) {}
    uint32_t plan() override { return std::min(kHeadTile, p_.current().input.num_logit_rows - tile_ * kHeadTile); }
    void run(uint32_t piece, int) override {
        const float* from = p_.slot(in_).row(p_.current().input.logit_rows[tile_ * kHeadTile + piece].row);
        std::memcpy(out_.row(piece), from, out_.columns * sizeof(float));
        if (out_.values) p_.kernels().quantise(out_.row(piece), out_.columns, out_.quantised(piece));
    }

  private:
    Program& p_;
    const int in_;
    Slot& out_;
    const int32_t tile_;
};

class SampleOperation final : public Operation {
  public:
    SampleOperation(Program& program, Slot& logits, int32_t tile) : p_(program), logits_(logits), tile_(tile) {}
    uint32_t plan() override { return std::min(kHeadTile, p_.current().input.num_logit_rows - tile_ * kHeadTile); }
    void run(uint32_t piece, int worker) override {
        const StepInput& in = p_.current().input;
        const int64_t i = tile_ * kHeadTile + piece;
        const LogitRow& row = in.logit_rows[i];
        const uint32_t* mask = row.mask_row < 0 ? nullptr : in.masks + row.mask_row * in.mask_words;
        sample(p_.kernels(), {&row, logits_.row(piece), p_.vocab_size(), in.history, in.bias, mask},
               p_.sample_scratch(worker),
               {in.token_out + i, in.logprob_out + i, in.top_ids_out + i * in.top_width,
                in.top_logprobs_out + i * in.top_width});
    }

  private:
    Program& p_;
    Slot& logits_;
    const int32_t tile_;
};

}  // namespace

Program::Program(std::shared_ptr<ThreadPool> pool, const KernelTable* kernels, int32_t max_tokens, int32_t vocab_size,
                 int32_t num_cache_groups)
    : pool_(std::move(pool)),
      kernels_(kernels),
      max_tokens_(max_tokens),
      vocab_size_(vocab_size),
      num_pages_(num_cache_groups, 0),
      group_elements_(num_cache_groups, 0),
      sample_scratch_(pool_->num_threads()) {
    step_.positions.resize(max_tokens);
    step_.sequences.resize(max_tokens);
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

std::unique_ptr<Slot> Program::make_slot(int64_t columns, int64_t rows) {
    auto slot = std::make_unique<Slot>();
    slot->columns = columns;
    slot->stride = divide_up(columns, kPanel) * kPanel;
    slot->data = static_cast<float*>(workspace(rows * slot->stride * sizeof(float)));
    return slot;
}

void Program::want_quantised(Slot& slot, int64_t rows) {
    if (slot.values) return;
    const int64_t groups = slot.columns / kGroup;
    // Kernels read scales and sums in blocks, past the end of the last row.
    slot.values = static_cast<int8_t*>(workspace(rows * slot.columns));
    slot.scales = static_cast<float*>(workspace(rows * groups * sizeof(float) + 128));
    slot.sums = static_cast<int32_t*>(workspace(rows * 2 * groups * sizeof(int32_t) + 128));
}

int Program::add_slot(int64_t columns) {
    slots_.push_back(make_slot(columns, max_tokens_));
    return static_cast<int>(slots_.size()) - 1;
}

int Program::add_rope(double theta, int dim, double linear_scale, const float* factors, bool interleaved) {
    auto table = std::make_unique<RopeTable>();
    table->frequencies = rope_frequencies(theta, dim, linear_scale, factors);
    table->cosines.resize(int64_t{max_tokens_} * (dim / 2));
    table->sines.resize(int64_t{max_tokens_} * (dim / 2));
    table->dim = dim;
    table->interleaved = interleaved;
    ropes_.push_back(std::move(table));
    const int rope = static_cast<int>(ropes_.size()) - 1;
    operations_.push_back(std::make_unique<RopeTableOperation>(*this, rope));
    return rope;
}

void Program::add_cache_layer(int group, int64_t kv_heads, int64_t head_dim) {
    const int64_t elements = kv_heads * head_dim * kPageTokens;
    cache_layers_.push_back({.group = group, .page_elements = elements, .offset = group_elements_[group]});
    group_elements_[group] += 2 * elements;
}

void Program::embed(const PackedMatrix& table, float scale, int out) {
    operations_.push_back(std::make_unique<EmbedOperation>(*this, table, scale, out));
}

void Program::embed(int descriptor, int64_t offset, Format format, int64_t columns, float scale, int out) {
    operations_.push_back(std::make_unique<FileEmbedOperation>(*this, descriptor, offset, format, columns, scale, out));
}

void Program::rms_norm(int in, int out, const float* weight, int64_t columns, float epsilon, bool quantise) {
    if (quantise) want_quantised(slot(out), max_tokens_);
    operations_.push_back(std::make_unique<NormOperation>(*this, in, out, weight, columns, epsilon, quantise));
}

void Program::quantise(int index) {
    want_quantised(slot(index), max_tokens_);
    operations_.push_back(std::make_unique<QuantiseOperation>(*this, index));
}

void Program::linear(int in, std::vector<Part> parts) {
    std::vector<Slot*> outs;
    for (const Part& part : parts) outs.push_back(&slot(part.out));
    operations_.push_back(std::make_unique<LinearOperation>(*this, slot(in), std::move(parts), std::move(outs)));
}

void Program::prepare_heads(Heads query, Heads key, int value, int layer, int32_t head_dim) {
    operations_.push_back(std::make_unique<PrepareHeadsOperation>(*this, query, key, value, layer, head_dim));
}

void Program::attention(int query, int out, int layer, int32_t num_heads, int32_t num_kv_heads, int32_t head_dim,
                        float scale, int32_t window, bool quantise) {
    if (quantise) want_quantised(slot(out), max_tokens_);
    const int32_t group = num_heads / num_kv_heads;
    const size_t scratch = kernels_->attention_scratch_bytes(std::max(group, kAttentionQueries), head_dim);
    attention_scratch_bytes_ = std::max(attention_scratch_bytes_, scratch);
    attention_scratch_.resize(pool_->num_threads());
    for (auto& memory : attention_scratch_) memory.resize(attention_scratch_bytes_);
    operations_.push_back(std::make_unique<AttentionOperation>(*this, query, out, layer, num_heads, num_kv_heads,
                                                               head_dim, scale, window, quantise));
}

void Program::gated(int gate, int up, int out, int64_t columns, ActivationKind kind, bool quantise) {
    if (quantise) want_quantised(slot(out), max_tokens_);
    operations_.push_back(std::make_unique<GatedOperation>(*this, gate, up, out, columns, kind, quantise));
}

void Program::add(int x, int y, int out) {
    operations_.push_back(std::make_unique<AddOperation>(*this, x, y, out));
}

void Program::head(int in, const PackedMatrix& matrix, const float* bias) {
    const int64_t columns = slot(in).columns;
    slots_.push_back(make_slot(columns, kHeadTile));
    Slot& gathered = *slots_.back();
    if (is_quantised(matrix.format)) want_quantised(gathered, kHeadTile);
    slots_.push_back(make_slot(matrix.rows, kHeadTile));
    Slot& logits = *slots_.back();
    for (int32_t tile = 0; tile < divide_up(max_tokens_, kHeadTile); ++tile) {
        head_operations_.push_back(std::make_unique<GatherOperation>(*this, in, gathered, tile));
        head_operations_.push_back(std::make_unique<LinearOperation>(
            *this, gathered, std::vector<Part>{{matrix, 0, bias, false}}, std::vector<Slot*>{&logits}));
        head_operations_.push_back(std::make_unique<SampleOperation>(*this, logits, tile));
    }
}

void Program::allocate_cache(const std::vector<int64_t>& num_pages) {
    if (num_pages.size() != num_pages_.size()) throw std::invalid_argument("one number of pages per cache group");
    std::vector<uint16_t*> groups;
    for (size_t group = 0; group < num_pages.size(); ++group) {
        if (num_pages_[group] != 0) throw std::invalid_argument("the cache is allocated once");
        const size_t elements = num_pages[group] * group_elements_[group];
        groups.push_back(static_cast<uint16_t*>(workspace(elements * sizeof(uint16_t))));
    }
    for (CacheLayer& layer : cache_layers_) {
        layer.page_stride = group_elements_[layer.group];
        layer.keys = groups[layer.group] + layer.offset;
        layer.values = layer.keys + layer.page_elements;
    }
    num_pages_ = num_pages;
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

void Program::step(const StepInput& input) {
    step_.input = input;
    for (int32_t s = 0; s < input.num_sequences; ++s)
        for (int32_t row = input.sequence_offsets[s]; row < input.sequence_offsets[s + 1]; ++row) {
            step_.positions[row] = input.first_positions[s] + row - input.sequence_offsets[s];
            step_.sequences[row] = s;
        }
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

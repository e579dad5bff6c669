// What a step program is made of: each operation says how many pieces the current step has for it, and runs them one by
// one, on any thread. Included by program.cpp only.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "platform.h"
#include "program.h"
#include "scalar_math.h"

namespace abaci {
namespace {

constexpr int32_t kHeadTile = 64;           // logit rows that are computed and reduced at once
constexpr int32_t kAttentionQueries = 128;  // query rows (tokens x heads of a group) of one attention piece, about
constexpr int64_t kGatedColumns = 1024;     // columns of a row that the gated activation treats at once
constexpr int64_t kSmallPieceBytes = 24 * 1024;
constexpr int64_t kObservedColumns = 256;

int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// How many rows, or parts of rows, make a piece: about eight pieces per thread, however large the step.
int64_t blocks_per_piece(int64_t num_blocks, int num_threads) {
    return std::max<int64_t>(1, num_blocks / (8 * num_threads));
}

// An operation on each row by itself.
class RowOperation : public Operation {
  public:
    explicit RowOperation(Program& program, int32_t rows_per_token = 1)
        : p_(program), rows_here_(program.num_rows_here()), rows_per_token_(rows_per_token) {}
    uint32_t plan() final {
        num_rows_ = int64_t{rows_here_} * rows_per_token_;
        rows_per_piece_ = blocks_per_piece(num_rows_, p_.num_threads());
        return divide_up(num_rows_, rows_per_piece_);
    }
    void run(uint32_t piece, int worker) final {
        const int64_t end = std::min(num_rows_, (piece + 1) * rows_per_piece_);
        for (int64_t r = piece * rows_per_piece_; r < end; ++r) run_row(r, worker);
    }

  protected:
    virtual void run_row(int64_t r, int worker) = 0;

    Program& p_;

  private:
    const int32_t& rows_here_;
    const int32_t rows_per_token_;
    int64_t num_rows_ = 0, rows_per_piece_ = 1;
};

class EmbedOperation final : public RowOperation {
  public:
    EmbedOperation(Program& program, const PackedMatrix& table, float scale, int out)
        : RowOperation(program), table_(table), scale_(scale), out_(out) {}
    void run_row(int64_t r, int) override {
        unpack_row(table_, p_.current().input.token_ids[r], scale_, p_.slot(out_).row(r));
    }

  private:
    const PackedMatrix table_;
    const float scale_;
    const int out_;
};

// Rows of an untied table are read where they are stored: few are needed, and the rest costs no memory.
class FileEmbedOperation final : public RowOperation {
  public:
    FileEmbedOperation(Program& program, int descriptor, int64_t offset, Format format, int64_t columns, float scale,
                       int out)
        : RowOperation(program),
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
    void run_row(int64_t r, int worker) override {
        const int64_t at = offset_ + p_.current().input.token_ids[r] * static_cast<int64_t>(row_bytes_);
        uint8_t* source = scratch_[worker].data();
        float* out = p_.slot(out_).row(r);
        if (!read_at(descriptor_, source, row_bytes_, at)) {
            p_.fail("a row of the embedding could not be read: the model file was cut short");
        } else if (!unpack_source_row(format_, source, columns_, scale_, panels_[worker]->data(), out)) {
            p_.fail("a row of the embedding holds values that are not finite: the model file is damaged");
        }
    }

  private:
    const int descriptor_;
    const int64_t offset_;
    const Format format_;
    const int64_t columns_;
    const float scale_;
    const int out_;
    const size_t row_bytes_;
    std::vector<std::vector<uint8_t>> scratch_;
    std::vector<std::unique_ptr<WeightArena>> panels_;
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
                table.cosines[r * half + i] = static_cast<float>(cosine * table.magnitude);
                table.sines[r * half + i] = static_cast<float>(sine * table.magnitude);
            }
    }

  private:
    static constexpr int64_t kRows = 16;
    Program& p_;
    const int rope_;
};

class NormOperation final : public RowOperation {
  public:
    NormOperation(Program& program, int in, int out, const float* weight, int64_t columns, float epsilon, bool quantise)
        : RowOperation(program),
          in_(in),
          out_(out),
          weight_(weight),
          columns_(columns),
          epsilon_(epsilon),
          quantise_(quantise) {}
    void run_row(int64_t r, int) override {
        const QuantiseTarget quantised = quantise_ ? p_.slot(out_).quantised(r) : QuantiseTarget{};
        p_.kernels().rms_norm({p_.slot(in_).row(r), p_.slot(out_).row(r), weight_, columns_, epsilon_, quantised});
    }

  private:
    const int in_, out_;
    const float* weight_;
    const int64_t columns_;
    const float epsilon_;
    const bool quantise_;
};

// The norm of each head of a row, in place.
class HeadNormOperation final : public RowOperation {
  public:
    HeadNormOperation(Program& program, int slot, const float* weight, int64_t head_dim, float epsilon)
        : RowOperation(program), slot_(slot), weight_(weight), head_dim_(head_dim), epsilon_(epsilon) {}
    void run_row(int64_t r, int) override {
        float* row = p_.slot(slot_).row(r);
        for (int64_t at = 0; at < p_.slot(slot_).columns; at += head_dim_)
            p_.kernels().rms_norm({row + at, row + at, weight_, head_dim_, epsilon_, QuantiseTarget{}});
    }

  private:
    const int slot_;
    const float* weight_;
    const int64_t head_dim_;
    const float epsilon_;
};

class QuantiseOperation final : public RowOperation {
  public:
    QuantiseOperation(Program& program, int slot)
        : RowOperation(program, program.slot(slot).rows_per_token), slot_(slot) {}
    void run_row(int64_t r, int) override {
        const Slot& slot = p_.slot(slot_);
        p_.kernels().quantise(slot.row(r), slot.columns, slot.quantised(r));
    }

  private:
    const int slot_;
};

// The columns of a row in the order in which a matrix has its own.
class ReorderOperation final : public RowOperation {
  public:
    ReorderOperation(Program& program, int in, int out, std::vector<int32_t> order, bool quantise)
        : RowOperation(program), in_(in), out_(out), order_(std::move(order)), quantise_(quantise) {}
    void run_row(int64_t r, int) override {
        const float* from = p_.slot(in_).row(r);
        const Slot& out = p_.slot(out_);
        float* to = out.row(r);
        for (size_t i = 0; i < order_.size(); ++i) to[i] = from[order_[i]];
        if (quantise_) p_.kernels().quantise(to, out.columns, out.quantised(r));
    }

  private:
    const int in_, out_;
    const std::vector<int32_t> order_;
    const bool quantise_;
};

// Pieces are panels of one matrix for one block of rows, block by block, so that a block's activations stay in cache.
class LinearOperation final : public Operation {
  public:
    LinearOperation(Program& program, Slot& in, std::vector<Program::Part> parts, std::vector<Slot*> outs)
        : p_(program), in_(in), parts_(std::move(parts)), outs_(std::move(outs)), rows_here_(program.num_rows_here()) {
        for (const Program::Part& part : parts_) total_panels_ += panels_of(part);
    }
    void set_rows(int32_t rows) { fixed_rows_ = rows; }
    uint32_t plan() override {
        num_rows_ = fixed_rows_ >= 0 ? fixed_rows_ : rows_here_;
        if (num_rows_ == 0) return 0;
        num_blocks_ = divide_up(num_rows_, kMaxTaskRows);
        block_rows_ = divide_up(num_rows_, num_blocks_);
        // A piece begins with making its rows ready.
        const int64_t wanted = (num_rows_ <= 4 ? 8 : 4) * p_.num_threads();
        const int64_t small = divide_up(kSmallPieceBytes, static_cast<int64_t>(parts_[0].matrix.panel_bytes));
        most_panels_ = std::clamp<int64_t>(total_panels_ * num_blocks_ / wanted, num_rows_ <= 16 ? small : 1, 16);
        pieces_per_block_ = 0;
        for (const Program::Part& part : parts_) pieces_per_block_ += pieces_of(part);
        return num_blocks_ * pieces_per_block_;
    }
    void run(uint32_t piece, int) override {
        const int64_t block = piece / pieces_per_block_;
        int64_t index = piece % pieces_per_block_;
        size_t i = 0;
        while (index >= pieces_of(parts_[i])) index -= pieces_of(parts_[i++]);
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
        task.panel_begin = index * panels_of(part) / pieces_of(part);
        task.panel_end = (index + 1) * panels_of(part) / pieces_of(part);
        p_.kernels().matmul[static_cast<int>(part.matrix.format)](task);
    }

  private:
    static int64_t panels_of(const Program::Part& part) { return divide_up(part.matrix.rows, kPanel); }
    // As many for each worker, of as many panels.
    int64_t pieces_of(const Program::Part& part) const {
        const int64_t pieces = divide_up(panels_of(part), most_panels_), workers = p_.num_threads();
        return std::min(panels_of(part), divide_up(pieces, workers) * workers);
    }

    Program& p_;
    Slot& in_;
    const std::vector<Program::Part> parts_;
    const std::vector<Slot*> outs_;
    const int32_t& rows_here_;
    int64_t total_panels_ = 0;
    int32_t fixed_rows_ = -1;
    int64_t num_rows_ = 0, num_blocks_ = 1, block_rows_ = 0, most_panels_ = 1, pieces_per_block_ = 1;
};

void rotate(Program& program, int rope, int64_t r, float* head) {
    const RopeTable& table = program.rope(rope);
    const int64_t at = r * (table.dim / 2);
    program.kernels().rope({head, table.cosines.data() + at, table.sines.data() + at, table.dim, table.interleaved});
}

// The row of a cache's page that holds a row of the step: the page's first byte, and the slot in it.
struct PageSlot {
    int64_t page;
    int32_t slot;
};
PageSlot page_slot(const Step& step, const CacheLayer& cache, int64_t r) {
    const int32_t position = step.positions[r];
    const int32_t* table =
        step.input.page_tables[cache.group] + step.sequences[r] * step.input.pages_per_sequence[cache.group];
    return {table[position / kPageTokens] * cache.page_stride, position % kPageTokens};
}

// Norm, rotation and scale of query and key heads, then keys and values into their pages.
class PrepareHeadsOperation final : public RowOperation {
  public:
    PrepareHeadsOperation(Program& program, Program::Heads query, Program::Heads key, Program::Heads value, int layer,
                          int32_t head_dim, Program::PositionScale scale)
        : RowOperation(program),
          query_(query),
          key_(key),
          value_(value),
          layer_(layer),
          head_dim_(head_dim),
          scale_(scale),
          mixed_(program.cache_type() == CacheType::Int8) {}
    void run_row(int64_t r, int) override {
        prepare(query_, r);
        if (scale_.beta != 0) scale_query(r);
        if (mixed_) mix(query_, r);
        if (key_.count == 0) return;  // the layer reads what another has stored
        prepare(key_, r);
        if (mixed_) mix(key_, r);
        prepare(value_, r);
        append(r);
    }

  private:
    void prepare(const Program::Heads& heads, int64_t r) {
        float* head = p_.slot(heads.slot).row(r);
        for (int32_t h = 0; h < heads.count; ++h, head += head_dim_) {
            if (heads.norm) p_.kernels().rms_norm({head, head, heads.norm, head_dim_, heads.epsilon, QuantiseTarget{}});
            if (heads.rope >= 0) rotate(p_, heads.rope, r, head);
        }
    }
    void mix(const Program::Heads& heads, int64_t r) {
        p_.kernels().mix(p_.slot(heads.slot).row(r), int64_t{heads.count} * head_dim_, mixed_size(head_dim_));
    }
    void scale_query(int64_t r) {
        const double periods = 1.0 + p_.current().positions[r] / scale_.period;
        const float factor = static_cast<float>(1.0 + scale_.beta * log_of(periods));
        float* row = p_.slot(query_.slot).row(r);
        for (int64_t i = 0; i < int64_t{query_.count} * head_dim_; ++i) row[i] *= factor;
    }
    void append(int64_t r) {
        const CacheLayer& cache = p_.cache_layer(layer_);
        const PageSlot at = page_slot(p_.current(), cache, r);
        const float* keys = p_.slot(key_.slot).row(r);
        const float* values = p_.slot(value_.slot).row(r);
        for (int32_t h = 0; h < key_.count; ++h) {
            const int64_t head = at.page + h * cache.head_bytes;
            p_.kernels().store_keys(cache.type, keys + h * head_dim_, head_dim_, cache.keys + head, at.slot);
            p_.kernels().store_values(cache.type, values + h * head_dim_, head_dim_, cache.values + head, at.slot);
        }
    }
    const Program::Heads query_, key_, value_;
    const int layer_;
    const int32_t head_dim_;
    const Program::PositionScale scale_;
    const bool mixed_;
};

// What attention of any kind is told of the rows it is for and of the cache they see.
AttentionTask attention_task(Program& program, const CacheLayer& cache, const RowRun& rows, int worker) {
    const Step& step = program.current();
    AttentionTask task = {};
    task.cache_type = cache.type;
    task.page_stride = cache.page_stride;
    task.page_table = step.input.page_tables[cache.group] + rows.sequence * step.input.pages_per_sequence[cache.group];
    task.first_position = step.positions[rows.row];
    task.num_rows = rows.num_rows;
    task.scratch = program.attention_scratch(worker);
    return task;
}

class AttentionOperation final : public Operation {
  public:
    AttentionOperation(Program& program, int query, int out, int layer, int32_t num_heads, int32_t num_kv_heads,
                       int32_t head_dim, float scale, int32_t window, const float* sinks, bool quantise)
        : p_(program),
          query_(query),
          out_(out),
          layer_(layer),
          heads_per_group_(num_heads / num_kv_heads),
          num_kv_heads_(num_kv_heads),
          head_dim_(head_dim),
          scale_(scale),
          window_(window),
          sinks_(sinks),
          quantise_(quantise) {}
    uint32_t plan() override {
        runs_ = &p_.row_runs(std::max(1, kAttentionQueries / heads_per_group_));
        return runs_->size() * num_kv_heads_;
    }
    void run(uint32_t piece, int worker) override {
        const CacheLayer& cache = p_.cache_layer(layer_);
        // Late rows of long sequences first: they take longest.
        const RowRun& rows = (*runs_)[runs_->size() - 1 - piece / num_kv_heads_];
        const int64_t kv_head = piece % num_kv_heads_;
        const int64_t head = kv_head * heads_per_group_ * head_dim_;
        AttentionTask task = attention_task(p_, cache, rows, worker);
        task.query = p_.slot(query_).row(rows.row) + head;
        task.query_stride = p_.slot(query_).stride;
        task.query_head_stride = head_dim_;
        task.tail_begin = head_dim_;
        task.output = p_.slot(out_).row(rows.row) + head;
        task.output_stride = p_.slot(out_).stride;
        task.keys = cache.keys + kv_head * cache.head_bytes;
        task.values = cache.values + kv_head * cache.head_bytes;
        task.heads_per_group = heads_per_group_;
        task.head_dim = task.value_dim = head_dim_;
        task.sinks = sinks_ ? sinks_ + kv_head * heads_per_group_ : nullptr;
        task.window = window_;
        task.scale = scale_;
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
    const float* const sinks_;
    const bool quantise_;
    const std::vector<RowRun>* runs_ = nullptr;
};

class GatedOperation final : public Operation {
  public:
    GatedOperation(Program& program, int gate, int up, int64_t up_begin, int out, int64_t columns, ActivationKind kind,
                   bool quantise)
        : p_(program),
          gate_(gate),
          up_(up),
          up_begin_(up_begin),
          out_(out),
          columns_(columns),
          kind_(kind),
          quantise_(quantise),
          parts_(divide_up(columns, kGatedColumns)),
          rows_here_(program.num_rows_here()) {}
    uint32_t plan() override {
        num_blocks_ = int64_t{rows_here_} * p_.slot(out_).rows_per_token * parts_;
        blocks_per_piece_ = blocks_per_piece(num_blocks_, p_.num_threads());
        return divide_up(num_blocks_, blocks_per_piece_);
    }
    void run(uint32_t piece, int) override {
        const int64_t end = std::min(num_blocks_, (piece + 1) * blocks_per_piece_);
        for (int64_t block = piece * blocks_per_piece_; block < end; ++block)
            run_block(block / parts_, block % parts_ * kGatedColumns);
    }

  private:
    void run_block(int64_t r, int64_t begin) {
        const int64_t columns = std::min(kGatedColumns, columns_ - begin);
        float* out = p_.slot(out_).row(r) + begin;
        const float* up = p_.slot(up_).row(r) + up_begin_ + begin;
        p_.kernels().gated(p_.slot(gate_).row(r) + begin, up, columns, kind_, out);
        if (quantise_) p_.kernels().quantise(out, columns, p_.slot(out_).quantised(r, begin / kGroup));
    }

    Program& p_;
    const int gate_, up_;
    const int64_t up_begin_;
    const int out_;
    const int64_t columns_;
    const ActivationKind kind_;
    const bool quantise_;
    const int64_t parts_;
    const int32_t& rows_here_;
    int64_t num_blocks_ = 0, blocks_per_piece_ = 1;
};

// In one piece: a row moves to a place from which another has already moved, or to its own.
class KeepAskedOperation final : public Operation {
  public:
    KeepAskedOperation(Program& program, int slot) : p_(program), slot_(slot) {}
    uint32_t plan() override { return p_.current().num_asked < p_.current().input.num_tokens ? 1 : 0; }
    void run(uint32_t, int) override {
        const Slot& slot = p_.slot(slot_);
        const std::vector<int32_t>& asked = p_.current().asked;
        for (size_t i = 0; i < asked.size(); ++i)
            if (asked[i] != static_cast<int32_t>(i))
                std::memcpy(slot.row(i), slot.row(asked[i]), slot.columns * sizeof(float));
    }

  private:
    Program& p_;
    const int slot_;
};

class AddOperation final : public RowOperation {
  public:
    AddOperation(Program& program, int x, int y, int out, float scale)
        : RowOperation(program), x_(x), y_(y), out_(out), scale_(scale) {}
    void run_row(int64_t r, int) override {
        const int64_t columns = p_.slot(out_).columns;
        float* out = p_.slot(out_).row(r);
        p_.kernels().add(p_.slot(x_).row(r), p_.slot(y_).row(r), columns, out);
        if (scale_ == 1.0f) return;
        for (int64_t i = 0; i < columns; ++i) out[i] *= scale_;
    }

  private:
    const int x_, y_, out_;
    const float scale_;
};

// Every value of each slot times the slot's factor, in place.
class ScaleOperation final : public RowOperation {
  public:
    ScaleOperation(Program& program, std::vector<Program::Scaled> scaled)
        : RowOperation(program), scaled_(std::move(scaled)) {}
    void run_row(int64_t r, int) override {
        for (const auto& [index, factor] : scaled_) {
            const Slot& slot = p_.slot(index);
            float* row = slot.row(r);
            for (int64_t i = 0; i < slot.columns; ++i) row[i] *= factor;
        }
    }

  private:
    const std::vector<Program::Scaled> scaled_;
};

// Adds up the squares of every column of a slot, of dispatched rows for each expert by itself. Work is split over
// columns, so that every sum has one order.
class ObserveOperation final : public Operation {
  public:
    ObserveOperation(Program& program, int slot, int routing, Observation& observation)
        : p_(program), slot_(slot), routing_(routing), observation_(observation), rows_here_(program.num_rows_here()) {}
    uint32_t plan() override { return divide_up(observation_.columns, kObservedColumns); }
    void run(uint32_t piece, int) override {
        const int64_t begin = piece * kObservedColumns, end = std::min(observation_.columns, begin + kObservedColumns);
        if (routing_ < 0) return add_rows(0, 0, rows_here_, begin, end);
        const Routing& routing = p_.routing(routing_);
        for (int32_t expert = 0; expert < routing.router.num_experts; ++expert)
            add_rows(expert, routing.begins[expert], routing.begins[expert + 1], begin, end);
    }

  private:
    void add_rows(int64_t expert, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end) {
        if (begin == 0) observation_.counts[expert] += row_end - row_begin;
        double* sums = observation_.sums.data() + expert * observation_.columns;
        for (int64_t r = row_begin; r < row_end; ++r) {
            const float* x = p_.slot(slot_).row(r);
            for (int64_t c = begin; c < end; ++c) sums[c] += static_cast<double>(x[c]) * x[c];
        }
    }

    Program& p_;
    const int slot_, routing_;
    Observation& observation_;
    const int32_t& rows_here_;
};

// Hands out rows of what the head reads.
class HiddenOperation final : public Operation {
  public:
    HiddenOperation(Program& program, int in) : p_(program), in_(in) {}
    uint32_t plan() override { return p_.current().input.num_hidden_rows; }
    void run(uint32_t piece, int) override {
        const StepInput& input = p_.current().input;
        const Slot& in = p_.slot(in_);
        std::memcpy(input.hidden_out + piece * in.columns, in.row(p_.final_place(input.hidden_rows[piece])),
                    in.columns * sizeof(float));
    }

  private:
    Program& p_;
    const int in_;
};

// Copies one tile of logit rows together.
class GatherOperation final : public Operation {
  public:
    GatherOperation(Program& program, int in, Slot& out, int32_t tile) : p_(program), in_(in), out_(out), tile_(tile) {}
    uint32_t plan() override { return std::min(kHeadTile, p_.current().input.num_logit_rows - tile_ * kHeadTile); }
    void run(uint32_t piece, int) override {
        const int32_t row = p_.current().input.logit_rows[tile_ * kHeadTile + piece].row;
        const float* from = p_.slot(in_).row(p_.final_place(row));
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
    SampleOperation(Program& program, Slot& logits, int32_t tile, float soft_cap)
        : p_(program), logits_(logits), tile_(tile), soft_cap_(soft_cap) {}
    uint32_t plan() override { return std::min(kHeadTile, p_.current().input.num_logit_rows - tile_ * kHeadTile); }
    void run(uint32_t piece, int worker) override {
        const StepInput& in = p_.current().input;
        const int64_t i = tile_ * kHeadTile + piece;
        const LogitRow& row = in.logit_rows[i];
        const uint32_t* mask = row.mask_row < 0 ? nullptr : in.masks + row.mask_row * in.mask_words;
        if (soft_cap_ > 0) cap(logits_.row(piece));
        sample(p_.kernels(), {&row, logits_.row(piece), p_.vocab_size(), in.history, in.bias, mask},
               p_.sample_scratch(worker),
               {in.token_out + i, in.logprob_out + i, in.top_ids_out + i * in.top_width,
                in.top_logprobs_out + i * in.top_width});
    }

  private:
    // cap tanh(x / cap), by tanh y = 1 - 2 / (1 + exp 2y).
    void cap(float* logits) {
        const int32_t n = p_.vocab_size();
        p_.kernels().exp_values(logits, n, 0.0f, 2.0f / soft_cap_, logits);
        for (int32_t i = 0; i < n; ++i) logits[i] = soft_cap_ - 2.0f * soft_cap_ / (1.0f + logits[i]);
    }

    Program& p_;
    Slot& logits_;
    const int32_t tile_;
    const float soft_cap_;  // 0: none
};

}  // namespace
}  // namespace abaci

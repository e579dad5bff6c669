// Latent attention in its absorbed form: a matrix for each head, and attention whose values are a part of its keys.
// Included by program.cpp only.
#pragma once

#include "operations.h"

namespace abaci {
namespace {

// Each head's part of a row times its own matrix. Pieces are heads, for one block of rows. Products are whole panels:
// where a head ends within one, they are made aside, as they would reach into the next head's.
class HeadLinearOperation final : public Operation {
  public:
    HeadLinearOperation(Program& program, int in, int64_t in_stride, const PackedMatrix& stack, int32_t num_heads,
                        int64_t rows, int out)
        : p_(program),
          in_(in),
          out_(out),
          in_stride_(in_stride),
          stack_(stack),
          num_heads_(num_heads),
          rows_(rows),
          panels_(divide_up(rows, kPanel)),
          aside_(rows % kPanel == 0 ? 0 : program.num_threads()) {
        for (auto& products : aside_) products.resize(kMaxTaskRows * panels_ * kPanel);
    }
    uint32_t plan() override { return num_heads_ * divide_up(p_.current().input.num_tokens, kMaxTaskRows); }
    void run(uint32_t piece, int worker) override {
        const int64_t block = piece / num_heads_, head = piece % num_heads_;
        const int64_t first = block * kMaxTaskRows;
        const Slot& out = p_.slot(out_);
        float* products = out.row(first) + head * rows_;
        MatmulTask task;
        task.matrix = stack_;
        task.matrix.rows = rows_;
        task.matrix.data = stack_.data + head * panels_ * stack_.panel_bytes;
        task.input = p_.slot(in_).activations().at(first, head * in_stride_);
        task.output = aside_.empty() ? products : aside_[worker].data();
        task.output_stride = aside_.empty() ? out.stride : panels_ * kPanel;
        task.bias = nullptr;
        task.accumulate = false;
        task.row_begin = 0;
        task.row_end = std::min<int64_t>(p_.current().input.num_tokens - first, kMaxTaskRows);
        task.panel_begin = 0;
        task.panel_end = panels_;
        p_.kernels().matmul[static_cast<int>(stack_.format)](task);
        if (aside_.empty()) return;
        for (int64_t r = 0; r < task.row_end; ++r)
            std::copy_n(task.output + r * task.output_stride, rows_, products + r * out.stride);
    }

  private:
    Program& p_;
    const int in_, out_;
    const int64_t in_stride_;
    const PackedMatrix stack_;
    const int32_t num_heads_;
    const int64_t rows_, panels_;
    std::vector<std::vector<float>> aside_;
};

// Norm of the latent and rotation of the rest of the key, which then goes into its page; rotation of each query's end.
class PrepareLatentOperation final : public RowOperation {
  public:
    PrepareLatentOperation(Program& program, const Program::Latent& latent)
        : RowOperation(program), latent_(latent), rotated_(program.rope(latent.rope).dim) {}
    void run_row(int64_t r, int) override {
        float* key = p_.slot(latent_.compressed).row(r);
        p_.kernels().rms_norm({key, key, latent_.norm, latent_.latent_dim, latent_.epsilon, QuantiseTarget{}});
        rotate(p_, latent_.rope, r, key + latent_.latent_dim);
        float* query = p_.slot(latent_.query).row(r) + latent_.nope_dim;
        for (int32_t h = 0; h < latent_.num_heads; ++h) rotate(p_, latent_.rope, r, query + h * head_stride());
        const CacheLayer& cache = p_.cache_layer(latent_.layer);
        const PageSlot at = page_slot(p_.current(), cache, r);
        p_.kernels().store_keys(cache.type, key, latent_.latent_dim + rotated_, cache.keys + at.page, at.slot);
    }

  private:
    int64_t head_stride() const { return latent_.nope_dim + rotated_; }

    const Program::Latent latent_;
    const int32_t rotated_;
};

class LatentAttentionOperation final : public Operation {
  public:
    LatentAttentionOperation(Program& program, const Program::Latent& latent)
        : p_(program), latent_(latent), rotated_(program.rope(latent.rope).dim) {}
    uint32_t plan() override {
        heads_per_piece_ = std::min(latent_.num_heads, kAttentionQueries);
        while (latent_.num_heads % heads_per_piece_) --heads_per_piece_;
        runs_ = &p_.row_runs(std::max(1, kAttentionQueries / heads_per_piece_));
        return runs_->size() * (latent_.num_heads / heads_per_piece_);
    }
    void run(uint32_t piece, int worker) override {
        const int32_t parts = latent_.num_heads / heads_per_piece_;
        const RowRun& rows = (*runs_)[runs_->size() - 1 - piece / parts];
        const int64_t head = piece % parts * heads_per_piece_;
        const CacheLayer& cache = p_.cache_layer(latent_.layer);
        const int32_t head_dim = latent_.latent_dim + rotated_, plain = latent_.nope_dim + rotated_;
        AttentionTask task = attention_task(p_, cache, rows, worker);
        task.query = p_.slot(latent_.absorbed).row(rows.row) + head * latent_.latent_dim;
        task.query_stride = p_.slot(latent_.absorbed).stride;
        task.query_head_stride = latent_.latent_dim;
        task.query_tail = p_.slot(latent_.query).row(rows.row) + head * plain + latent_.nope_dim;
        task.tail_stride = p_.slot(latent_.query).stride;
        task.tail_head_stride = plain;
        task.tail_begin = latent_.latent_dim;
        task.output = p_.slot(latent_.out).row(rows.row) + head * latent_.latent_dim;
        task.output_stride = p_.slot(latent_.out).stride;
        task.keys = cache.keys;
        task.heads_per_group = heads_per_piece_;
        task.head_dim = head_dim;
        task.value_dim = latent_.latent_dim;
        task.scale = latent_.scale;
        p_.kernels().attention(task);
    }

  private:
    Program& p_;
    const Program::Latent latent_;
    const int32_t rotated_;
    int32_t heads_per_piece_ = 1;
    const std::vector<RowRun>* runs_ = nullptr;
};

}  // namespace
}  // namespace abaci

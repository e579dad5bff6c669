// The step program: a decoder's operations, recorded once at load, run as one call per step.
//
// Slots hold activations: `columns` floats for each row (token) of the step, and, where a quantised matrix reads them,
// the same values as int8. The recorder (abaci/kernels/native.py) decides which value lives in which slot.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "kernel_table.h"
#include "pool.h"
#include "sample.h"
#include "weights.h"

namespace abaci {

// Frequencies theta^(-2i/dim) / linear_scale / factor_i for i < dim/2, as float32.
std::vector<float> rope_frequencies(double theta, int dim, double linear_scale, const float* factors);

struct StepInput {
    int32_t num_tokens, num_sequences, num_logit_rows;
    const int32_t* token_ids;
    const int32_t* sequence_offsets;
    const int32_t* first_positions;
    std::vector<const int32_t*> page_tables;  // per cache group: [sequences][pages_per_sequence]
    std::vector<int64_t> pages_per_sequence;
    const LogitRow* logit_rows;
    const HistoryEntry* history;
    const BiasEntry* bias;
    const uint32_t* masks;
    int64_t mask_words;
    int32_t* token_out;
    float* logprob_out;
    int32_t* top_ids_out;  // [logit rows][top_width]
    float* top_logprobs_out;
    int64_t top_width;
    int32_t num_hidden_rows;
    const int32_t* hidden_rows;  // rows of the step whose final hidden states are wanted
    float* hidden_out;           // [hidden rows][hidden size]
};

class Program;

// What every operation sees of the running step.
struct Step {
    StepInput input;
    std::vector<int32_t> positions;  // per row
    std::vector<int32_t> sequences;  // per row
};

struct Slot {
    int64_t columns = 0, stride = 0;
    float* data = nullptr;
    int8_t* values = nullptr;  // null until some matrix wants them
    float* scales = nullptr;
    int32_t* sums = nullptr;

    int64_t groups() const { return columns / kGroup; }
    float* row(int64_t r) const { return data + r * stride; }
    QuantiseTarget quantised(int64_t r, int64_t first_group = 0) const;
    Activations activations() const;
};

class Operation {
  public:
    virtual ~Operation() = default;
    virtual uint32_t plan() = 0;  // number of pieces for the current step
    virtual void run(uint32_t piece, int worker) = 0;
};

// A page of a cache group holds the keys and values of all the group's layers, so that few tokens touch little memory.
struct CacheLayer {
    int32_t group;
    int64_t page_elements;  // of this layer's keys, and of its values
    int64_t offset;         // within a page of the group
    int64_t page_stride = 0;
    uint16_t* keys = nullptr;
    uint16_t* values = nullptr;
};

struct RopeTable {
    std::vector<float> frequencies;
    std::vector<float> cosines, sines;  // [max_tokens][dim / 2]
    int32_t dim;
    bool interleaved;
};

// A run of rows of one sequence that attention treats at once.
struct RowRun {
    int32_t sequence, row, num_rows;
};

class Program {
  public:
    Program(std::shared_ptr<ThreadPool> pool, const KernelTable* kernels, int32_t max_tokens, int32_t vocab_size,
            int32_t num_cache_groups);
    ~Program();

    // Recording. Slots and ropes are named by the numbers returned.
    int add_slot(int64_t columns);
    int add_rope(double theta, int dim, double linear_scale, const float* factors, bool interleaved);
    void add_cache_layer(int group, int64_t kv_heads, int64_t head_dim);
    void embed(const PackedMatrix& table, float scale, int out);
    // The same from rows as stored in a file, which stays open.
    void embed(int descriptor, int64_t offset, Format format, int64_t columns, float scale, int out);
    void rms_norm(int in, int out, const float* weight, int64_t columns, float epsilon, bool quantise);
    void quantise(int slot);
    struct Part {
        PackedMatrix matrix;
        int out;
        const float* bias;
        bool accumulate;
    };
    void linear(int in, std::vector<Part> parts);
    struct Heads {
        int slot;
        int32_t count;
        const float* norm;  // null: none
        float epsilon;
        int rope;  // -1: none
    };
    void prepare_heads(Heads query, Heads key, int value, int layer, int32_t head_dim);
    void attention(int query, int out, int layer, int32_t num_heads, int32_t num_kv_heads, int32_t head_dim,
                   float scale, int32_t window, bool quantise);
    void gated(int gate, int up, int out, int64_t columns, ActivationKind kind, bool quantise);
    void add(int x, int y, int out);
    void head(int in, const PackedMatrix& matrix, const float* bias);

    // Running.
    void allocate_cache(const std::vector<int64_t>& num_pages);
    // Throws std::runtime_error where a row could not be read from its file.
    void step(const StepInput& input);
    void fail(const char* what) { failure_ = what; }  // from any worker, while running
    int64_t workspace_bytes() const { return workspace_bytes_; }
    int64_t num_pages(int group) const { return num_pages_[group]; }
    int64_t hidden_size() const { return hidden_size_; }

    // For operations.
    const KernelTable& kernels() const { return *kernels_; }
    const Step& current() const { return step_; }
    Slot& slot(int i) { return *slots_[i]; }
    RopeTable& rope(int i) { return *ropes_[i]; }
    CacheLayer& cache_layer(int i) { return cache_layers_[i]; }
    int num_threads() const { return pool_->num_threads(); }
    const std::vector<RowRun>& row_runs(int32_t rows_per_run);
    uint8_t* attention_scratch(int worker) { return attention_scratch_[worker].data(); }
    SampleScratch& sample_scratch(int worker) { return sample_scratch_[worker]; }
    int32_t max_tokens() const { return max_tokens_; }
    int32_t vocab_size() const { return vocab_size_; }

  private:
    void want_quantised(Slot& slot, int64_t rows);
    void* workspace(size_t num_bytes);
    std::unique_ptr<Slot> make_slot(int64_t columns, int64_t rows);

    std::shared_ptr<ThreadPool> pool_;
    const KernelTable* kernels_;
    const int32_t max_tokens_, vocab_size_;
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<std::unique_ptr<RopeTable>> ropes_;
    std::vector<CacheLayer> cache_layers_;
    std::vector<int64_t> num_pages_, group_elements_;
    std::vector<std::unique_ptr<Operation>> operations_;
    std::vector<std::unique_ptr<Operation>> head_operations_;  // per tile of logit rows: gather, linear, sample
    std::unique_ptr<Operation> hidden_operation_;              // only in steps that are asked for hidden states
    int64_t hidden_size_ = 0;
    std::deque<std::pair<int32_t, std::vector<RowRun>>> row_runs_;
    std::vector<std::vector<uint8_t>> attention_scratch_;
    size_t attention_scratch_bytes_ = 0;
    std::vector<SampleScratch> sample_scratch_;
    std::vector<std::pair<void*, size_t>> allocations_;
    int64_t workspace_bytes_ = 0;
    Step step_;
    std::vector<Phase> phases_;
    std::atomic<const char*> failure_{nullptr};
};

}  // namespace abaci

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

// YaRN's stretching of a context; see abaci/models/spec.py. factor 0: none.
struct Yarn {
    double factor = 0, original_context = 0, beta_fast = 0, beta_slow = 0;
    bool truncate = true;
};

// Frequencies theta^(-2i/dim) / linear_scale / factor_i for i < dim/2, as float32, stretched by YaRN.
std::vector<float> rope_frequencies(double theta, int dim, double linear_scale, const float* factors,
                                    const Yarn& yarn = {});

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
    const int32_t* states;       // [sequences][2]: read (-1: none yet), written
};

class Program;

// What every operation sees of the running step.
struct Step {
    StepInput input;
    std::vector<int32_t> positions;  // per row
    std::vector<int32_t> sequences;  // per row
    int32_t num_asked;               // rows whose logits or hidden states are wanted
    std::vector<int32_t> asked;      // which
    std::vector<int32_t> places;     // per row of the step: where it stands once only those are kept
};

struct Slot {
    int64_t columns = 0, stride = 0;
    int32_t rows_per_token = 1;  // more in what is dispatched to experts
    bool wants_floats = false;   // of a dispatched row that is quantised as well
    float* data = nullptr;
    int8_t* values = nullptr;  // null until some matrix wants them
    float* scales = nullptr;
    int32_t* sums = nullptr;

    int64_t num_rows = 0;  // that there is room for

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
    CacheType type;
    int64_t head_bytes;  // of one head's keys in a page, and of its values
    int64_t key_bytes;   // of all heads'
    int64_t offset;      // within a page of the group
    int64_t page_stride = 0;
    uint8_t* keys = nullptr;
    uint8_t* values = nullptr;
};

struct RopeTable {
    std::vector<float> frequencies;
    std::vector<float> cosines, sines;  // [max_tokens][dim / 2]
    int32_t dim;
    bool interleaved;
    double magnitude;
};

// How a router chooses; see abaci/models/spec.py.
struct RouterParameters {
    int32_t num_experts, num_active;
    bool sigmoid, normalise;
    const float* choice_bias;  // null: none
    int32_t num_groups, top_groups, group_best;
    float scale;
    const float* expert_scales;  // null: none
};

// What a router chose for the running step. A token has num_active rows, which stand in order of expert.
struct Routing {
    RouterParameters router;
    std::vector<int32_t> experts;  // [tokens][num_active], best first
    std::vector<float> weights;    // likewise
    std::vector<int32_t> rows;     // likewise: where it stands
    std::vector<int32_t> tokens;   // per row: whose it is
    std::vector<int32_t> begins;   // per expert: its first row; then the number of rows
    std::vector<int64_t> work;     // per expert: what a panel of each before it takes, in rows; then all of them
    std::vector<int32_t> next;     // scratch of arranging
};

// A gated delta net; see abaci/models/spec.py. Slots are named by number.
struct DeltaNetParameters {
    int in, beta, alpha, convolved, factors, out;
    const float* kernel;  // [kernel_size][channels]
    const float* decay;
    const float* time_bias;
    const float* zeros;  // channels of them
    int64_t channels, state_offset;
    int32_t num_key_heads, num_value_heads, key_dim, value_dim, kernel_size;
    bool tiled_heads;
};

// Sums of squares of a slot's columns over all steps, for each expert where rows are dispatched.
struct Observation {
    int64_t columns;
    std::vector<double> sums;     // [experts][columns]
    std::vector<int64_t> counts;  // [experts], of rows
};

// A run of rows of one sequence that attention treats at once.
struct RowRun {
    int32_t sequence, row, num_rows;
};

class Program {
  public:
    Program(std::shared_ptr<ThreadPool> pool, const KernelTable* kernels, int32_t max_tokens, int32_t vocab_size,
            int32_t num_cache_groups, CacheType cache_type = CacheType::Float16);
    ~Program();

    // Recording. Slots and ropes are named by the numbers returned.
    int add_slot(int64_t columns, int32_t rows_per_token = 1);
    int add_rope(double theta, int dim, double linear_scale, const float* factors, bool interleaved, const Yarn& yarn,
                 double magnitude);
    // Layers are numbered as they are added.
    void add_cache_layer(int group, int32_t num_heads, int32_t head_dim, bool has_values);
    int add_routing(const RouterParameters& router);
    void embed(const PackedMatrix& table, float scale, int out);
    // The same from rows as stored in a file, which stays open.
    void embed(int descriptor, int64_t offset, Format format, int64_t columns, float scale, int out);
    void rms_norm(int in, int out, const float* weight, int64_t columns, float epsilon, bool quantise);
    void quantise(int slot);
    // Column i of `out` is column order[i] of `in`.
    void reorder(int in, int out, std::vector<int32_t> order, bool quantise);
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
    struct PositionScale {
        double beta;  // 0: none
        int32_t period;
    };
    // Without keys (count 0) the layer's cache stays as it is.
    void prepare_heads(Heads query, Heads key, Heads value, int layer, int32_t head_dim, PositionScale query_scale);
    void attention(int query, int out, int layer, int32_t num_heads, int32_t num_kv_heads, int32_t head_dim,
                   float scale, int32_t window, const float* sinks, bool quantise);
    void head_norm(int slot, const float* weight, int64_t head_dim, float epsilon);
    // `rows` of each head, whose matrix takes whole panels.
    void head_linear(int in, int64_t in_stride, const PackedMatrix& stack, int32_t num_heads, int64_t rows, int out);
    struct Latent {
        int query, absorbed, compressed, out, layer, rope;
        const float* norm;
        float epsilon, scale;
        int32_t num_heads, nope_dim, latent_dim;
    };
    void latent_attention(const Latent& latent);
    // Takes a place in every state.
    void delta_net(DeltaNetParameters net);
    void choose(int logits, int routing);
    void dispatch(int in, int routing, int out, bool floats, bool quantise);
    struct ExpertPart {
        PackedMatrix stack;  // all experts, one after another, each in whole panels
        int64_t rows;        // of one expert
        int out;
        const float* biases;  // [experts][whole panels]; null: none
    };
    void expert_linear(int in, int routing, std::vector<ExpertPart> parts);
    void combine(int in, int routing, int shared, int shared_gate, int out);
    void gated(int gate, int up, int64_t up_begin, int out, int64_t columns, ActivationKind kind, bool quantise);
    void add(int x, int y, int out, float scale);
    // Moves the asked rows to the slot's front. Operations recorded after this one have no others.
    void keep_asked(int slot);
    struct Scaled {
        int slot;
        float factor;
    };
    void scale(std::vector<Scaled> scaled);
    // What stands in a slot at this place of the program; `routing` of dispatched rows, else -1.
    const Observation& observe(int slot, int routing);
    void head(int in, const PackedMatrix& matrix, const float* bias, float soft_cap);

    // Running.
    void allocate_cache(const std::vector<int64_t>& num_pages, int64_t num_states);
    // Throws std::runtime_error where a row could not be read from its file.
    void step(const StepInput& input);
    void fail(const char* what) { failure_ = what; }  // from any worker, while running
    int64_t workspace_bytes() const { return workspace_bytes_; }
    int64_t num_pages(int group) const { return num_pages_[group]; }
    int64_t page_bytes(int group) const { return page_bytes_[group]; }
    int64_t hidden_size() const { return hidden_size_; }

    // For operations.
    const KernelTable& kernels() const { return *kernels_; }
    CacheType cache_type() const { return cache_type_; }
    const Step& current() const { return step_; }
    // How many rows a value has here, at this place of the recording; read when a step is planned or runs.
    const int32_t& num_rows_here() const { return keeps_asked_ ? step_.num_asked : step_.input.num_tokens; }
    // Where a row of the step stands at the end.
    int32_t final_place(int32_t row) const { return keeps_asked_ ? step_.places[row] : row; }
    Slot& slot(int i) { return *slots_[i]; }
    RopeTable& rope(int i) { return *ropes_[i]; }
    CacheLayer& cache_layer(int i) { return cache_layers_[i]; }
    Routing& routing(int i) { return *routings_[i]; }
    float* state(int64_t i) { return states_ + i * state_values_; }
    int64_t state_values() const { return state_values_; }
    int64_t num_states() const { return num_states_; }
    int num_threads() const { return pool_->num_threads(); }
    const std::vector<RowRun>& row_runs(int32_t rows_per_run);
    uint8_t* attention_scratch(int worker) { return attention_scratch_[worker].data(); }
    SampleScratch& sample_scratch(int worker) { return sample_scratch_[worker]; }
    int32_t max_tokens() const { return max_tokens_; }
    int32_t vocab_size() const { return vocab_size_; }

  private:
    void find_asked();
    void want_quantised(Slot& slot);
    void* workspace(size_t num_bytes);
    std::unique_ptr<Slot> make_slot(int64_t columns, int64_t rows, int32_t rows_per_token = 1);
    void want_attention_scratch(int32_t queries, int32_t head_dim);

    std::shared_ptr<ThreadPool> pool_;
    const KernelTable* kernels_;
    const int32_t max_tokens_, vocab_size_;
    const CacheType cache_type_;
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<std::unique_ptr<RopeTable>> ropes_;
    std::vector<CacheLayer> cache_layers_;
    std::vector<std::unique_ptr<Routing>> routings_;
    std::deque<std::vector<float>> zeros_;
    std::deque<Observation> observations_;
    float* states_ = nullptr;
    int64_t state_values_ = 0, num_states_ = 0;
    std::vector<int64_t> num_pages_, page_bytes_;
    std::vector<std::unique_ptr<Operation>> operations_;
    std::vector<std::unique_ptr<Operation>> head_operations_;  // per tile of logit rows: gather, linear, sample
    std::unique_ptr<Operation> hidden_operation_;              // only in steps that are asked for hidden states
    int64_t hidden_size_ = 0;
    bool keeps_asked_ = false;
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

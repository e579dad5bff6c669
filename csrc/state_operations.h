// Gated delta nets: the convolution, the recurrence, and the state they leave. Included by program.cpp only.
//
// A layer's state: the last kernel_size - 1 inputs of the convolution, oldest first, then a matrix per value head. It
// is read from one place and written to another, or the same: what is read but not written stays as it is.
#pragma once

#include "operations.h"

namespace abaci {
namespace {

// Where a sequence's state of one layer is read; null at a sequence's start.
const float* state_read(Program& program, const DeltaNetParameters& net, int32_t sequence) {
    const int32_t from = program.current().input.states[2 * sequence];
    return from < 0 ? nullptr : program.state(from) + net.state_offset;
}
float* state_written(Program& program, const DeltaNetParameters& net, int32_t sequence) {
    return program.state(program.current().input.states[2 * sequence + 1]) + net.state_offset;
}

// Row r of the convolution's inputs, counted from the sequence's first row of this step; negative ones are in the
// state.
const float* convolution_input(Program& program, const DeltaNetParameters& net, int32_t sequence, int64_t r) {
    if (r >= 0) return program.slot(net.in).row(program.current().input.sequence_offsets[sequence] + r);
    const float* recent = state_read(program, net, sequence);
    return recent ? recent + (net.kernel_size - 1 + r) * net.channels : net.zeros;
}

// Convolves a row, brings its queries and keys to unit length, and works out the factors of the recurrence.
class ConvolveOperation final : public RowOperation {
  public:
    ConvolveOperation(Program& program, const DeltaNetParameters& net) : RowOperation(program), net_(net) {}
    void run_row(int64_t r, int) override {
        const Step& step = p_.current();
        const int32_t sequence = step.sequences[r];
        const int64_t local = r - step.input.sequence_offsets[sequence];
        const float* inputs[kMaxConvolution];
        for (int32_t i = 0; i < net_.kernel_size; ++i)
            inputs[i] = convolution_input(p_, net_, sequence, local - net_.kernel_size + 1 + i);
        float* out = p_.slot(net_.convolved).row(r);
        p_.kernels().convolve({inputs, net_.kernel, net_.channels, net_.kernel_size, out});
        const float query_scale = 1.0f / __builtin_sqrtf(static_cast<float>(net_.key_dim));
        for (int32_t head = 0; head < 2 * net_.num_key_heads; ++head) {
            float* x = out + head * net_.key_dim;
            const float scale = head < net_.num_key_heads ? query_scale : 1.0f;
            p_.kernels().unit(x, net_.key_dim, kLengthEpsilon, scale, x);
        }
        float* decay = p_.slot(net_.factors).row(r);
        float* share = decay + net_.num_value_heads;
        const float* alpha = p_.slot(net_.alpha).row(r);
        for (int32_t head = 0; head < net_.num_value_heads; ++head) {
            const double rate = soft_plus(alpha[head] + net_.time_bias[head]) * net_.decay[head];
            decay[head] = static_cast<float>(exp_of(std::max(rate, -80.0)));
            share[head] = 1.0f;
        }
        p_.kernels().gated(p_.slot(net_.beta).row(r), share, net_.num_value_heads, ActivationKind::Sigmoid, share);
    }

  private:
    static constexpr float kLengthEpsilon = 1e-6f;

    // ln(1 + e^x), without overflow.
    static double soft_plus(float x) {
        const double tail = exp_of(-std::min(std::abs(static_cast<double>(x)), 600.0));
        return std::max(static_cast<double>(x), 0.0) + log_of(1.0 + tail);
    }

    const DeltaNetParameters net_;
};

// Pieces are value heads of one sequence.
class DeltaRuleOperation final : public Operation {
  public:
    DeltaRuleOperation(Program& program, const DeltaNetParameters& net) : p_(program), net_(net) {}
    uint32_t plan() override { return p_.current().input.num_sequences * net_.num_value_heads; }
    void run(uint32_t piece, int) override {
        const int32_t sequence = piece / net_.num_value_heads, head = piece % net_.num_value_heads;
        const int32_t ratio = net_.num_value_heads / net_.num_key_heads;
        const int32_t key_head = net_.tiled_heads ? head % net_.num_key_heads : head / ratio;
        const int64_t size = int64_t{net_.key_dim} * net_.value_dim;
        const int64_t at = (net_.kernel_size - 1) * net_.channels + head * size;
        const float* before = state_read(p_, net_, sequence);
        float* state = state_written(p_, net_, sequence) + at;
        if (!before) {
            std::fill_n(state, size, 0.0f);
        } else if (before + at != state) {
            std::memcpy(state, before + at, size * sizeof(float));
        }
        const StepInput& input = p_.current().input;
        const int64_t row = input.sequence_offsets[sequence];
        const Slot& convolved = p_.slot(net_.convolved);
        const Slot& factors = p_.slot(net_.factors);
        DeltaTask task;
        task.query = convolved.row(row) + key_head * net_.key_dim;
        task.key = task.query + net_.num_key_heads * net_.key_dim;
        task.value = convolved.row(row) + 2 * net_.num_key_heads * net_.key_dim + head * net_.value_dim;
        task.stride = convolved.stride;
        task.decay = factors.row(row) + head;
        task.share = task.decay + net_.num_value_heads;
        task.factor_stride = factors.stride;
        task.output = p_.slot(net_.out).row(row) + head * net_.value_dim;
        task.output_stride = p_.slot(net_.out).stride;
        task.state = state;
        task.num_tokens = input.sequence_offsets[sequence + 1] - static_cast<int32_t>(row);
        task.key_dim = net_.key_dim;
        task.value_dim = net_.value_dim;
        p_.kernels().delta_rule(task);
    }

  private:
    Program& p_;
    const DeltaNetParameters net_;
};

// Keeps the last inputs of the convolution, once nobody reads those before.
class KeepInputsOperation final : public Operation {
  public:
    KeepInputsOperation(Program& program, const DeltaNetParameters& net) : p_(program), net_(net) {}
    uint32_t plan() override { return p_.current().input.num_sequences; }
    void run(uint32_t sequence, int) override {
        const StepInput& input = p_.current().input;
        const int64_t num_rows = input.sequence_offsets[sequence + 1] - input.sequence_offsets[sequence];
        float* out = state_written(p_, net_, sequence);
        for (int32_t i = 0; i < net_.kernel_size - 1; ++i, out += net_.channels)
            std::memmove(out, convolution_input(p_, net_, sequence, num_rows - net_.kernel_size + 1 + i),
                         net_.channels * sizeof(float));
    }

  private:
    Program& p_;
    const DeltaNetParameters net_;
};

}  // namespace
}  // namespace abaci

// Kernels one by one, and the ceilings of a machine: for tests and benchmarks.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "python/matrices.h"
#include "python/step_bounds.h"

namespace abaci {

inline double seconds_of(const std::function<void()>& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// One instruction set's kernels by themselves, for tests and benchmarks.
struct Kernels {
    const KernelTable* table;

    struct Quantised {
        std::vector<int8_t> values;
        std::vector<float> scales;
        std::vector<int32_t> sums;
    };

    Quantised quantise_rows(const float* x, int64_t rows, int64_t columns) const {
        const int64_t groups = columns / kGroup;
        Quantised q{std::vector<int8_t>(rows * columns), std::vector<float>(rows * groups + 32),
                    std::vector<int32_t>(rows * kGroupSums * groups + 32)};
        const KernelFloatModes modes(table->prepare_thread);
        for (int64_t r = 0; r < rows; ++r)
            table->quantise(x + r * columns, columns,
                            {q.values.data() + r * columns, q.scales.data() + r * groups,
                             q.sums.data() + r * kGroupSums * groups, groups});
        return q;
    }

    auto quantise(const Floats2& x) const {
        const int64_t rows = x.shape(0), columns = x.shape(1);
        require(columns % kGroup == 0, "columns are not a multiple of 32");
        const Quantised q = quantise_rows(x.data(), rows, columns);
        const size_t groups = columns / kGroup;
        auto values = new_array<int8_t>({x.shape(0), x.shape(1)});
        auto scales = new_array<float>({x.shape(0), groups});
        auto sums = new_array<int32_t>({x.shape(0), kGroupSums, groups});
        std::copy(q.values.begin(), q.values.end(), values.data());
        std::copy_n(q.scales.begin(), rows * groups, scales.data());
        std::copy_n(q.sums.begin(), rows * kGroupSums * groups, sums.data());
        return std::make_tuple(values, scales, sums);
    }

    // Repeats the product `repeats` times over the pool and returns it with the seconds the repeats took.
    auto matmul(const Matrix& matrix, const Floats2& x, ThreadPool& pool, int repeats) const {
        const PackedMatrix& m = matrix.packed;
        require(static_cast<int64_t>(x.shape(1)) == m.columns, "columns differ");
        require(repeats > 0 && x.shape(0) > 0, "nothing to do");
        Program program(std::shared_ptr<ThreadPool>(&pool, [](ThreadPool*) {}), table, static_cast<int32_t>(x.shape(0)),
                        1, 0);
        const int in = program.add_slot(m.columns), out = program.add_slot(m.rows);
        for (size_t r = 0; r < x.shape(0); ++r)
            std::copy_n(x.data() + r * m.columns, m.columns, program.slot(in).row(r));
        if (is_quantised(m.format)) program.quantise(in);
        StepInput input = {};
        input.num_tokens = static_cast<int32_t>(x.shape(0));
        double seconds = 0.0;
        {
            nb::gil_scoped_release release;
            program.step(input);
            for (int i = 0; i < repeats; ++i) program.linear(in, {{m, out, nullptr, false}});
            seconds = seconds_of([&] { program.step(input); });
        }
        auto result = new_array<float>({x.shape(0), static_cast<size_t>(m.rows)});
        for (size_t r = 0; r < x.shape(0); ++r)
            std::copy_n(program.slot(out).row(r), m.rows, result.data() + r * m.rows);
        return std::make_tuple(result, seconds);
    }

    // Experts of each row of logits, best first, and their weights.
    auto choose_experts(const Floats2& logits, ThreadPool& pool, int num_active, bool sigmoid,
                        const Floats1& choice_bias, int num_groups, int top_groups, int group_best) const {
        const auto num_rows = static_cast<int32_t>(logits.shape(0)),
                   num_experts = static_cast<int32_t>(logits.shape(1));
        const RouterParameters router{num_experts, num_active, sigmoid,    false, choice_bias.data(),
                                      num_groups,  top_groups, group_best, 1.0f,  nullptr};
        check_router(router);
        require(num_rows > 0 && choice_bias.shape(0) == logits.shape(1), "sizes differ");
        Program program(std::shared_ptr<ThreadPool>(&pool, [](ThreadPool*) {}), table, num_rows, 1, 0);
        const int in = program.add_slot(num_experts), chosen = program.add_routing(router);
        for (int32_t r = 0; r < num_rows; ++r)
            std::copy_n(logits.data() + int64_t{r} * num_experts, num_experts, program.slot(in).row(r));
        program.choose(in, chosen);
        StepInput input = {};
        input.num_tokens = num_rows;
        program.step(input);
        const Routing& routing = program.routing(chosen);
        auto experts = new_array<int32_t>({logits.shape(0), static_cast<size_t>(num_active)});
        auto weights = new_array<float>({logits.shape(0), static_cast<size_t>(num_active)});
        std::copy(routing.experts.begin(), routing.experts.end(), experts.data());
        std::copy(routing.weights.begin(), routing.weights.end(), weights.data());
        return std::make_tuple(experts, weights);
    }

    auto exp(const Floats1& x) const {
        auto out = new_array<float>({x.shape(0)});
        const KernelFloatModes modes(table->prepare_thread);
        table->exp_values(x.data(), x.shape(0), 0.0f, 1.0f, out.data());
        return out;
    }

    auto rms_norm(const Floats1& x, const Floats1& weight, float epsilon) const {
        require(x.shape(0) == weight.shape(0) && x.shape(0) > 0, "sizes differ");
        auto out = new_array<float>({x.shape(0)});
        const KernelFloatModes modes(table->prepare_thread);
        table->rms_norm({x.data(), out.data(), weight.data(), static_cast<int64_t>(x.shape(0)), epsilon, {}});
        return out;
    }

    auto gated(const Floats1& gate, const Floats1& up, int kind) const {
        require(gate.shape(0) == up.shape(0) && kind >= 0 && kind < kNumActivations,
                "sizes differ, or no such activation");
        auto out = new_array<float>({gate.shape(0)});
        const KernelFloatModes modes(table->prepare_thread);
        table->gated(gate.data(), up.data(), gate.shape(0), static_cast<ActivationKind>(kind), out.data());
        return out;
    }
};

// Bytes per second at which all threads together read memory that no cache holds: the best of `repeats` passes.
inline double read_bandwidth(ThreadPool& pool, const std::string& target, int64_t num_bytes, int repeats) {
    constexpr int64_t piece_bytes = 4 << 20;
    require(num_bytes >= piece_bytes && repeats > 0, "at least 4 MiB, at least once");
    const auto num_pieces = static_cast<uint32_t>(num_bytes / piece_bytes);
    WeightArena arena(num_pieces * piece_bytes + 8192);
    struct Context {
        const KernelTable* kernels;
        uint8_t* memory;
        std::atomic<int32_t> sink{0};
    } context{kernels_of(target), arena.take(num_pieces * piece_bytes)};
    const auto touch = [](void* opaque, uint32_t piece, int) {
        std::memset(static_cast<Context*>(opaque)->memory + piece * piece_bytes, 1, piece_bytes);
    };
    const auto read = [](void* opaque, uint32_t piece, int) {
        auto& c = *static_cast<Context*>(opaque);
        c.sink ^= c.kernels->read_memory(c.memory + piece * piece_bytes, piece_bytes);
    };
    nb::gil_scoped_release release;
    pool.run({{touch, &context, num_pieces}});
    double best = 1e30;
    for (int i = 0; i < repeats; ++i)
        best = std::min(best, seconds_of([&] { pool.run({{read, &context, num_pieces}}); }));
    return num_pieces * piece_bytes / best;
}

// Operations per second of integer dots in registers, all threads together: the best of `repeats` runs.
inline double int8_peak_rate(ThreadPool& pool, const std::string& target, int repeats) {
    constexpr int64_t rounds = 20'000, pieces_per_thread = 50;
    require(repeats > 0, "at least once");
    struct Context {
        const KernelTable* kernels;
        std::atomic<int64_t> operations{0};
    } context{kernels_of(target)};
    const auto run = [](void* opaque, uint32_t piece, int) {
        auto& c = *static_cast<Context*>(opaque);
        int32_t sink = static_cast<int32_t>(piece);
        c.operations += c.kernels->int8_peak(rounds, &sink);
    };
    nb::gil_scoped_release release;
    double best = 0.0;
    for (int i = 0; i < repeats; ++i) {
        context.operations = 0;
        const auto num_pieces = static_cast<uint32_t>(pieces_per_thread * pool.num_threads());
        const double seconds = seconds_of([&] { pool.run({{run, &context, num_pieces}}); });
        best = std::max(best, static_cast<double>(context.operations) / seconds);
    }
    return best;
}

}  // namespace abaci

// Every integer of a step, and of the routers in it, is checked here before a kernel sees it.
#pragma once

#include <vector>

#include "program.h"
#include "python/arrays.h"

namespace abaci {

inline void check_router(const RouterParameters& router) {
    require(router.num_experts > 0 && router.num_experts <= 16384 && router.num_active > 0 &&
                router.num_active <= router.num_experts && router.num_active <= 1024,
            "experts out of range");
    require(router.num_groups > 0 && router.num_experts % router.num_groups == 0 && router.top_groups > 0 &&
                router.top_groups <= router.num_groups && router.group_best > 0 && router.group_best <= 2 &&
                int64_t{router.num_experts} / router.num_groups * router.top_groups >= router.num_active,
            "groups of experts out of range");
}

// What a step may be given: bounds of one program, against which every integer of a step is held.
struct StepBounds {
    const Program& program;
    int32_t max_tokens, vocab_size;
    const std::vector<int32_t>& windows;  // 0: full attention

    void check_rows(const StepInput& in) const {
        require(in.num_tokens > 0 && in.num_tokens <= max_tokens, "number of tokens out of range");
        require(in.num_sequences > 0 && in.sequence_offsets[0] == 0 &&
                    in.sequence_offsets[in.num_sequences] == in.num_tokens,
                "offsets do not cover the tokens");
        for (int32_t s = 0; s < in.num_sequences; ++s)
            require(in.sequence_offsets[s] < in.sequence_offsets[s + 1] && in.first_positions[s] >= 0 &&
                        in.first_positions[s] < (1 << 24),
                    "offsets or positions out of range");
        for (int32_t i = 0; i < in.num_tokens; ++i)
            require(in.token_ids[i] >= 0 && in.token_ids[i] < vocab_size, "token id out of range");
    }
    void check_pages(const StepInput& in, int group) const {
        const int64_t window = windows[group];
        const int64_t width = in.pages_per_sequence[group], num_pages = program.num_pages(group);
        for (int32_t s = 0; s < in.num_sequences; ++s) {
            const int64_t first = in.first_positions[s];
            const int64_t last = first + in.sequence_offsets[s + 1] - in.sequence_offsets[s] - 1;
            const int64_t oldest = window && first >= window ? first - window + 1 : 0;
            require(last / kPageTokens < width, "page table too short");
            for (int64_t page = oldest / kPageTokens; page <= last / kPageTokens; ++page) {
                const int32_t id = in.page_tables[group][s * width + page];
                require(id >= 0 && id < num_pages, "page out of range");
            }
        }
    }
    // Each sequence writes a state of its own, which no other reads.
    void check_states(const StepInput& in, int64_t count) const {
        if (program.state_values() == 0) return;
        require(count == int64_t{2} * in.num_sequences, "not two states per sequence");
        std::vector<int32_t> writers(program.num_states(), -1);
        for (int32_t s = 0; s < in.num_sequences; ++s) {
            const int32_t read = in.states[2 * s], written = in.states[2 * s + 1];
            require(read >= -1 && read < program.num_states() && written >= 0 && written < program.num_states(),
                    "state out of range");
            require(writers[written] < 0, "two sequences write one state");
            writers[written] = s;
        }
        for (int32_t s = 0; s < in.num_sequences; ++s) {
            const int32_t read = in.states[2 * s];
            require(read < 0 || writers[read] < 0 || writers[read] == s, "a state is read that another writes");
        }
    }
    void check_logit_rows(const StepInput& in, int64_t num_seen, int64_t num_biases, int64_t num_masks) const {
        require(in.num_logit_rows <= max_tokens, "more logit rows than tokens of a step");
        for (int32_t i = 0; i < in.num_logit_rows; ++i) {
            const LogitRow& row = in.logit_rows[i];
            require(row.row >= 0 && row.row < in.num_tokens, "logit row out of range");
            require(row.target >= -1 && row.target < vocab_size, "target out of range");
            require(row.num_top >= -1 && row.num_top <= in.top_width && row.num_top <= vocab_size, "top out of range");
            require(row.mask_row >= -1 && row.mask_row < num_masks, "mask out of range");
            require(row.temperature >= 0 && row.top_k >= 0 && row.repetition_penalty > 0, "sampling out of range");
            require(row.history_begin >= 0 && row.history_begin <= row.history_end && row.history_end <= num_seen,
                    "history out of range");
            require(row.bias_begin >= 0 && row.bias_begin <= row.bias_end && row.bias_end <= num_biases,
                    "bias out of range");
            for (int32_t j = row.history_begin; j < row.history_end; ++j)
                require(in.history[j].token_id >= 0 && in.history[j].token_id < vocab_size, "history out of range");
            for (int32_t j = row.bias_begin; j < row.bias_end; ++j)
                require(in.bias[j].token_id >= 0 && in.bias[j].token_id < vocab_size, "bias out of range");
        }
    }
};

}  // namespace abaci

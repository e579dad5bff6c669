// From logits to a token: penalties, bans, temperature, truncation, the draw, log-probabilities.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel_table.h"

namespace abaci {

// One row of kernels/batch.py's LOGIT_ROW; the two must agree byte for byte.
struct LogitRow {
    uint64_t seed;
    int32_t row;
    int32_t target;
    uint32_t sample_index;
    uint32_t token_index;
    float temperature;
    float top_p;
    float min_p;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    int32_t top_k;
    int32_t num_top;
    int32_t history_begin, history_end;
    int32_t bias_begin, bias_end;
    int32_t mask_row;
};
static_assert(sizeof(LogitRow) == 80);

struct HistoryEntry {
    int32_t token_id, in_prompt, output_count;
};
struct BiasEntry {
    int32_t token_id;
    float bias;
};

struct SampleInput {
    const LogitRow* row;
    float* logits;  // changed
    int32_t vocab_size;
    const HistoryEntry* history;
    const BiasEntry* bias;
    const uint32_t* mask;  // null: all tokens allowed
};

struct SampleOutput {
    int32_t* token_id;  // -1: the logits hold no finite maximum
    float* logprob;
    int32_t* top_ids;
    float* top_logprobs;
};

struct SampleScratch {
    std::vector<float> blocks, maxima, sorted_maxima, exps;
    std::vector<std::pair<float, int32_t>> candidates;
    std::vector<std::pair<int32_t, float>> originals;
};

void sample(const KernelTable& kernels, const SampleInput& input, SampleScratch& scratch, const SampleOutput& output);

}  // namespace abaci

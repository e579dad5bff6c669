#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "scalar_math.h"

namespace abaci {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
using Candidate = std::pair<float, int32_t>;

// A uniform number in [0, 1) with 53 bits: Philox4x32-10 (Salmon et al. 2011) keyed by the seed, counting tokens and
// samples.
double uniform(uint64_t seed, uint32_t sample_index, uint32_t token_index) {
    uint32_t x[4] = {token_index, sample_index, 0, 0};
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * x[0], b = uint64_t{0xCD9E8D57} * x[2];
        const uint32_t y[4] = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(b),
                               static_cast<uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(a)};
        std::copy(y, y + 4, x);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    const uint64_t bits = uint64_t{x[0] >> 5} << 26 | x[1] >> 6;
    return static_cast<double>(bits) * 0x1p-53;
}

// Higher logit first, then lower id.
bool before(const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
}

class Sampler {
  public:
    Sampler(const KernelTable& kernels, const SampleInput& in, SampleScratch& scratch)
        : kernels_(kernels), in_(in), row_(*in.row), s_(scratch) {}

    void run(const SampleOutput& out) {
        const float raw_max = largest_logit();
        s_.originals.clear();
        if (!std::isfinite(raw_max)) {
            *out.token_id = -1;
            *out.logprob = 0.0f;
            return;
        }
        double log_total = 0.0;
        if (row_.num_top >= 0) {
            log_total = raw_max + log_of(total_of_exps(raw_max, 1.0f));
            if (row_.num_top > 0) {
                select_top(std::min(row_.num_top, in_.vocab_size));
                for (size_t i = 0; i < s_.candidates.size(); ++i) {
                    out.top_ids[i] = s_.candidates[i].second;
                    out.top_logprobs[i] = static_cast<float>(s_.candidates[i].first - log_total);
                }
            }
        }
        const int32_t token = row_.target >= 0 ? row_.target : draw(raw_max);
        *out.token_id = token;
        *out.logprob = row_.num_top >= 0 && token >= 0 ? static_cast<float>(original(token) - log_total) : 0.0f;
    }

  private:
    float* logits() { return in_.logits; }

    void change(int32_t token, float value) {
        s_.originals.emplace_back(token, logits()[token]);
        logits()[token] = value;
    }

    float original(int32_t token) {
        for (const auto& [id, value] : s_.originals)
            if (id == token) return value;
        return logits()[token];
    }

    // Also leaves the maximum of every block in `maxima`.
    float largest_logit() {
        s_.maxima.resize((in_.vocab_size + kMaxBlock - 1) / kMaxBlock);
        kernels_.block_maxima(logits(), in_.vocab_size, s_.maxima.data());
        return kernels_.row_max(s_.maxima.data(), static_cast<int64_t>(s_.maxima.size()));
    }

    // The lowest id with that logit; `maxima` must be current.
    int32_t first_of(float value) {
        const auto block = std::find(s_.maxima.begin(), s_.maxima.end(), value) - s_.maxima.begin();
        float* const end = logits() + in_.vocab_size;
        return static_cast<int32_t>(std::find(logits() + block * kMaxBlock, end, value) - logits());
    }

    double total_of_exps(float shift, float scale) {
        s_.blocks.resize((in_.vocab_size + kSumBlock - 1) / kSumBlock);
        kernels_.exp_sums(logits(), in_.vocab_size, shift, scale, s_.blocks.data());
        double total = 0.0;
        for (float sum : s_.blocks) total += sum;
        return total;
    }

    // The `count` best finite logits, in order, into candidates; `maxima` must be current.
    void select_top(int32_t count) {
        const int32_t num_blocks = static_cast<int32_t>(s_.maxima.size());
        float threshold = std::numeric_limits<float>::lowest();
        if (count < num_blocks) {
            // The count-th largest block maximum: at least `count` logits are no smaller.
            s_.sorted_maxima = s_.maxima;
            std::nth_element(s_.sorted_maxima.begin(), s_.sorted_maxima.begin() + (count - 1), s_.sorted_maxima.end(),
                             std::greater<float>());
            threshold = std::max(threshold, s_.sorted_maxima[count - 1]);
        }
        s_.candidates.clear();
        for (int32_t block = 0; block < num_blocks; ++block) {
            if (!(s_.maxima[block] >= threshold)) continue;
            const int32_t end = std::min((block + 1) * kMaxBlock, in_.vocab_size);
            for (int32_t id = block * kMaxBlock; id < end; ++id)
                if (logits()[id] >= threshold) s_.candidates.emplace_back(logits()[id], id);
        }
        const size_t kept = std::min<size_t>(count, s_.candidates.size());
        std::partial_sort(s_.candidates.begin(), s_.candidates.begin() + kept, s_.candidates.end(), before);
        s_.candidates.resize(kept);
    }

    // Biases, penalties and mask; says whether there was any.
    bool adjust() {
        for (int32_t i = row_.bias_begin; i < row_.bias_end; ++i)
            change(in_.bias[i].token_id, logits()[in_.bias[i].token_id] + in_.bias[i].bias);
        for (int32_t i = row_.history_begin; i < row_.history_end; ++i) {
            const HistoryEntry& seen = in_.history[i];
            float value = logits()[seen.token_id];
            value = value > 0.0f ? value / row_.repetition_penalty : value * row_.repetition_penalty;
            if (seen.output_count > 0)
                value -= row_.presence_penalty + row_.frequency_penalty * static_cast<float>(seen.output_count);
            change(seen.token_id, value);
        }
        if (in_.mask)
            for (int32_t id = 0; id < in_.vocab_size; ++id)
                if (!(in_.mask[id / 32] >> (id % 32) & 1)) logits()[id] = kNothing;
        return row_.bias_begin < row_.bias_end || row_.history_begin < row_.history_end || in_.mask != nullptr;
    }

    int32_t draw(float raw_max) {
        const float largest = adjust() ? largest_logit() : raw_max;
        if (!std::isfinite(largest)) return -1;
        if (row_.temperature == 0.0f) return first_of(largest);
        const float sharpness = 1.0f / row_.temperature;
        const double u = uniform(row_.seed, row_.sample_index, row_.token_index);
        const bool all = (row_.top_k == 0 || row_.top_k >= in_.vocab_size) && row_.top_p >= 1.0f &&
                         row_.min_p < std::numeric_limits<float>::min();
        return all ? draw_from_all(largest, sharpness, u) : draw_from_best(largest, sharpness, u);
    }

    // Inverse of the cumulative distribution in order of id.
    int32_t draw_from_all(float largest, float sharpness, double u) {
        double left = u * total_of_exps(largest, sharpness);
        const int32_t num_blocks = static_cast<int32_t>(s_.blocks.size());
        int32_t block = 0;
        while (block + 1 < num_blocks && left >= s_.blocks[block]) left -= s_.blocks[block++];
        const int32_t begin = block * kSumBlock, length = std::min<int32_t>(kSumBlock, in_.vocab_size - begin);
        s_.exps.resize(kSumBlock);
        kernels_.exp_values(logits() + begin, length, largest, sharpness, s_.exps.data());
        int32_t last = first_of(largest);
        for (int32_t i = 0; i < length; ++i) {
            if (s_.exps[i] <= 0.0f) continue;
            last = begin + i;
            left -= s_.exps[i];
            if (left < 0.0) break;
        }
        return last;
    }

    // Inverse of the cumulative distribution over what top-k, then top-p, then min-p leave, likeliest first.
    int32_t draw_from_best(float largest, float sharpness, double u) {
        const bool limited = row_.top_k > 0 && row_.top_k < in_.vocab_size;
        const int32_t most = limited ? row_.top_k : in_.vocab_size;
        double total = limited || row_.top_p >= 1.0f ? 0.0 : total_of_exps(largest, sharpness);
        for (int32_t count = limited ? most : std::min(most, 128);; count = std::min(most, count * 8)) {
            select_top(count);
            const size_t num_candidates = s_.candidates.size();
            s_.exps.resize(2 * num_candidates);
            float* values = s_.exps.data() + num_candidates;
            for (size_t i = 0; i < num_candidates; ++i) values[i] = s_.candidates[i].first;
            kernels_.exp_values(values, static_cast<int64_t>(num_candidates), largest, sharpness, s_.exps.data());
            if (limited) {
                total = 0.0;
                for (size_t i = 0; i < num_candidates; ++i) total += s_.exps[i];
            }
            size_t kept = 0;
            double sum = 0.0;
            bool closed = false;
            while (kept < num_candidates && !closed) {
                if (kept > 0 && s_.exps[kept] < row_.min_p * s_.exps[0]) {
                    closed = true;
                } else {
                    sum += s_.exps[kept++];
                    closed = row_.top_p < 1.0f && sum >= row_.top_p * total;
                }
            }
            if (!closed && count < most && static_cast<int32_t>(num_candidates) == count) continue;
            double left = u * sum;
            size_t i = 0;
            while (i + 1 < kept && left >= s_.exps[i]) left -= s_.exps[i++];
            return s_.candidates[i].second;
        }
    }

    const KernelTable& kernels_;
    const SampleInput& in_;
    const LogitRow& row_;
    SampleScratch& s_;
};

}  // namespace

void sample(const KernelTable& kernels, const SampleInput& input, SampleScratch& scratch, const SampleOutput& output) {
    Sampler(kernels, input, scratch).run(output);
}

}  // namespace abaci

// Mixtures of experts: which experts see a row, the rows in order of expert, products of each row with its own expert,
// and the weighted sum. Included by program.cpp only.
#pragma once

#include <cmath>
#include <limits>

#include "operations.h"

namespace abaci {
namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();

// Takes the best of some candidates one after another, by selection: they are few. Scores may be any floats, as a file
// may hold any: what is taken is marked beside them, and what is no number counts as the least.
class Choice {
  public:
    explicit Choice(int32_t num_candidates) : scores_(num_candidates), is_taken_(num_candidates) {}
    float* scores() { return scores_.data(); }
    bool is_taken(int32_t i) const { return is_taken_[i]; }
    // Once there are scores: anew, whatever was taken before.
    void begin() {
        for (float& score : scores_) score = std::isnan(score) ? kLeast : score;
        std::fill(is_taken_.begin(), is_taken_.end(), false);
    }
    // What is taken has the least score as well, so that one comparison passes it by.
    void take(int32_t first, int32_t count = 1) {
        std::fill_n(is_taken_.begin() + first, count, true);
        std::fill_n(scores_.begin() + first, count, kLeast);
    }
    // The first of the greatest that are left; some must be.
    int32_t take_best() {
        int32_t best = -1;
        float greatest = kLeast;
        for (int32_t i = 0; i < std::ssize(scores_); ++i)
            if (scores_[i] > greatest) greatest = scores_[best = i];
        if (best < 0) best = std::find(is_taken_.begin(), is_taken_.end(), false) - is_taken_.begin();
        take(best);
        return best;
    }

  private:
    std::vector<float> scores_;
    std::vector<uint8_t> is_taken_;
};

// Scores and choice of one row.
class ChooseOperation final : public RowOperation {
  public:
    ChooseOperation(Program& program, int logits, int routing)
        : RowOperation(program), logits_(logits), routing_(routing), scratch_(program.num_threads()) {
        const RouterParameters& router = program.routing(routing).router;
        for (Scratch& scratch : scratch_) {
            scratch.scores.resize(router.num_experts);
            scratch.experts = Choice(router.num_experts);
            scratch.groups = Choice(router.num_groups);
        }
    }
    void run_row(int64_t r, int worker) override {
        Routing& routing = p_.routing(routing_);
        const RouterParameters& router = routing.router;
        auto& [scores, choice, groups] = scratch_[worker];
        float* choosing = choice.scores();
        score(router, p_.slot(logits_).row(r), choosing, scores.data());
        for (int32_t e = 0; e < router.num_experts; ++e)
            choosing[e] = router.choice_bias ? scores[e] + router.choice_bias[e] : scores[e];
        choice.begin();
        if (router.num_groups > 1) take_other_groups(router, choice, groups);
        int32_t* experts = routing.experts.data() + r * router.num_active;
        float* weights = routing.weights.data() + r * router.num_active;
        float sum = 0.0f;
        for (int32_t rank = 0; rank < router.num_active; ++rank) {
            experts[rank] = choice.take_best();
            weights[rank] = scores[experts[rank]];
            sum += weights[rank];
        }
        for (int32_t rank = 0; rank < router.num_active; ++rank) {
            if (router.normalise) weights[rank] /= sum + kNormaliseEpsilon;
            weights[rank] *= router.scale;
            if (router.expert_scales) weights[rank] *= router.expert_scales[experts[rank]];
        }
    }

  private:
    static constexpr float kNormaliseEpsilon = 1e-20f;

    void score(const RouterParameters& router, const float* logits, float* scratch, float* scores) {
        const int32_t n = router.num_experts;
        if (router.sigmoid) {
            for (int32_t e = 0; e < n; ++e) scratch[e] = 1.0f;
            p_.kernels().gated(logits, scratch, n, ActivationKind::Sigmoid, scores);
            return;
        }
        p_.kernels().exp_values(logits, n, p_.kernels().row_max(logits, n), 1.0f, scores);
        float sum = 0.0f;
        for (int32_t e = 0; e < n; ++e) sum += scores[e];
        for (int32_t e = 0; e < n; ++e) scores[e] /= sum;
    }

    // Takes all experts but those of the best groups, in which there are at least as many as a token needs.
    static void take_other_groups(const RouterParameters& router, Choice& experts, Choice& groups) {
        const int32_t size = router.num_experts / router.num_groups;
        for (int32_t g = 0; g < router.num_groups; ++g) {
            const float* group = experts.scores() + g * size;
            float first = kLeast, second = kLeast;
            for (int32_t e = 0; e < size; ++e) {
                if (group[e] > first) {
                    second = first;
                    first = group[e];
                } else if (group[e] > second) {
                    second = group[e];
                }
            }
            groups.scores()[g] = router.group_best > 1 && size > 1 ? first + second : first;
        }
        groups.begin();
        for (int32_t left = router.top_groups; left > 0; --left) groups.take_best();
        for (int32_t g = 0; g < router.num_groups; ++g)
            if (!groups.is_taken(g)) experts.take(g * size, size);
    }

    struct Scratch {  // of one worker
        std::vector<float> scores;
        Choice experts{0}, groups{0};
    };

    const int logits_, routing_;
    std::vector<Scratch> scratch_;
};

// Where each token's rows stand when rows are in order of expert, and of token within one.
class ArrangeOperation final : public Operation {
  public:
    ArrangeOperation(Program& program, int routing)
        : p_(program), routing_(routing), rows_here_(program.num_rows_here()) {}
    uint32_t plan() override { return 1; }
    void run(uint32_t, int) override {
        Routing& routing = p_.routing(routing_);
        const int32_t active = routing.router.num_active;
        const int32_t num_rows = rows_here_ * active;
        std::vector<int32_t>& begins = routing.begins;
        std::fill(begins.begin(), begins.end(), 0);
        for (int32_t i = 0; i < num_rows; ++i) ++begins[routing.experts[i] + 1];
        for (size_t e = 1; e < begins.size(); ++e) {
            routing.work[e] = routing.work[e - 1] + (begins[e] == 0 ? 0 : begins[e] + kUnpackRows);
            begins[e] += begins[e - 1];
        }
        std::copy(begins.begin(), begins.end() - 1, routing.next.begin());
        for (int32_t i = 0; i < num_rows; ++i) {
            const int32_t row = routing.next[routing.experts[i]]++;
            routing.rows[i] = row;
            routing.tokens[row] = i / active;
        }
    }

  private:
    static constexpr int64_t kUnpackRows = 6;  // how many rows' products a panel takes to unpack

    Program& p_;
    const int routing_;
    const int32_t& rows_here_;
};

// A copy of its token's row, as floats and as integers, for each row.
class DispatchOperation final : public RowOperation {
  public:
    DispatchOperation(Program& program, int in, int routing, int out)
        : RowOperation(program, program.slot(out).rows_per_token), in_(in), routing_(routing), out_(out) {}
    void run_row(int64_t r, int) override {
        const Slot& in = p_.slot(in_);
        const Slot& out = p_.slot(out_);
        const int64_t token = p_.routing(routing_).tokens[r];
        if (!out.values || !in.values) {
            std::memcpy(out.row(r), in.row(token), in.columns * sizeof(float));
            if (out.values) p_.kernels().quantise(out.row(r), out.columns, out.quantised(r));
            return;
        }
        const QuantiseTarget from = in.quantised(token), to = out.quantised(r);
        std::memcpy(to.values, from.values, in.columns);
        std::memcpy(to.scales, from.scales, in.groups() * sizeof(float));
        std::memcpy(to.sums, from.sums, kGroupSums * in.groups() * sizeof(int32_t));
        if (out.wants_floats) std::memcpy(out.row(r), in.row(token), in.columns * sizeof(float));
    }

  private:
    const int in_, routing_, out_;
};

// Of one phase: two threads that end together on average wait half a piece for each other.
constexpr int kPiecesPerThread = 32;

// A piece is a run of panels, expert after expert, of about as much work as every other: the rows of an expert stay in
// one core's cache, and its weights are read in order.
class ExpertLinearOperation final : public Operation {
  public:
    ExpertLinearOperation(Program& program, int in, int routing, std::vector<Program::ExpertPart> parts)
        : p_(program), in_(in), routing_(routing), parts_(std::move(parts)) {
        for (const Program::ExpertPart& part : parts_) total_panels_ += panels_of(part);
    }
    uint32_t plan() override { return num_pieces_ = kPiecesPerThread * p_.num_threads(); }
    void run(uint32_t piece, int) override {
        const int64_t panel_work = p_.routing(routing_).work.back(), work = total_panels_ * panel_work;
        int64_t begin = work * piece / num_pieces_, end = work * (piece + 1) / num_pieces_;
        for (const Program::ExpertPart& part : parts_) {
            run_part(part, std::max<int64_t>(begin, 0), end);
            begin -= panels_of(part) * panel_work;
            end -= panels_of(part) * panel_work;
        }
    }

  private:
    static int64_t panels_of(const Program::ExpertPart& part) { return divide_up(part.rows, kPanel); }

    // The panels that begin at work from `begin` to `end`, counted from the part's first.
    void run_part(const Program::ExpertPart& part, int64_t begin, int64_t end) {
        const std::vector<int64_t>& work = p_.routing(routing_).work;
        const int64_t panels = panels_of(part);
        const auto after = std::upper_bound(work.begin(), work.end() - 1, begin / panels);
        for (int64_t expert = after - work.begin() - 1; expert + 1 < std::ssize(work); ++expert) {
            const int64_t first = panels * work[expert], panel = work[expert + 1] - work[expert];
            if (first >= end) return;
            if (panel == 0) continue;
            const int64_t panel_begin = divide_up(std::max<int64_t>(begin - first, 0), panel);
            run_panels(part, expert, panel_begin, std::min(panels, divide_up(end - first, panel)));
        }
    }

    void run_panels(const Program::ExpertPart& part, int64_t expert, int64_t begin, int64_t end) {
        const Routing& routing = p_.routing(routing_);
        MatmulTask task;
        task.matrix = part.stack;
        task.matrix.rows = part.rows;
        task.matrix.data = part.stack.data + expert * panels_of(part) * part.stack.panel_bytes;
        task.bias = part.biases ? part.biases + expert * panels_of(part) * kPanel : nullptr;
        task.input = p_.slot(in_).activations();
        task.output = p_.slot(part.out).data;
        task.output_stride = p_.slot(part.out).stride;
        task.accumulate = false;
        task.panel_begin = begin;
        task.panel_end = end;
        const int64_t last = routing.begins[expert + 1];
        for (task.row_begin = routing.begins[expert]; task.row_begin < last; task.row_begin = task.row_end) {
            task.row_end = std::min<int64_t>(last, task.row_begin + kMaxTaskRows);
            p_.kernels().matmul[static_cast<int>(part.stack.format)](task);
        }
    }

    Program& p_;
    const int in_, routing_;
    const std::vector<Program::ExpertPart> parts_;
    int64_t total_panels_ = 0;
    uint32_t num_pieces_ = 1;
};

// A token's rows by weight, in the order of choice, then what all tokens share.
class CombineOperation final : public RowOperation {
  public:
    CombineOperation(Program& program, int in, int routing, int shared, int shared_gate, int out)
        : RowOperation(program), in_(in), routing_(routing), shared_(shared), shared_gate_(shared_gate), out_(out) {}
    void run_row(int64_t r, int) override {
        const Routing& routing = p_.routing(routing_);
        const KernelTable& kernels = p_.kernels();
        const int32_t active = routing.router.num_active;
        const int64_t columns = p_.slot(out_).columns;
        float* out = p_.slot(out_).row(r);
        std::fill_n(out, columns, 0.0f);
        for (int32_t rank = 0; rank < active; ++rank) {
            const int64_t i = r * active + rank;
            kernels.add_scaled(out, p_.slot(in_).row(routing.rows[i]), routing.weights[i], columns, out);
        }
        if (shared_ < 0) return;
        float share = 1.0f;
        if (shared_gate_ >= 0) kernels.gated(p_.slot(shared_gate_).row(r), &share, 1, ActivationKind::Sigmoid, &share);
        kernels.add_scaled(out, p_.slot(shared_).row(r), share, columns, out);
    }

  private:
    const int in_, routing_, shared_, shared_gate_, out_;
};

}  // namespace
}  // namespace abaci

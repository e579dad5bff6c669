// The module that Python imports: names and arguments. What they do stands in the headers of this folder, the only one
// that knows Python; long work releases the GIL.
#include "platform.h"
#include "python/matrices.h"
#include "python/measuring.h"
#include "python/step_program.h"

using namespace nanobind::literals;

NB_MODULE(_native, m) {
    using namespace abaci;
    nb::set_leak_warnings(false);
    m.attr("PAGE_TOKENS") = kPageTokens;
    m.attr("LOGIT_ROW_BYTES") = sizeof(LogitRow);
    m.attr("HISTORY_BYTES") = sizeof(HistoryEntry);
    m.attr("BIAS_BYTES") = sizeof(BiasEntry);
    m.attr("LAYOUT_VERSION") = kLayoutVersion;
    m.def("targets", [] {
        std::vector<std::string> names;
        for (const KernelTable* table : available_kernels()) names.emplace_back(table->name);
        return names;
    });
    m.def("pin_current_thread", &pin_current_thread, "processor"_a);
    m.def("trim_memory", &trim_memory);
    m.def("read_bandwidth", &read_bandwidth, "pool"_a, "target"_a, "num_bytes"_a, "repeats"_a);
    m.def("int8_peak", &int8_peak_rate, "pool"_a, "target"_a, "repeats"_a);
    m.def("pack_all", &pack_all, "pool"_a, "parts"_a);
    m.def("quantise_weights", &quantise_weights, "pool"_a, "target"_a, "format"_a, "values"_a, "importance"_a.none());
    m.def("packed_bytes", &packed_bytes, "format"_a, "rows"_a, "columns"_a);
    m.def("code_grid", &code_grid, "name"_a);
    m.def("rope_frequencies", [](double theta, int dim, double linear_scale) {
        const std::vector<float> values = rope_frequencies(theta, dim, linear_scale, nullptr);
        auto out = new_array<float>({values.size()});
        std::copy(values.begin(), values.end(), out.data());
        return out;
    });

    nb::class_<ThreadPool>(m, "ThreadPool")
        .def(
            "__init__",
            [](ThreadPool* self, int num_threads, std::vector<int> processors) {
                require(num_threads >= 1 && num_threads <= 1024, "number of threads out of range");
                new (self) ThreadPool(num_threads, std::move(processors), available_kernels().front()->prepare_thread);
            },
            "num_threads"_a, "processors"_a)
        .def_prop_ro("num_threads", &ThreadPool::num_threads)
        .def_prop_ro("processors", &ThreadPool::processors);

    nb::class_<Matrix>(m, "Matrix")
        .def_prop_ro("rows", [](const Matrix& x) { return x.packed.rows; })
        .def_prop_ro("columns", [](const Matrix& x) { return x.packed.columns; })
        .def_prop_ro("format", [](const Matrix& x) { return static_cast<int>(x.packed.format); })
        .def_prop_ro("panel_bytes", [](const Matrix& x) { return x.packed.panel_bytes; })
        .def_prop_ro("offset", [](const Matrix& x) { return x.packed.data - x.arena->data(); })
        .def("pack", &pack, "pool"_a, "source"_a, "first_row"_a = 0)
        .def("unpack_row", &unpack, "row"_a);

    nb::class_<Arena>(m, "WeightArena")
        .def(
            "__init__",
            [](Arena* self, size_t num_bytes) {
                // Room for reads and prefetches past the last matrix; whole pages.
                new (self)
                    Arena{std::make_shared<WeightArena>((num_bytes + 2 * kArenaPage - 1) / kArenaPage * kArenaPage)};
            },
            "num_bytes"_a)
        .def_prop_ro("num_bytes", [](const Arena& x) { return x.memory->size(); })
        .def("allocate", &allocate, "format"_a, "rows"_a, "columns"_a)
        .def("spill", &spill, "descriptor"_a, "begin"_a, "end"_a)
        .def("map", &map_arena, "descriptor"_a);

    nb::class_<Kernels>(m, "Kernels")
        .def(
            "__init__", [](Kernels* self, const std::string& target) { new (self) Kernels{kernels_of(target)}; },
            "target"_a)
        .def("quantise", &Kernels::quantise, "x"_a)
        .def("matmul", &Kernels::matmul, "matrix"_a, "x"_a, "pool"_a, "repeats"_a = 1)
        .def("choose_experts", &Kernels::choose_experts, "logits"_a, "pool"_a, "num_active"_a, "sigmoid"_a,
             "choice_bias"_a, "num_groups"_a, "top_groups"_a, "group_best"_a)
        .def("exp", &Kernels::exp, "x"_a)
        .def("rms_norm", &Kernels::rms_norm, "x"_a, "weight"_a, "epsilon"_a)
        .def("gated", &Kernels::gated, "gate"_a, "up"_a, "kind"_a);

    nb::class_<PreparedHeads>(m, "Heads")
        .def(
            "__init__",
            [](PreparedHeads* self, int slot, int count, const std::optional<Floats1>& norm, float epsilon, int rope) {
                new (self) PreparedHeads{slot, count, std::nullopt, epsilon, rope};
                if (norm) self->norm.emplace(norm->data(), norm->data() + norm->shape(0));
            },
            "slot"_a, "count"_a, "norm"_a.none(), "epsilon"_a, "rope"_a);

    nb::class_<StepProgram>(m, "StepProgram")
        .def(nb::init<std::shared_ptr<ThreadPool>, const std::string&, int32_t, int32_t, std::vector<int32_t>, int>(),
             "pool"_a, "target"_a, "max_tokens"_a, "vocab_size"_a, "windows"_a, "cache_type"_a = 0)
        .def("add_slot", &StepProgram::add_slot, "columns"_a, "rows_per_token"_a = 1)
        .def("add_rope", &StepProgram::add_rope, "theta"_a, "dim"_a, "linear_scale"_a, "factors"_a.none(),
             "interleaved"_a, "magnitude"_a = 1.0, "yarn_factor"_a = 0.0, "yarn_context"_a = 0.0, "yarn_fast"_a = 0.0,
             "yarn_slow"_a = 0.0, "yarn_truncate"_a = true)
        .def("add_cache_layer", &StepProgram::add_cache_layer, "group"_a, "num_heads"_a, "head_dim"_a, "has_values"_a)
        .def("add_routing", &StepProgram::add_routing, "num_experts"_a, "num_active"_a, "sigmoid"_a, "normalise"_a,
             "choice_bias"_a.none(), "num_groups"_a, "top_groups"_a, "group_best"_a, "scale"_a,
             "expert_scales"_a.none() = nb::none())
        .def("embed", &StepProgram::embed, "table"_a, "scale"_a, "out"_a)
        .def("embed_from_file", &StepProgram::embed_from_file, "descriptor"_a, "offset"_a, "format"_a, "columns"_a,
             "scale"_a, "out"_a)
        .def("rms_norm", &StepProgram::rms_norm, "x"_a, "out"_a, "weight"_a, "epsilon"_a, "quantise"_a)
        .def("reorder", &StepProgram::reorder, "x"_a, "out"_a, "order"_a, "quantise"_a)
        .def("quantise", &StepProgram::quantise, "slot"_a)
        .def("linear", &StepProgram::linear, "x"_a, "matrices"_a, "outs"_a, "biases"_a, "accumulate"_a)
        .def("prepare_heads", &StepProgram::prepare_heads, "query"_a, "key"_a.none(), "value"_a.none(), "layer"_a,
             "head_dim"_a, "scale_beta"_a = 0.0, "scale_period"_a = 1)
        .def("attention", &StepProgram::attention, "query"_a, "out"_a, "layer"_a, "num_heads"_a, "num_kv_heads"_a,
             "head_dim"_a, "scale"_a, "window"_a, "sinks"_a.none(), "quantise"_a)
        .def("head_norm", &StepProgram::head_norm, "slot"_a, "weight"_a, "epsilon"_a)
        .def("head_linear", &StepProgram::head_linear, "x"_a, "stack"_a, "num_heads"_a, "out"_a)
        .def("latent_attention", &StepProgram::latent_attention, "query"_a, "absorbed"_a, "compressed"_a, "out"_a,
             "layer"_a, "rope"_a, "norm"_a, "epsilon"_a, "scale"_a, "num_heads"_a, "nope_dim"_a)
        .def("delta_net", &StepProgram::delta_net, "x"_a, "beta"_a, "alpha"_a, "convolved"_a, "factors"_a, "out"_a,
             "kernel"_a, "decay"_a, "time_bias"_a, "num_key_heads"_a, "num_value_heads"_a, "key_dim"_a, "value_dim"_a,
             "tiled_heads"_a)
        .def("observe", &StepProgram::observe, "slot"_a, "routing"_a)
        .def("observed", &StepProgram::observed, "index"_a)
        .def("choose", &StepProgram::choose, "logits"_a, "routing"_a)
        .def("dispatch", &StepProgram::dispatch, "x"_a, "routing"_a, "out"_a, "floats"_a, "quantise"_a)
        .def("expert_linear", &StepProgram::expert_linear, "x"_a, "routing"_a, "stacks"_a, "outs"_a, "biases"_a)
        .def("combine", &StepProgram::combine, "x"_a, "routing"_a, "shared"_a, "shared_gate"_a, "out"_a)
        .def("gated", &StepProgram::gated, "gate"_a, "up"_a, "up_begin"_a, "out"_a, "kind"_a, "quantise"_a)
        .def("add", &StepProgram::add, "x"_a, "y"_a, "out"_a, "scale"_a = 1.0f)
        .def("keep_asked", &StepProgram::keep_asked, "slot"_a)
        .def("scale", &StepProgram::scale, "slots"_a, "factors"_a)
        .def("head", &StepProgram::head, "x"_a, "matrix"_a, "bias"_a.none(), "soft_cap"_a = 0.0f)
        .def("allocate_cache", &StepProgram::allocate_cache, "num_pages"_a, "num_states"_a = 0)
        .def("state_bytes", &StepProgram::state_bytes)
        .def("page_bytes", &StepProgram::page_bytes, "group"_a)
        .def("workspace_bytes", &StepProgram::workspace_bytes)
        .def("step", &StepProgram::step);
}

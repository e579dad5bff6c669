// The only file that knows Python. Every integer that reaches a kernel is checked here; long work releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "dispatch.h"
#include "matmul/grids.h"
#include "platform.h"
#include "program.h"
#include "quantise/quantise.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace abaci {
namespace {

using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

const KernelTable* kernels_of(const std::string& target) {
    for (const KernelTable* table : available_kernels())
        if (target == table->name) return table;
    throw std::invalid_argument("this processor has no target '" + target + "'");
}

// A contiguous object's bytes, for as long as this lives.
class Bytes {
  public:
    Bytes(nb::handle object, bool writable = false) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw nb::python_error();
    }
    ~Bytes() { PyBuffer_Release(&view_); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    size_t size() const { return static_cast<size_t>(view_.len); }
    template <class T>
    T* as() const {
        return static_cast<T*>(view_.buf);
    }
    template <class T>
    int64_t count(const char* name) const {
        require(size() % sizeof(T) == 0, name);
        return static_cast<int64_t>(size() / sizeof(T));
    }

  private:
    Py_buffer view_;
};

template <class T>
nb::ndarray<nb::numpy, T> new_array(std::vector<size_t> shape) {
    size_t count = 1;
    for (size_t n : shape) count *= n;
    auto* data = new T[count]();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(), owner);
}

struct Matrix {
    std::shared_ptr<WeightArena> arena;
    PackedMatrix packed;
};

struct Arena {
    std::shared_ptr<WeightArena> memory;
};

constexpr size_t kArenaPage = 4096;

Format format_of(int format) {
    require(format >= 0 && format < kNumFormats, "no such weight format");
    return static_cast<Format>(format);
}

// The block of a format divides the columns, and the sizes stay far from overflow.
void check_matrix(Format format, int64_t rows, int64_t columns) {
    require(rows > 0 && columns > 0 && rows < (int64_t{1} << 31) && columns < (int64_t{1} << 24), "matrix too large");
    require(columns % source_block(format).values == 0, "columns are not a multiple of the format's block");
}

nb::ndarray<nb::numpy, uint16_t> code_grid(const std::string& name) {
    const std::span<const uint16_t> points = grid_of(name);
    require(!points.empty(), "no such grid");
    auto out = new_array<uint16_t>({points.size()});
    std::copy(points.begin(), points.end(), out.data());
    return out;
}

size_t packed_bytes(int format, int64_t rows, int64_t columns) {
    check_matrix(format_of(format), rows, columns);
    const size_t panels = static_cast<size_t>((rows + kPanel - 1) / kPanel);
    // Kernels prefetch, and read scales in blocks, a little past the end.
    return (panels * packed_panel_bytes(format_of(format), columns) + 63) / 64 * 64;
}

Matrix allocate(Arena& arena, int format, int64_t rows, int64_t columns) {
    const size_t needed = packed_bytes(format, rows, columns);
    return {
        arena.memory,
        {arena.memory->take(needed), packed_panel_bytes(format_of(format), columns), rows, columns, format_of(format)}};
}

bool spill(Arena& arena, int descriptor, size_t begin, size_t end) {
    require(!arena.memory->is_mapped(), "the arena lies in a file");
    require(begin <= end && end <= arena.memory->size(), "range out of the arena");
    require(begin % kArenaPage == 0 && end % kArenaPage == 0, "not whole pages");
    const nb::gil_scoped_release release;
    return arena.memory->spill(descriptor, begin, end);
}

bool map_arena(Arena& arena, int descriptor) {
    const nb::gil_scoped_release release;
    return arena.memory->map(descriptor);
}

// Rows [first_row, first_row + those in the source), which begin a panel, of a matrix that nothing uses yet.
SourceRows source_rows(const Matrix& matrix, const Bytes& bytes, int64_t first_row) {
    const PackedMatrix& m = matrix.packed;
    const size_t row_bytes = source_row_bytes(m.format, m.columns);
    const auto num_rows = static_cast<int64_t>(bytes.size() / row_bytes);
    require(!matrix.arena->is_mapped(), "the matrix lies in a file");
    require(bytes.size() % row_bytes == 0 && num_rows > 0, "source is not whole rows");
    require(first_row >= 0 && first_row % kPanel == 0 && first_row <= m.rows - num_rows, "rows out of range");
    require(num_rows % kPanel == 0 || first_row + num_rows == m.rows, "only the last rows may be part of a panel");
    return {const_cast<uint8_t*>(m.data), bytes.as<const uint8_t>(), m.format, m.columns, first_row, num_rows};
}

bool pack(const Matrix& matrix, ThreadPool& pool, nb::handle source, int64_t first_row) {
    const Bytes bytes(source);
    const std::vector<SourceRows> parts = {source_rows(matrix, bytes, first_row)};
    const nb::gil_scoped_release release;
    return pack_rows(pool, parts) < 0;
}

// Many parts in one go, so that the interpreter is not asked for in between.
int64_t pack_all(ThreadPool& pool, const std::vector<std::tuple<Matrix, nb::object, int64_t>>& parts) {
    std::deque<Bytes> sources;
    std::vector<SourceRows> rows;
    for (const auto& [matrix, source, first_row] : parts) {
        sources.emplace_back(source);
        rows.push_back(source_rows(matrix, sources.back(), first_row));
    }
    const nb::gil_scoped_release release;
    return pack_rows(pool, rows);
}

nb::ndarray<nb::numpy, float> unpack(const Matrix& matrix, int64_t row) {
    require(row >= 0 && row < matrix.packed.rows, "row out of range");
    auto out = new_array<float>({static_cast<size_t>(matrix.packed.columns)});
    unpack_row(matrix.packed, row, 1.0f, out.data());
    return out;
}

double seconds_of(const std::function<void()>& work) {
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
                    std::vector<int32_t>(rows * 2 * groups + 32)};
        const KernelFloatModes modes(table->prepare_thread);
        for (int64_t r = 0; r < rows; ++r)
            table->quantise(
                x + r * columns, columns,
                {q.values.data() + r * columns, q.scales.data() + r * groups, q.sums.data() + r * 2 * groups, groups});
        return q;
    }

    auto quantise(const Floats2& x) const {
        const int64_t rows = x.shape(0), columns = x.shape(1);
        require(columns % kGroup == 0, "columns are not a multiple of 32");
        const Quantised q = quantise_rows(x.data(), rows, columns);
        const size_t groups = columns / kGroup;
        auto values = new_array<int8_t>({x.shape(0), x.shape(1)});
        auto scales = new_array<float>({x.shape(0), groups});
        auto sums = new_array<int32_t>({x.shape(0), 2, groups});
        std::copy(q.values.begin(), q.values.end(), values.data());
        std::copy_n(q.scales.begin(), rows * groups, scales.data());
        std::copy_n(q.sums.begin(), rows * 2 * groups, sums.data());
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

// Weights of float32 as the bytes of rows in a format of GGUF.
nb::ndarray<nb::numpy, uint8_t> quantise_weights(ThreadPool& pool, const std::string& target, const std::string& format,
                                                 const Floats2& values, const std::optional<Floats1>& importance) {
    BlockFormat block_format;
    require(block_format_of(format.c_str(), block_format), "weights cannot be quantised to this format");
    const BlockSize size = block_size_of(block_format);
    const auto rows = static_cast<int64_t>(values.shape(0)), columns = static_cast<int64_t>(values.shape(1));
    require(rows > 0 && columns > 0 && columns % size.values == 0, "columns are not whole blocks of the format");
    require(!importance || static_cast<int64_t>(importance->shape(0)) == columns, "not one importance per column");
    const KernelTable* kernels = kernels_of(target);
    auto blocks = new_array<uint8_t>({values.shape(0), static_cast<size_t>(columns / size.values * size.bytes)});
    int64_t bad_row;
    {
        const nb::gil_scoped_release release;
        bad_row = quantise_rows(pool, *kernels, block_format, values.data(), rows, columns,
                                importance ? importance->data() : nullptr, blocks.data());
    }
    if (bad_row >= 0)
        throw std::invalid_argument("row " + std::to_string(bad_row) +
                                    " holds a value that is not finite or too large for the format");
    return blocks;
}

// Bytes per second at which all threads together read memory that no cache holds: the best of `repeats` passes.
double read_bandwidth(ThreadPool& pool, const std::string& target, int64_t num_bytes, int repeats) {
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
double int8_peak_rate(ThreadPool& pool, const std::string& target, int repeats) {
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

// Heads of a slot with the norm and rotation that go before attention. rope -1: none.
struct PreparedHeads {
    int slot, count;
    std::optional<std::vector<float>> norm;
    float epsilon;
    int rope;
};

// The program with what it points to, and with the checks that the engine's arrays pass before a kernel sees them.
class StepProgram {
  public:
    StepProgram(std::shared_ptr<ThreadPool> pool, const std::string& target, int32_t max_tokens, int32_t vocab_size,
                std::vector<int32_t> windows, int cache_type)
        : max_tokens_(max_tokens),
          vocab_size_(vocab_size),
          num_groups_(static_cast<int>(windows.size())),
          windows_(std::move(windows)) {
        require(max_tokens > 0 && max_tokens <= 65536 && vocab_size > 0 && num_groups_ > 0, "sizes out of range");
        require(cache_type >= 0 && cache_type < kNumCacheTypes, "no such cache type");
        program_ = std::make_unique<Program>(std::move(pool), kernels_of(target), max_tokens, vocab_size, num_groups_,
                                             static_cast<CacheType>(cache_type));
    }

    int add_slot(int64_t columns, int rows_per_token) {
        require(columns > 0 && columns < (int64_t{1} << 24), "columns out of range");
        require(rows_per_token > 0 && rows_per_token <= 1024, "rows per token out of range");
        columns_.push_back(columns);
        return program_->add_slot(columns, rows_per_token);
    }
    int add_rope(double theta, int dim, double linear_scale, const std::optional<Floats1>& factors, bool interleaved,
                 double magnitude, double yarn_factor, double yarn_context, double yarn_fast, double yarn_slow,
                 bool yarn_truncate) {
        require(theta > 0 && std::isfinite(theta) && linear_scale > 0 && dim > 0 && dim % 2 == 0 && dim <= kMaxHeadDim,
                "rope out of range");
        require(!factors || factors->shape(0) == static_cast<size_t>(dim / 2), "rope factors of the wrong size");
        require(magnitude > 0 && std::isfinite(magnitude) && yarn_factor >= 0 && std::isfinite(yarn_factor) &&
                    (yarn_factor == 0 || (yarn_context >= 1 && yarn_context < 1e12 && yarn_fast > 0 &&
                                          yarn_fast < 1e6 && yarn_slow > 0 && yarn_slow < 1e6 && theta > 1)),
                "yarn out of range");
        rope_dims_.push_back(dim);
        return program_->add_rope(theta, dim, linear_scale, factors ? factors->data() : nullptr, interleaved,
                                  {yarn_factor, yarn_context, yarn_fast, yarn_slow, yarn_truncate}, magnitude);
    }
    int add_cache_layer(int group, int num_heads, int head_dim, bool has_values) {
        require(group >= 0 && group < num_groups_ && windows_[group] >= 0 && num_heads > 0 && num_heads <= 4096 &&
                    head_dim > 0 && head_dim <= kMaxHeadDim,
                "cache layer out of range");
        layers_.push_back({num_heads, head_dim, has_values});
        program_->add_cache_layer(group, num_heads, head_dim, has_values);
        return static_cast<int>(layers_.size()) - 1;
    }
    int add_routing(int num_experts, int num_active, bool sigmoid, bool normalise,
                    const std::optional<Floats1>& choice_bias, int num_groups, int top_groups, int group_best,
                    float scale, const std::optional<Floats1>& expert_scales) {
        require(num_experts > 0 && num_experts <= 16384 && num_active > 0 && num_active <= num_experts &&
                    num_active <= 1024,
                "experts out of range");
        require(num_groups > 0 && num_experts % num_groups == 0 && top_groups > 0 && top_groups <= num_groups &&
                    group_best > 0 && group_best <= 2 && int64_t{num_experts} / num_groups * top_groups >= num_active,
                "groups of experts out of range");
        require(!choice_bias || static_cast<int>(choice_bias->shape(0)) == num_experts, "bias of the wrong size");
        require(!expert_scales || static_cast<int>(expert_scales->shape(0)) == num_experts, "not one scale per expert");
        routings_.push_back({num_experts, num_active});
        return program_->add_routing({num_experts, num_active, sigmoid, normalise,
                                      choice_bias ? keep(*choice_bias) : nullptr, num_groups, top_groups, group_best,
                                      scale, expert_scales ? keep(*expert_scales) : nullptr});
    }
    void embed(const Matrix& table, float scale, int out) {
        check_slot(out, table.packed.columns);
        require(table.packed.rows == vocab_size_, "embedding rows are not the vocabulary");
        program_->embed(keep(table), scale, out);
    }
    void embed_from_file(int descriptor, int64_t offset, int format, int64_t columns, float scale, int out) {
        check_matrix(format_of(format), vocab_size_, columns);
        check_slot(out, columns);
        require(descriptor >= 0 && offset >= 0, "no such file");
        program_->embed(descriptor, offset, format_of(format), columns, scale, out);
    }
    void rms_norm(int in, int out, const Floats1& weight, float epsilon, bool quantise) {
        const int64_t columns = weight.shape(0);
        check_slot(in, columns);
        check_slot(out, columns);
        require(!quantise || columns % kGroup == 0, "a quantised row is a multiple of 32");
        program_->rms_norm(in, out, keep(weight), columns, epsilon, quantise);
    }
    void quantise(int slot) {
        check_slot(slot, -1);
        require(columns_[slot] % kGroup == 0, "a quantised row is a multiple of 32");
        program_->quantise(slot);
    }
    void linear(int in, const std::vector<Matrix>& matrices, const std::vector<int>& outs,
                const std::vector<std::optional<Floats1>>& biases, bool accumulate) {
        require(!matrices.empty() && matrices.size() == outs.size() && outs.size() == biases.size(),
                "one output and one bias per matrix");
        std::vector<Program::Part> parts;
        for (size_t i = 0; i < matrices.size(); ++i) {
            const PackedMatrix& m = matrices[i].packed;
            check_slot(in, m.columns);
            check_slot(outs[i], m.rows);
            check_input(in, m);
            require(!biases[i] || static_cast<int64_t>(biases[i]->shape(0)) == m.rows, "bias of the wrong size");
            parts.push_back({keep(matrices[i]), outs[i], biases[i] ? keep(*biases[i]) : nullptr, accumulate});
        }
        program_->linear(in, std::move(parts));
    }
    void prepare_heads(const PreparedHeads& query, const std::optional<PreparedHeads>& key,
                       const std::optional<PreparedHeads>& value, int layer, int head_dim, double scale_beta,
                       int scale_period) {
        require(std::isfinite(scale_beta) && scale_period > 0, "scale by position out of range");
        require(key.has_value() == value.has_value(), "a key without a value, or a value without a key");
        require(query.count > 0 && head_dim > 0 && head_dim <= kMaxHeadDim, "heads out of range");
        check_heads(query, head_dim);
        Program::Heads keys = {}, values = {};
        if (key) {
            check_layer(layer, key->count, head_dim);
            require(value->count == key->count && value->slot != key->slot, "values do not go with the keys");
            check_heads(*key, head_dim);
            check_heads(*value, head_dim);
            keys = keep(*key);
            values = keep(*value);
        }
        program_->prepare_heads(keep(query), keys, values, layer, head_dim, {scale_beta, scale_period});
    }
    void attention(int query, int out, int layer, int num_heads, int num_kv_heads, int head_dim, float scale,
                   int window, const std::optional<Floats1>& sinks, bool quantise) {
        check_layer(layer, num_kv_heads, head_dim);
        require(num_heads > 0 && num_heads % num_kv_heads == 0, "attention out of range");
        require(window == windows_[program_->cache_layer(layer).group], "a window that is not the cache's");
        check_slot(query, int64_t{num_heads} * head_dim);
        check_slot(out, int64_t{num_heads} * head_dim);
        require(!quantise || num_heads / num_kv_heads * head_dim % kGroup == 0,
                "a quantised group is a multiple of 32");
        require(!sinks || static_cast<int>(sinks->shape(0)) == num_heads, "not one sink per head");
        program_->attention(query, out, layer, num_heads, num_kv_heads, head_dim, scale, window,
                            sinks ? keep(*sinks) : nullptr, quantise);
    }
    void head_norm(int slot, const Floats1& weight, float epsilon) {
        check_slot(slot, -1);
        const int64_t head_dim = weight.shape(0);
        require(head_dim > 0 && columns_[slot] % head_dim == 0, "heads do not fill the row");
        program_->head_norm(slot, keep(weight), head_dim, epsilon);
    }
    void head_linear(int in, const Matrix& stack, int num_heads, int out) {
        const PackedMatrix& m = stack.packed;
        check_slot(out, m.rows);
        check_slot(in, -1);
        require(num_heads > 0 && m.rows % num_heads == 0 && m.rows / num_heads % kPanel == 0,
                "heads are not whole panels");
        const int64_t stride = columns_[in] / num_heads;
        require(columns_[in] % num_heads == 0 && stride >= m.columns, "heads do not fill the row");
        check_input(in, m);
        require(!is_quantised(m.format) || stride % kGroup == 0, "heads are not whole groups");
        program_->head_linear(in, stride, keep(stack), num_heads, out);
    }
    void latent_attention(int query, int absorbed, int compressed, int out, int layer, int rope, const Floats1& norm,
                          float epsilon, float scale, int num_heads, int nope_dim) {
        const int64_t latent_dim = norm.shape(0);
        require(num_heads > 0 && num_heads <= 4096 && nope_dim > 0 && latent_dim > 0 && rope >= 0 &&
                    rope < static_cast<int>(rope_dims_.size()) && latent_dim + rope_dims_[rope] <= kMaxHeadDim,
                "latent attention out of range");
        const int64_t rotated = rope_dims_[rope];
        check_slot(query, num_heads * (nope_dim + rotated));
        check_slot(absorbed, num_heads * latent_dim);
        check_slot(compressed, latent_dim + rotated);
        check_slot(out, num_heads * latent_dim);
        require(layer >= 0 && layer < static_cast<int>(layers_.size()) && layers_[layer].num_heads == 1 &&
                    layers_[layer].head_dim == latent_dim + rotated && !layers_[layer].has_values,
                "no such cache layer");
        program_->latent_attention({query, absorbed, compressed, out, layer, rope, keep(norm), epsilon, scale,
                                    num_heads, nope_dim, static_cast<int32_t>(latent_dim)});
    }
    void delta_net(int in, int beta, int alpha, int convolved, int factors, int out, const Floats2& kernel,
                   const Floats1& decay, const Floats1& time_bias, int num_key_heads, int num_value_heads, int key_dim,
                   int value_dim, bool tiled_heads) {
        const int64_t channels = kernel.shape(0), kernel_size = kernel.shape(1);
        require(num_key_heads > 0 && num_value_heads > 0 && num_value_heads <= 4096 && key_dim > 0 &&
                    key_dim <= kMaxHeadDim && value_dim > 0 && value_dim <= kMaxHeadDim &&
                    num_value_heads % num_key_heads == 0 && kernel_size > 0 && kernel_size <= kMaxConvolution &&
                    channels == int64_t{2} * num_key_heads * key_dim + int64_t{num_value_heads} * value_dim,
                "delta net out of range");
        check_slot(in, channels);
        check_slot(convolved, channels);
        check_slot(beta, num_value_heads);
        check_slot(alpha, num_value_heads);
        check_slot(factors, int64_t{2} * num_value_heads);
        check_slot(out, int64_t{num_value_heads} * value_dim);
        require(static_cast<int>(decay.shape(0)) == num_value_heads &&
                    static_cast<int>(time_bias.shape(0)) == num_value_heads,
                "not one decay and bias per head");
        std::vector<float> transposed(channels * kernel_size);
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < kernel_size; ++i) transposed[i * channels + c] = kernel.data()[c * kernel_size + i];
        floats_.push_back(std::move(transposed));
        const float* weights = floats_.back().data();
        program_->delta_net({in, beta, alpha, convolved, factors, out, weights, keep(decay), keep(time_bias), nullptr,
                             channels, 0, num_key_heads, num_value_heads, key_dim, value_dim,
                             static_cast<int32_t>(kernel_size), tiled_heads});
    }
    int observe(int slot, int routing) {
        check_slot(slot, -1);
        if (routing >= 0) check_dispatched(slot, routing);
        observations_.push_back(&program_->observe(slot, routing));
        return static_cast<int>(observations_.size()) - 1;
    }
    auto observed(int index) const {
        require(index >= 0 && index < static_cast<int>(observations_.size()), "no such observation");
        const Observation& observation = *observations_[index];
        auto sums = new_array<double>({observation.counts.size(), static_cast<size_t>(observation.columns)});
        auto counts = new_array<int64_t>({observation.counts.size()});
        std::copy(observation.sums.begin(), observation.sums.end(), sums.data());
        std::copy(observation.counts.begin(), observation.counts.end(), counts.data());
        return std::make_tuple(sums, counts);
    }
    void choose(int logits, int routing) {
        check_slot(logits, routing_at(routing).num_experts);
        program_->choose(logits, routing);
    }
    void dispatch(int in, int routing, int out, bool floats, bool quantise) {
        check_slot(in, -1);
        check_slot(out, columns_[in]);
        check_dispatched(out, routing);
        require(!quantise || columns_[in] % kGroup == 0, "a quantised row is a multiple of 32");
        program_->dispatch(in, routing, out, floats, quantise);
    }
    void expert_linear(int in, int routing, const std::vector<Matrix>& stacks, const std::vector<int>& outs,
                       const std::vector<std::optional<Floats2>>& biases) {
        require(!stacks.empty() && stacks.size() == outs.size() && outs.size() == biases.size(),
                "one output and one bias per matrix");
        const int64_t experts = routing_at(routing).num_experts;
        check_dispatched(in, routing);
        std::vector<Program::ExpertPart> parts;
        for (size_t i = 0; i < stacks.size(); ++i) {
            const PackedMatrix& m = stacks[i].packed;
            const int64_t rows = m.rows / experts;
            require(m.rows % experts == 0 && rows % kPanel == 0, "experts are not whole panels");
            check_slot(in, m.columns);
            check_input(in, m);
            check_slot(outs[i], rows);
            check_dispatched(outs[i], routing);
            require(!biases[i] || (static_cast<int64_t>(biases[i]->shape(0)) == experts &&
                                   static_cast<int64_t>(biases[i]->shape(1)) == rows),
                    "biases of the wrong size");
            const float* bias = nullptr;
            if (biases[i]) {
                floats_.emplace_back(biases[i]->data(), biases[i]->data() + m.rows);
                bias = floats_.back().data();
            }
            parts.push_back({keep(stacks[i]), rows, outs[i], bias});
        }
        program_->expert_linear(in, routing, std::move(parts));
    }
    void combine(int in, int routing, int shared, int shared_gate, int out) {
        check_slot(out, -1);
        check_slot(in, columns_[out]);
        check_dispatched(in, routing);
        if (shared >= 0) check_slot(shared, columns_[out]);
        if (shared_gate >= 0) check_slot(shared_gate, 1);
        require(shared_gate < 0 || shared >= 0, "a gate without a shared expert");
        program_->combine(in, routing, shared, shared_gate, out);
    }
    void gated(int gate, int up, int64_t up_begin, int out, int kind, bool quantise) {
        check_slot(out, -1);
        check_slot(gate, columns_[out]);
        check_slot(up, -1);
        require(up_begin >= 0 && up_begin <= columns_[up] - columns_[out], "columns out of range");
        require(kind >= 0 && kind < kNumActivations, "no such activation");
        require(program_->slot(gate).rows_per_token == program_->slot(out).rows_per_token &&
                    program_->slot(up).rows_per_token == program_->slot(out).rows_per_token,
                "slots of other rows");
        require(!quantise || columns_[out] % kGroup == 0, "a quantised row is a multiple of 32");
        program_->gated(gate, up, up_begin, out, columns_[out], static_cast<ActivationKind>(kind), quantise);
    }
    void add(int x, int y, int out, float scale) {
        check_slot(out, -1);
        check_slot(x, columns_[out]);
        check_slot(y, columns_[out]);
        require(std::isfinite(scale), "a scale that is not finite");
        program_->add(x, y, out, scale);
    }
    void scale(const std::vector<int>& slots, const std::vector<float>& factors) {
        require(slots.size() == factors.size(), "one factor per slot");
        std::vector<Program::Scaled> scaled;
        for (size_t i = 0; i < slots.size(); ++i) {
            check_slot(slots[i], -1);
            require(std::isfinite(factors[i]), "a factor that is not finite");
            scaled.push_back({slots[i], factors[i]});
        }
        program_->scale(std::move(scaled));
    }
    void head(int in, const Matrix& matrix, const std::optional<Floats1>& bias, float soft_cap) {
        require(std::isfinite(soft_cap) && soft_cap >= 0, "soft cap out of range");
        check_slot(in, matrix.packed.columns);
        require(matrix.packed.rows == vocab_size_, "head rows are not the vocabulary");
        require(!bias || static_cast<int64_t>(bias->shape(0)) == matrix.packed.rows, "bias of the wrong size");
        program_->head(in, keep(matrix), bias ? keep(*bias) : nullptr, soft_cap);
        columns_.push_back(matrix.packed.columns);
        columns_.push_back(matrix.packed.rows);
    }

    void allocate_cache(const std::vector<int64_t>& num_pages, int64_t num_states) {
        require(num_states >= 0 && num_states < (int64_t{1} << 24), "number of states out of range");
        require(num_states > 0 || program_->state_values() == 0, "the model needs states");
        for (int64_t n : num_pages) require(n > 0 && n < (int64_t{1} << 31), "number of pages out of range");
        program_->allocate_cache(num_pages, num_states);
    }
    int64_t page_bytes(int group) const {
        require(group >= 0 && group < num_groups_, "no such cache group");
        return program_->page_bytes(group);
    }
    int64_t state_bytes() const { return program_->state_values() * sizeof(float); }
    int64_t workspace_bytes() const { return program_->workspace_bytes(); }

    void step(nb::handle token_ids, nb::handle sequence_offsets, nb::handle first_positions, nb::tuple page_tables,
              nb::handle logit_rows, nb::handle history, nb::handle bias, nb::handle masks, nb::handle token_out,
              nb::handle logprob_out, nb::handle top_ids_out, nb::handle top_logprobs_out, nb::handle hidden_rows,
              nb::handle hidden_out, nb::handle states) {
        const Bytes tokens(token_ids), offsets(sequence_offsets), positions(first_positions), rows(logit_rows),
            seen(history), biases(bias), mask(masks), out_ids(token_out, true), out_logprobs(logprob_out, true),
            out_top_ids(top_ids_out, true), out_top_logprobs(top_logprobs_out, true), wanted(hidden_rows),
            out_hidden(hidden_out, true), kept(states);
        StepInput in;
        in.num_tokens = static_cast<int32_t>(tokens.count<int32_t>("token_ids"));
        in.num_sequences = static_cast<int32_t>(positions.count<int32_t>("first_positions"));
        in.num_logit_rows = static_cast<int32_t>(rows.count<LogitRow>("logit_rows"));
        in.token_ids = tokens.as<int32_t>();
        in.sequence_offsets = offsets.as<int32_t>();
        in.first_positions = positions.as<int32_t>();
        in.logit_rows = rows.as<LogitRow>();
        in.history = seen.as<HistoryEntry>();
        in.bias = biases.as<BiasEntry>();
        in.masks = mask.as<uint32_t>();
        in.mask_words = (vocab_size_ + 31) / 32;
        in.token_out = out_ids.as<int32_t>();
        in.logprob_out = out_logprobs.as<float>();
        in.top_ids_out = out_top_ids.as<int32_t>();
        in.top_logprobs_out = out_top_logprobs.as<float>();
        require(offsets.count<int32_t>("sequence_offsets") == in.num_sequences + 1, "one offset more than sequences");
        require(nb::len(page_tables) == static_cast<size_t>(num_groups_), "one page table per cache group");
        require(out_ids.count<int32_t>("out") == in.num_logit_rows &&
                    out_logprobs.count<float>("out") == in.num_logit_rows &&
                    out_top_ids.size() == out_top_logprobs.size(),
                "outputs of the wrong size");
        in.top_width = in.num_logit_rows ? out_top_ids.count<int32_t>("out") / in.num_logit_rows : 0;
        in.num_hidden_rows = static_cast<int32_t>(wanted.count<int32_t>("hidden_rows"));
        in.hidden_rows = wanted.as<int32_t>();
        in.hidden_out = out_hidden.as<float>();
        in.states = kept.as<int32_t>();
        check_rows(in);
        check_states(in, kept.count<int32_t>("states"));
        require(out_hidden.count<float>("out") == in.num_hidden_rows * program_->hidden_size(),
                "outputs of the wrong size");
        for (int32_t i = 0; i < in.num_hidden_rows; ++i)
            require(in.hidden_rows[i] >= 0 && in.hidden_rows[i] < in.num_tokens, "hidden row out of range");
        std::vector<std::unique_ptr<Bytes>> tables;
        for (int group = 0; group < num_groups_; ++group) {
            tables.push_back(std::make_unique<Bytes>(page_tables[group]));
            in.page_tables.push_back(tables.back()->as<int32_t>());
            in.pages_per_sequence.push_back(tables.back()->count<int32_t>("page_tables") / in.num_sequences);
            check_pages(in, group);
        }
        check_logit_rows(in, seen.count<HistoryEntry>("history"), biases.count<BiasEntry>("bias"),
                         mask.count<uint32_t>("masks") / in.mask_words);
        nb::gil_scoped_release release;
        program_->step(in);
    }

  private:
    void check_slot(int slot, int64_t columns) const {
        require(slot >= 0 && slot < static_cast<int>(columns_.size()), "no such slot");
        require(columns < 0 || columns_[slot] == columns, "slot of another width");
    }
    void check_layer(int layer, int num_kv_heads, int head_dim) const {
        require(layer >= 0 && layer < static_cast<int>(layers_.size()) && layers_[layer].num_heads == num_kv_heads &&
                    layers_[layer].head_dim == head_dim && layers_[layer].has_values,
                "no such cache layer");
    }
    void check_input(int slot, const PackedMatrix& matrix) const {
        require(!is_quantised(matrix.format) || program_->slot(slot).values,
                "input of a quantised matrix is not quantised");
    }
    struct Experts {
        int num_experts, num_active;
    };
    const Experts& routing_at(int routing) const {
        require(routing >= 0 && routing < static_cast<int>(routings_.size()), "no such routing");
        return routings_[routing];
    }
    void check_dispatched(int slot, int routing) const {
        check_slot(slot, -1);
        require(program_->slot(slot).rows_per_token == routing_at(routing).num_active,
                "slot of another number of rows");
    }
    // Each sequence writes a state of its own, which no other reads.
    void check_states(const StepInput& in, int64_t count) const {
        if (program_->state_values() == 0) return;
        require(count == int64_t{2} * in.num_sequences, "not two states per sequence");
        std::vector<int32_t> writers(program_->num_states(), -1);
        for (int32_t s = 0; s < in.num_sequences; ++s) {
            const int32_t read = in.states[2 * s], written = in.states[2 * s + 1];
            require(read >= -1 && read < program_->num_states() && written >= 0 && written < program_->num_states(),
                    "state out of range");
            require(writers[written] < 0, "two sequences write one state");
            writers[written] = s;
        }
        for (int32_t s = 0; s < in.num_sequences; ++s) {
            const int32_t read = in.states[2 * s];
            require(read < 0 || writers[read] < 0 || writers[read] == s, "a state is read that another writes");
        }
    }
    void check_heads(const PreparedHeads& heads, int head_dim) const {
        check_slot(heads.slot, int64_t{heads.count} * head_dim);
        require(!heads.norm || static_cast<int>(heads.norm->size()) == head_dim, "head norm of the wrong size");
        require(heads.rope >= -1 && heads.rope < static_cast<int>(rope_dims_.size()) &&
                    (heads.rope < 0 || rope_dims_[heads.rope] <= head_dim),
                "no such rope");
    }
    void check_rows(const StepInput& in) const {
        require(in.num_tokens > 0 && in.num_tokens <= max_tokens_, "number of tokens out of range");
        require(in.num_sequences > 0 && in.sequence_offsets[0] == 0 &&
                    in.sequence_offsets[in.num_sequences] == in.num_tokens,
                "offsets do not cover the tokens");
        for (int32_t s = 0; s < in.num_sequences; ++s)
            require(in.sequence_offsets[s] < in.sequence_offsets[s + 1] && in.first_positions[s] >= 0 &&
                        in.first_positions[s] < (1 << 24),
                    "offsets or positions out of range");
        for (int32_t i = 0; i < in.num_tokens; ++i)
            require(in.token_ids[i] >= 0 && in.token_ids[i] < vocab_size_, "token id out of range");
    }
    void check_pages(const StepInput& in, int group) const {
        const int64_t window = windows_[group];
        const int64_t width = in.pages_per_sequence[group], num_pages = program_->num_pages(group);
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
    void check_logit_rows(const StepInput& in, int64_t num_seen, int64_t num_biases, int64_t num_masks) const {
        require(in.num_logit_rows <= max_tokens_, "more logit rows than tokens of a step");
        for (int32_t i = 0; i < in.num_logit_rows; ++i) {
            const LogitRow& row = in.logit_rows[i];
            require(row.row >= 0 && row.row < in.num_tokens, "logit row out of range");
            require(row.target >= -1 && row.target < vocab_size_, "target out of range");
            require(row.num_top >= -1 && row.num_top <= in.top_width && row.num_top <= vocab_size_, "top out of range");
            require(row.mask_row >= -1 && row.mask_row < num_masks, "mask out of range");
            require(row.temperature >= 0 && row.top_k >= 0 && row.repetition_penalty > 0, "sampling out of range");
            require(row.history_begin >= 0 && row.history_begin <= row.history_end && row.history_end <= num_seen,
                    "history out of range");
            require(row.bias_begin >= 0 && row.bias_begin <= row.bias_end && row.bias_end <= num_biases,
                    "bias out of range");
            for (int32_t j = row.history_begin; j < row.history_end; ++j)
                require(in.history[j].token_id >= 0 && in.history[j].token_id < vocab_size_, "history out of range");
            for (int32_t j = row.bias_begin; j < row.bias_end; ++j)
                require(in.bias[j].token_id >= 0 && in.bias[j].token_id < vocab_size_, "bias out of range");
        }
    }
    PackedMatrix keep(const Matrix& matrix) {
        arenas_.push_back(matrix.arena);
        return matrix.packed;
    }
    Program::Heads keep(const PreparedHeads& heads) {
        if (heads.norm) floats_.push_back(*heads.norm);
        return {heads.slot, heads.count, heads.norm ? floats_.back().data() : nullptr, heads.epsilon, heads.rope};
    }
    const float* keep(const Floats1& values) {
        // Kernels read biases in whole panels.
        floats_.emplace_back((values.shape(0) + kPanel - 1) / kPanel * kPanel);
        std::copy_n(values.data(), values.shape(0), floats_.back().begin());
        return floats_.back().data();
    }

    const int32_t max_tokens_, vocab_size_;
    const int num_groups_;
    const std::vector<int32_t> windows_;  // 0: full attention
    std::vector<int64_t> columns_;
    struct Layer {
        int num_heads, head_dim;
        bool has_values;
    };
    std::vector<int> rope_dims_;
    std::vector<Layer> layers_;
    std::vector<Experts> routings_;
    std::vector<std::shared_ptr<WeightArena>> arenas_;
    std::deque<std::vector<float>> floats_;
    std::vector<const Observation*> observations_;
    std::unique_ptr<Program> program_;
};

}  // namespace
}  // namespace abaci

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
        .def("scale", &StepProgram::scale, "slots"_a, "factors"_a)
        .def("head", &StepProgram::head, "x"_a, "matrix"_a, "bias"_a.none(), "soft_cap"_a = 0.0f)
        .def("allocate_cache", &StepProgram::allocate_cache, "num_pages"_a, "num_states"_a = 0)
        .def("state_bytes", &StepProgram::state_bytes)
        .def("page_bytes", &StepProgram::page_bytes, "group"_a)
        .def("workspace_bytes", &StepProgram::workspace_bytes)
        .def("step", &StepProgram::step);
}

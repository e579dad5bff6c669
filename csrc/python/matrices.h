// Weights: packed into arenas, read back, and quantised for files.
#pragma once

#include <algorithm>
#include <deque>

#include "matmul/grids.h"
#include "program.h"
#include "python/arrays.h"
#include "quantise/quantise.h"

namespace abaci {

struct Matrix {
    std::shared_ptr<WeightArena> arena;
    PackedMatrix packed;
};

struct Arena {
    std::shared_ptr<WeightArena> memory;
};

constexpr size_t kArenaPage = 4096;

inline Format format_of(int format) {
    require(format >= 0 && format < kNumFormats, "no such weight format");
    return static_cast<Format>(format);
}

// The block of a format divides the columns, and the sizes stay far from overflow.
inline void check_matrix(Format format, int64_t rows, int64_t columns) {
    require(rows > 0 && columns > 0 && rows < (int64_t{1} << 31) && columns < (int64_t{1} << 24), "matrix too large");
    require(columns % source_block(format).values == 0, "columns are not a multiple of the format's block");
}

inline nb::ndarray<nb::numpy, uint16_t> code_grid(const std::string& name) {
    const std::span<const uint16_t> points = grid_of(name);
    require(!points.empty(), "no such grid");
    auto out = new_array<uint16_t>({points.size()});
    std::copy(points.begin(), points.end(), out.data());
    return out;
}

inline int64_t whole_panels(int64_t rows) {
    return (rows + kPanel - 1) / kPanel * kPanel;
}

inline size_t packed_bytes(int format, int64_t rows, int64_t columns) {
    check_matrix(format_of(format), rows, columns);
    const size_t panels = static_cast<size_t>(whole_panels(rows) / kPanel);
    // Kernels prefetch, and read scales in blocks, a little past the end.
    return (panels * packed_panel_bytes(format_of(format), columns) + 63) / 64 * 64;
}

inline Matrix allocate(Arena& arena, int format, int64_t rows, int64_t columns) {
    const size_t needed = packed_bytes(format, rows, columns);
    return {
        arena.memory,
        {arena.memory->take(needed), packed_panel_bytes(format_of(format), columns), rows, columns, format_of(format)}};
}

inline bool spill(Arena& arena, int descriptor, size_t begin, size_t end) {
    require(!arena.memory->is_mapped(), "the arena lies in a file");
    require(begin <= end && end <= arena.memory->size(), "range out of the arena");
    require(begin % kArenaPage == 0 && end % kArenaPage == 0, "not whole pages");
    const nb::gil_scoped_release release;
    return arena.memory->spill(descriptor, begin, end);
}

inline bool map_arena(Arena& arena, int descriptor) {
    const nb::gil_scoped_release release;
    return arena.memory->map(descriptor);
}

// Rows [first_row, first_row + those in the source), which begin a panel, of a matrix that nothing uses yet.
inline SourceRows source_rows(const Matrix& matrix, const Bytes& bytes, int64_t first_row) {
    const PackedMatrix& m = matrix.packed;
    const size_t row_bytes = source_row_bytes(m.format, m.columns);
    const auto num_rows = static_cast<int64_t>(bytes.size() / row_bytes);
    require(!matrix.arena->is_mapped(), "the matrix lies in a file");
    require(bytes.size() % row_bytes == 0 && num_rows > 0, "source is not whole rows");
    require(first_row >= 0 && first_row % kPanel == 0 && first_row <= m.rows - num_rows, "rows out of range");
    require(num_rows % kPanel == 0 || first_row + num_rows == m.rows, "only the last rows may be part of a panel");
    return {const_cast<uint8_t*>(m.data), bytes.as<const uint8_t>(), m.format, m.columns, first_row, num_rows};
}

inline bool pack(const Matrix& matrix, ThreadPool& pool, nb::handle source, int64_t first_row) {
    const Bytes bytes(source);
    const std::vector<SourceRows> parts = {source_rows(matrix, bytes, first_row)};
    const nb::gil_scoped_release release;
    return pack_rows(pool, parts) < 0;
}

// Many parts in one go, so that the interpreter is not asked for in between.
inline int64_t pack_all(ThreadPool& pool, const std::vector<std::tuple<Matrix, nb::object, int64_t>>& parts) {
    std::deque<Bytes> sources;
    std::vector<SourceRows> rows;
    for (const auto& [matrix, source, first_row] : parts) {
        sources.emplace_back(source);
        rows.push_back(source_rows(matrix, sources.back(), first_row));
    }
    const nb::gil_scoped_release release;
    return pack_rows(pool, rows);
}

inline nb::ndarray<nb::numpy, float> unpack(const Matrix& matrix, int64_t row) {
    require(row >= 0 && row < matrix.packed.rows, "row out of range");
    auto out = new_array<float>({static_cast<size_t>(matrix.packed.columns)});
    unpack_row(matrix.packed, row, 1.0f, out.data());
    return out;
}

// Weights of float32 as the bytes of rows in a format of GGUF.
inline nb::ndarray<nb::numpy, uint8_t> quantise_weights(ThreadPool& pool, const std::string& target,
                                                        const std::string& format, const Floats2& values,
                                                        const std::optional<Floats1>& importance) {
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

}  // namespace abaci

#include "quantise/quantise.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace abaci {
namespace {

struct FormatRow {
    const char* name;
    BlockFormat format;
    BlockSize size;
};

constexpr FormatRow kFormats[] = {
    {"Q4_0", BlockFormat::Q4_0, {32, 18}},     {"Q4_1", BlockFormat::Q4_1, {32, 20}},
    {"Q5_0", BlockFormat::Q5_0, {32, 22}},     {"Q5_1", BlockFormat::Q5_1, {32, 24}},
    {"Q8_0", BlockFormat::Q8_0, {32, 34}},     {"Q2_K", BlockFormat::Q2_K, {256, 84}},
    {"Q3_K", BlockFormat::Q3_K, {256, 110}},   {"Q4_K", BlockFormat::Q4_K, {256, 144}},
    {"Q5_K", BlockFormat::Q5_K, {256, 176}},   {"Q6_K", BlockFormat::Q6_K, {256, 210}},
    {"IQ4_NL", BlockFormat::IQ4_NL, {32, 18}}, {"IQ4_XS", BlockFormat::IQ4_XS, {256, 136}},
    {"MXFP4", BlockFormat::MXFP4, {32, 17}},
};

constexpr int64_t kValuesPerPiece = 1 << 15;

}  // namespace

BlockSize block_size_of(BlockFormat format) {
    return kFormats[static_cast<int>(format)].size;
}

bool block_format_of(const char* name, BlockFormat& format) {
    for (const FormatRow& row : kFormats)
        if (std::strcmp(name, row.name) == 0) {
            format = row.format;
            return true;
        }
    return false;
}

int64_t quantise_rows(ThreadPool& pool, const KernelTable& kernels, BlockFormat format, const float* values,
                      int64_t rows, int64_t columns, const float* importance, uint8_t* blocks) {
    struct Job {
        const KernelTable& kernels;
        BlockFormat format;
        const float* values;
        int64_t rows, columns, row_bytes, rows_per_piece;
        const float* importance;
        uint8_t* blocks;
        std::atomic<int64_t> first_bad;
    };
    const BlockSize size = block_size_of(format);
    const int64_t least = (rows + ThreadPool::kMaxPieces - 1) / ThreadPool::kMaxPieces;
    Job job{kernels,
            format,
            values,
            rows,
            columns,
            columns / size.values * size.bytes,
            std::max({int64_t{1}, least, kValuesPerPiece / columns}),
            importance,
            blocks,
            rows};
    const auto run = [](void* opaque, uint32_t piece, int) {
        Job& j = *static_cast<Job*>(opaque);
        const int64_t begin = piece * j.rows_per_piece, end = std::min(j.rows, begin + j.rows_per_piece);
        for (int64_t row = begin; row < end; ++row) {
            const float* x = j.values + row * j.columns;
            if (j.kernels.quantise_weights(j.format, x, j.importance, j.columns, j.blocks + row * j.row_bytes))
                continue;
            int64_t known = j.first_bad;
            while (row < known && !j.first_bad.compare_exchange_weak(known, row)) {
            }
            return;
        }
    };
    pool.run({{run, &job, static_cast<uint32_t>((rows + job.rows_per_piece - 1) / job.rows_per_piece)}});
    return job.first_bad < rows ? job.first_bad.load() : -1;
}

}  // namespace abaci

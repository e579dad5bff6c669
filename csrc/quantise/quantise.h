// Weights from float32 into the blocks of GGUF: which formats, and rows of them on all threads.
#pragma once

#include "kernel_table.h"
#include "pool.h"

namespace abaci {

// Bytes and values of one block of a format.
struct BlockSize {
    int64_t values;
    int64_t bytes;
};
BlockSize block_size_of(BlockFormat format);

// The format a name stands for ("Q4_K"), or false.
bool block_format_of(const char* name, BlockFormat& format);

// Quantises `rows` rows of `columns` values, whole blocks of them, to `blocks`. `importance`: null, or a weight of at
// least zero for each column (for each row's errors alike). Returns the first row that holds a value which is not
// finite or too large for the format's scales, or -1.
int64_t quantise_rows(ThreadPool& pool, const KernelTable& kernels, BlockFormat format, const float* values,
                      int64_t rows, int64_t columns, const float* importance, uint8_t* blocks);

}  // namespace abaci

// Packed matrices: where they live, how they come from the file's rows, how one row is read back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel_table.h"
#include "matmul/layout.h"
#include "pool.h"

namespace abaci {

// One range of addresses for all packed matrices of a model: memory to pack into, later perhaps a file's in its place.
class WeightArena {
  public:
    explicit WeightArena(size_t num_bytes);
    ~WeightArena();
    WeightArena(const WeightArena&) = delete;
    WeightArena& operator=(const WeightArena&) = delete;
    uint8_t* take(size_t num_bytes);
    uint8_t* data() { return memory_; }
    size_t size() const { return size_; }
    bool is_mapped() const { return mapped_; }

    // Writes whole pages [begin, end) to the same place of a file and lets go of them. False where that fails.
    bool spill(int descriptor, size_t begin, size_t end);

    // From now on the arena is what the file begins with, and read-only. False where that fails: then nothing is in it.
    bool map(int descriptor);

  private:
    uint8_t* memory_;
    size_t size_, used_ = 0;
    bool mapped_ = false;
};

// Rows of a matrix as stored in the file, beginning with a panel.
struct SourceRows {
    uint8_t* packed;  // of the whole matrix
    const uint8_t* source;
    Format format;
    int64_t columns, first_row, num_rows;
};

// Packs them all. The index of the first part with a scale that is not finite, or -1.
int64_t pack_rows(ThreadPool& pool, const std::vector<SourceRows>& parts);

// Values of one row, exactly as the format defines them, times `scale`.
void unpack_row(const PackedMatrix& matrix, int64_t row, float scale, float* out);

// The same from the row as stored in the file; `scratch` holds packed_panel_bytes, 64-byte aligned. False where a scale
// is not finite.
bool unpack_source_row(Format format, const uint8_t* source, int64_t columns, float scale, uint8_t* scratch,
                       float* out);

}  // namespace abaci

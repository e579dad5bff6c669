#include "weights.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "platform.h"

namespace abaci {

WeightArena::WeightArena(size_t num_bytes)
    : memory_(static_cast<uint8_t*>(allocate_large(num_bytes))), size_(num_bytes) {
    if (!memory_) throw std::bad_alloc();
}

WeightArena::~WeightArena() {
    free_large(memory_, size_);
}

uint8_t* WeightArena::take(size_t num_bytes) {
    const size_t begin = (used_ + 63) / 64 * 64;
    if (begin + num_bytes > size_) throw std::bad_alloc();
    used_ = begin + num_bytes;
    return memory_ + begin;
}

bool pack_matrix(ThreadPool& pool, Format format, const uint8_t* source, int64_t rows, int64_t columns,
                 uint8_t* packed) {
    struct Context {
        Format format;
        const uint8_t* source;
        int64_t rows, columns, panels;
        uint8_t* packed;
        std::atomic<bool> finite{true};
    } context{format, source, rows, columns, (rows + kPanel - 1) / kPanel, packed};
    constexpr int64_t panels_per_piece = 8;
    const auto run = [](void* opaque, uint32_t piece, int) {
        auto& c = *static_cast<Context*>(opaque);
        const int64_t begin = piece * panels_per_piece, end = std::min(c.panels, begin + panels_per_piece);
        if (!pack_panels(c.format, c.source, c.rows, c.columns, begin, end, c.packed)) c.finite = false;
    };
    pool.run({{run, &context, static_cast<uint32_t>((context.panels + panels_per_piece - 1) / panels_per_piece)}});
    return context.finite;
}

}  // namespace abaci

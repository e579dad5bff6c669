#include "weights.h"

#include <algorithm>
#include <atomic>
#include <deque>
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

bool WeightArena::spill(int descriptor, size_t begin, size_t end) {
    // In pieces of a huge page: the system keeps each as one and can map it as one.
    constexpr size_t piece = size_t{2} << 20;
    for (size_t at = begin; at < end; at += piece) {
        const size_t num_bytes = std::min(piece, end - at);
        if (!write_at(descriptor, memory_ + at, num_bytes, static_cast<int64_t>(at))) return false;
    }
    release_pages(memory_ + begin, end - begin);
    return true;
}

bool WeightArena::map(int descriptor) {
    return mapped_ = map_file_over(memory_, size_, descriptor);
}

int64_t pack_rows(ThreadPool& pool, const std::vector<SourceRows>& parts) {
    constexpr int64_t panels_per_piece = 8;
    struct Job {
        const SourceRows& rows;
        std::atomic<bool> finite{true};
        explicit Job(const SourceRows& r) : rows(r) {}
    };
    std::deque<Job> jobs;
    std::vector<Phase> phases;
    const auto run = [](void* opaque, uint32_t piece, int) {
        auto& job = *static_cast<Job*>(opaque);
        const SourceRows& rows = job.rows;
        const int64_t num_panels = (rows.num_rows + kPanel - 1) / kPanel;
        const int64_t begin = piece * panels_per_piece, end = std::min(num_panels, begin + panels_per_piece);
        uint8_t* packed = rows.packed + rows.first_row / kPanel * packed_panel_bytes(rows.format, rows.columns);
        if (!pack_panels(rows.format, rows.source, rows.num_rows, rows.columns, begin, end, packed)) job.finite = false;
    };
    for (const SourceRows& rows : parts) {
        const int64_t num_panels = (rows.num_rows + kPanel - 1) / kPanel;
        jobs.emplace_back(rows);
        phases.push_back(
            {run, &jobs.back(), static_cast<uint32_t>((num_panels + panels_per_piece - 1) / panels_per_piece)});
    }
    pool.run(phases);
    for (size_t i = 0; i < jobs.size(); ++i)
        if (!jobs[i].finite) return static_cast<int64_t>(i);
    return -1;
}

}  // namespace abaci

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "platform.h"

namespace abaci {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// 4 KiB on x86; up to 64 on ARM.
uintptr_t page_bytes() {
    return static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

bool pin_current_thread(int processor) {
    if (processor < 0 || processor >= CPU_SETSIZE) return false;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
}

void* allocate_large(size_t num_bytes) {
    if (num_bytes == 0) num_bytes = 1;
    const size_t slack = num_bytes >= kHugePage ? kHugePage : 0;
    void* mapped = mmap(nullptr, num_bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    if (slack == 0) return mapped;
    // Give back what lies before the first huge page boundary and behind the end.
    const auto begin = reinterpret_cast<uintptr_t>(mapped);
    const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t page = page_bytes();
    const uintptr_t end = (aligned + num_bytes + page - 1) / page * page;
    if (aligned > begin) munmap(mapped, aligned - begin);
    if (begin + num_bytes + slack > end) munmap(reinterpret_cast<void*>(end), begin + num_bytes + slack - end);
    madvise(reinterpret_cast<void*>(aligned), num_bytes, MADV_HUGEPAGE);
    return reinterpret_cast<void*>(aligned);
}

void free_large(void* memory, size_t num_bytes) {
    if (memory) munmap(memory, num_bytes ? num_bytes : 1);
}

void release_pages(void* memory, size_t num_bytes) {
    // The system would round the end up, over what must stay.
    const uintptr_t page = page_bytes(), at = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t begin = (at + page - 1) / page * page, end = (at + num_bytes) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

bool map_file_over(void* memory, size_t num_bytes, int descriptor) {
    struct stat status;
    if (fstat(descriptor, &status) != 0 || static_cast<uint64_t>(status.st_size) < num_bytes) return false;
    if (mmap(memory, num_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0) == MAP_FAILED) return false;
    madvise(memory, num_bytes, MADV_HUGEPAGE);
    return true;
}

int process_id() {
    return getpid();
}

int duplicate_file(int descriptor) {
    return fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
}

void close_file(int descriptor) {
    close(descriptor);
}

bool read_at(int descriptor, void* to, size_t num_bytes, int64_t offset) {
    auto* next = static_cast<uint8_t*>(to);
    while (num_bytes > 0) {
        const ssize_t got = pread(descriptor, next, num_bytes, offset);
        if (got <= 0) return false;
        next += got;
        num_bytes -= static_cast<size_t>(got);
        offset += got;
    }
    return true;
}

bool write_at(int descriptor, const void* from, size_t num_bytes, int64_t offset) {
    auto* next = static_cast<const uint8_t*>(from);
    while (num_bytes > 0) {
        const ssize_t written = pwrite(descriptor, next, num_bytes, offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        next += written;
        num_bytes -= static_cast<size_t>(written);
        offset += written;
    }
    return true;
}

void trim_memory() {
    malloc_trim(0);
}

}  // namespace abaci

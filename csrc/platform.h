// What differs between operating systems: thread affinity, large allocations, advice on mappings.
#pragma once

#include <cstddef>
#include <cstdint>

namespace abaci {

// Binds the calling thread to one processor. False where the system refuses or cannot.
bool pin_current_thread(int processor);

// Number of this process: another after fork.
int process_id();

// Zeroed memory, aligned to 2 MiB where it is at least that large, in huge pages where the system grants them. Pages
// count only once touched. Null when there is none.
void* allocate_large(size_t num_bytes);
void free_large(void* memory, size_t num_bytes);

// Lets go of what was written to whole pages of such memory; they read as zeros again.
void release_pages(void* memory, size_t num_bytes);

// Puts a file's first bytes, read-only and shared with all who map it, in place of such memory. False where the file
// is shorter or the system refuses.
bool map_file_over(void* memory, size_t num_bytes, int descriptor);

// Files by descriptor. read_at and write_at are true when all bytes went.
int duplicate_file(int descriptor);  // -1 where the system refuses
void close_file(int descriptor);
bool read_at(int descriptor, void* to, size_t num_bytes, int64_t offset);
bool write_at(int descriptor, const void* from, size_t num_bytes, int64_t offset);

// Gives memory that was freed back to the system.
void trim_memory();

}  // namespace abaci

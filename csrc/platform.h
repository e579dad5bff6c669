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

// Files by descriptor. read_at is true when all bytes came.
int duplicate_file(int descriptor);  // -1 where the system refuses
void close_file(int descriptor);
bool read_at(int descriptor, void* to, size_t num_bytes, int64_t offset);

// Gives memory that was freed back to the system.
void trim_memory();

}  // namespace abaci

// What differs between operating systems: thread affinity, large allocations, advice on mappings.
#pragma once

#include <cstddef>

namespace abaci {

// Binds the calling thread to one processor. False where the system refuses or cannot.
bool pin_current_thread(int processor);

// Zeroed memory, aligned to 2 MiB where it is at least that large, in huge pages where the system grants them. Pages
// count only once touched. Null when there is none.
void* allocate_large(size_t num_bytes);
void free_large(void* memory, size_t num_bytes);

}  // namespace abaci

// Which kernel tables this processor can run, best first.
#pragma once

#include <vector>

#include "kernel_table.h"

namespace abaci {

std::vector<const KernelTable*> available_kernels();

}  // namespace abaci

#include "simd/neon.h"

#define ABACI_TARGET neon_dotprod
#include "targets/table-inl.h"

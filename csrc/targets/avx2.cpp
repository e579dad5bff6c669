#include "simd/avx2.h"

#define ABACI_TARGET avx2
#include "targets/table-inl.h"

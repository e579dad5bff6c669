#include "simd/avx512.h"

#define ABACI_TARGET avx512_vnni
#include "targets/table-inl.h"

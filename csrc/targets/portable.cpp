#include "simd/portable.h"

#define ABACI_TARGET portable
#include "targets/table-inl.h"

// How the functions of lanes become part of the kernels: each in a register or two, without calls.
#pragma once

// Under sanitizers every copy would carry checks, over which the compiler takes minutes.
#if defined(ABACI_SANITIZE)
#define ABACI_INLINE inline
#else
#define ABACI_INLINE inline __attribute__((always_inline))
#endif

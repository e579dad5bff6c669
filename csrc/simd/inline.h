// How the functions of lanes become part of the kernels: each in a register or two, without calls.
#pragma once

// Under sanitizers every copy would carry checks, over which the compiler takes minutes.
#if defined(ABACI_SANITIZE)
#define ABACI_INLINE inline
#else
#define ABACI_INLINE inline __attribute__((always_inline))
#endif

// The compiler forgets what it has read from memory and reads it again where it is used: for factors that would take
// registers from sums.
ABACI_INLINE void forget_memory() {
    asm volatile("" ::: "memory");
}

// The same address, of which the compiler forgets how it came about.
template <class T>
ABACI_INLINE const T* opaque(const T* p) {
    asm("" : "+r"(p));
    return p;
}

// Half the multiplications of a dot product for twice the additions (Winograd, A New Algorithm for Inner Product, IEEE
// Transactions on Computers C-17, 1968), for processors that add bytes on units of their own while they multiply.
//
// Of two inputs x and y of a row, and two codes a and b of an output,
//   (x + b) (y + a) = x a + y b + x y + a b
// One product of two sums holds both products that are wanted. What it holds besides belongs to the row alone or to
// the output alone: x y is summed when rows are quantised, a b once for all rows. In integers this is exact, so results
// are those of plain products.
//
// The sums must fit the operands of an int8 product, of which one is unsigned. A row's values are moved for that: by
// -least, for which they lie in [0, 240], and the second by 128 less. With 4-bit codes both sums fit. With X = x -
// least and Y = y - least - 128,
//   x a + y b = (X + b) (Y + a) - X Y + least (a + b) - (b (a - 128))
// Sums start from all but the first term: -X Y is GroupSum::CrossedStart, and one step of 16-bit products adds the
// rest, from what an output has for a group (CrossedCodes) and GroupSum::Least.
//
// Input i of a group meets input i + 16: quad q meets quad q + 4.
#pragma once

#include "matmul/matmul-inl.h"

namespace abaci {
namespace {

// Of 16 outputs and one group, or 8 outputs and two, int16 in the two halves of each lane: the sum of the codes, and of
// b (a - 128).
struct alignas(64) CrossedCodes {
    int32_t of[16];
};

// From eight registers of codes, one for each quad; get(Index) yields them.
template <class Get>
ABACI_INLINE void sum_crossed_codes(Get get, CrossedCodes& out) {
    I32x16 sum = splat(0), crossed = splat(0);
    four_quads<0>([&](auto index) __attribute__((always_inline)) {
        constexpr int quad = decltype(index)::value;
        add_crossed_codes(get(index), get(Index<quad + 4>()), sum, crossed);
    });
    store(reinterpret_cast<float*>(out.of), as_floats(bit_or(bit_and(sum, splat(0xFFFF)), shift_left<16>(crossed))));
}

}  // namespace
}  // namespace abaci

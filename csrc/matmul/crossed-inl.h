// Half the multiplications of a dot product for twice the additions (Winograd, A New Algorithm for Inner Product, IEEE
// Transactions on Computers C-17, 1968), for processors that add bytes on units of their own while they multiply.
//
// Of two inputs x and y of a row, and two codes a and b of an output,
//   (x + b) (y + a) = x a + y b + x y + a b
// One product of two sums holds both products that are wanted. What it holds besides belongs to the row alone or to
// the output alone, and is made once for each. In integers this is exact, so results are those of plain products.
//
// The sums must fit the operands of an int8 product, of which one is unsigned. As activations are quantised
// (quantise_group), x lies in [-127, 113], and codes of 4 bits in [0, 15]: X = x + 127 (kCrossedFirst) and Y = y - 1
// (kCrossedSecond) leave room for them. What that adds is in the products of a row of zeros as well, where X = 127 and
// Y = -1:
//   sum(x a + y b) = sum((X + b) (Y + a)) - sum(X Y) - (the same of a row of zeros)
//
// Of a group's eight quads, quad q < kCrossedQuads meets quad q + 4. The others are multiplied as they are: a quarter
// of plain products keeps the units that multiply as busy as those that add.
#pragma once

#include "matmul/matmul-inl.h"

namespace abaci {
namespace {

constexpr int kCrossedQuads = 3;
// With fewer rows, what is made for the outputs costs more than it saves.
constexpr int kFewestCrossedRows = 13;

// Of 16 outputs and two groups, in two parts: the crossed products of a row of zeros.
struct alignas(64) CrossedCodes {
    int32_t of_zeros[2][16];
};

}  // namespace
}  // namespace abaci

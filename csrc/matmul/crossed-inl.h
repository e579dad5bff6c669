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

#include "matmul/layout.h"
#include "runs-inl.h"

namespace abaci {
namespace {

constexpr int kCrossedQuads = 3;
// With fewer rows, what is made for the outputs costs more than it saves.
constexpr int kFewestCrossedRows = 13;

// Calls step(Index) for four quads, in order, unrolled.
template <int First, class Step>
ABACI_INLINE void four_quads(Step step) {
    step(Index<First>());
    step(Index<First + 1>());
    step(Index<First + 2>());
    step(Index<First + 3>());
}

ABACI_INLINE bool is_worth_crossing(int64_t num_rows) {
    return num_rows >= kFewestCrossedRows && prefers_crossed_products();
}

// Unpacks the codes of 16 outputs and a group, or of 8 and two, before the first is multiplied: codes [quad][part], and
// the crossed products of a row of zeros; unpack(Index) yields the codes of a quad.
template <class Unpack>
ABACI_INLINE void unpack_crossed(uint8_t (&codes)[8][2][64], int32_t (&of_zeros)[2][16], int part, Unpack unpack) {
    I32x16 sum = splat(0);
    four_quads<0>([&](auto index) __attribute__((always_inline)) {
        constexpr int quad = decltype(index)::value;
        const auto first = unpack(index), second = unpack(Index<quad + 4>());
        store_bytes(codes[quad][part], first);
        store_bytes(codes[quad + 4][part], second);
        if constexpr (quad < kCrossedQuads) sum = dot_crossed_zeros(sum, first, second);
    });
    store(of_zeros[part], sum);
}

// Adds the dot products of a group, from where crossed products start: get(Index, n) yields the codes of a quad for
// dots[..][n], of_row(Index, r) the values, three quads of each half moved.
template <int Rows, int N, class Get, class OfRow>
ABACI_INLINE void add_crossed_quads(I32x16 (&dots)[Rows][N], Get get, OfRow of_row) {
    const auto add_crossed = [&](auto index) __attribute__((always_inline)) {
        const Index<decltype(index)::value + 4> other;
        U8x64 first[N], second[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) first[n] = get(index, n), second[n] = get(other, n);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const Quad x = of_row(index, r), y = of_row(other, r);
#pragma GCC unroll 2
            for (int n = 0; n < N; ++n) dots[r][n] = dot_crossed(dots[r][n], first[n], second[n], x, y);
        }
    };
    const auto add_plain = [&](auto index) __attribute__((always_inline)) {
        U8x64 codes[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) codes[n] = get(index, n);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const Quad a = of_row(index, r);
#pragma GCC unroll 2
            for (int n = 0; n < N; ++n) dots[r][n] = dot(dots[r][n], codes[n], a);
        }
    };
    add_plain(Index<3>());
    add_crossed(Index<0>());
    add_plain(Index<7>());
    add_crossed(Index<1>());
    add_crossed(Index<2>());
}

}  // namespace
}  // namespace abaci

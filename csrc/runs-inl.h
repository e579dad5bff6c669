// Loops whose bodies are compiled for each number of rows.
#pragma once

#include <cstdint>

namespace abaci {
namespace {

template <int N>
struct Index {
    static constexpr int value = N;
};

// Calls pass(Index<rows>, first row) over [begin, end) in runs of at most `most` <= Most <= 8 rows, as even as
// possible; no run has fewer than Least.
template <int Most, int Least = 1, class Pass>
ABACI_INLINE void for_runs(int64_t begin, int64_t end, Pass pass, int most = Most) {
    const int64_t num_runs = (end - begin + most - 1) / most;
    int64_t row = begin;
    for (int64_t run = 0; run < num_runs; ++run) {
        const int64_t left = num_runs - run;
        const int64_t rows = (end - row + left - 1) / left;
        switch (rows) {
            case 1:
                if constexpr (Least <= 1) pass(Index<1>(), row);
                break;
            case 2:
                if constexpr (Least <= 2 && Most >= 2) pass(Index<2>(), row);
                break;
            case 3:
                if constexpr (Least <= 3 && Most >= 3) pass(Index<3>(), row);
                break;
            case 4:
                if constexpr (Least <= 4 && Most >= 4) pass(Index<4>(), row);
                break;
            case 5:
                if constexpr (Least <= 5 && Most >= 5) pass(Index<5>(), row);
                break;
            case 6:
                if constexpr (Least <= 6 && Most >= 6) pass(Index<6>(), row);
                break;
            case 7:
                if constexpr (Least <= 7 && Most >= 7) pass(Index<7>(), row);
                break;
            default:
                if constexpr (Most >= 8) pass(Index<8>(), row);
                break;
        }
        row += rows;
    }
}

}  // namespace
}  // namespace abaci

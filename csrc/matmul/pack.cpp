// From rows as GGUF stores them to packed panels (layout.h). Runs once at load; the same code on every processor.
#include <cmath>
#include <cstring>

#include "matmul/layout.h"

namespace abaci {
namespace {

struct SourceBlock {
    int values;
    int bytes;
};

constexpr SourceBlock source_block(Format format) {
    switch (format) {
        case Format::F32:
            return {1, 4};
        case Format::F16:
            return {1, 2};
        case Format::BF16:
            return {1, 2};
        case Format::Q4_0:
            return {32, 18};
        case Format::Q4_1:
            return {32, 20};
        case Format::Q5_0:
            return {32, 22};
        case Format::Q5_1:
            return {32, 24};
        case Format::Q8_0:
            return {32, 34};
        case Format::Q4_K:
            return {256, 144};
        case Format::Q5_K:
            return {256, 176};
        case Format::Q6_K:
            return {256, 210};
    }
    return {1, 1};
}

template <class T>
T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

template <class T>
void store(uint8_t* p, T value) {
    std::memcpy(p, &value, sizeof value);
}

bool is_finite_f16(const uint8_t* p) {
    return (load<uint16_t>(p) & 0x7C00) != 0x7C00;
}

constexpr uint64_t kLowNibbles = 0x0F0F0F0F0F0F0F0F;

// Bits 0..3 of a byte to bit 0 of four bytes, bits 4..7 to bit 1: two quads of a 1-bit plane.
struct BitPlane {
    uint32_t words[256];
    constexpr BitPlane() : words{} {
        for (int b = 0; b < 256; ++b)
            for (int i = 0; i < 4; ++i) words[b] |= ((b >> i & 1) | (b >> (4 + i) & 1) << 1) << (8 * i);
    }
};
constexpr BitPlane kBitPlane;

// The codes of one group of 32 inputs of one row, in order; Q5_0 and Q5_1 hold the fifth bits apart, as in layout.h.
struct Codes {
    uint64_t eights[4];
    uint32_t fifth_bits = 0;
};

// Nibbles as Q4_0 keeps them: inputs 0..15 in the low halves of 16 bytes, 16..31 in the high halves.
Codes split_nibbles(const uint8_t* p) {
    const uint64_t a = load<uint64_t>(p), b = load<uint64_t>(p + 8);
    return {{a & kLowNibbles, b & kLowNibbles, (a >> 4) & kLowNibbles, (b >> 4) & kLowNibbles}, 0};
}

Codes nibbles_of_32(const uint8_t* p, int shift) {
    Codes codes;
    for (int i = 0; i < 4; ++i) codes.eights[i] = (load<uint64_t>(p + 8 * i) >> shift) & kLowNibbles;
    return codes;
}

// From 32 bits in order of input.
uint32_t fifth_bits(const uint8_t* bits) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word |= kBitPlane.words[bits[i]] << (2 * i);
    return word;
}

// The codes of group `group` (of 8 in a K block, else 0) of a source block.
template <Format F>
Codes read_codes(const uint8_t* block, int group) {
    if constexpr (F == Format::Q4_0) {
        return split_nibbles(block + 2);
    } else if constexpr (F == Format::Q4_1) {
        return split_nibbles(block + 4);
    } else if constexpr (F == Format::Q5_0) {
        Codes codes = split_nibbles(block + 6);
        codes.fifth_bits = fifth_bits(block + 2);
        return codes;
    } else if constexpr (F == Format::Q5_1) {
        Codes codes = split_nibbles(block + 8);
        codes.fifth_bits = fifth_bits(block + 4);
        return codes;
    } else if constexpr (F == Format::Q8_0) {
        Codes codes;
        for (int i = 0; i < 4; ++i) codes.eights[i] = load<uint64_t>(block + 2 + 8 * i) ^ 0x8080808080808080;
        return codes;
    } else if constexpr (F == Format::Q4_K) {
        return nibbles_of_32(block + 16 + 32 * (group / 2), 4 * (group % 2));
    } else if constexpr (F == Format::Q5_K) {
        Codes codes = nibbles_of_32(block + 48 + 32 * (group / 2), 4 * (group % 2));
        for (int i = 0; i < 4; ++i) {
            const uint64_t high = (load<uint64_t>(block + 16 + 8 * i) >> group) & 0x0101010101010101;
            codes.eights[i] |= high << 4;
        }
        return codes;
    } else {
        static_assert(F == Format::Q6_K);
        const int half = group / 4, part = group % 4;
        Codes codes = nibbles_of_32(block + 64 * half + 32 * (part % 2), 4 * (part / 2));
        for (int i = 0; i < 4; ++i) {
            const uint64_t high = (load<uint64_t>(block + 128 + 32 * half + 8 * i) >> (2 * part)) & 0x0303030303030303;
            codes.eights[i] |= high << 4;
        }
        return codes;
    }
}

// Writes one row's codes of a group into the base and high planes.
template <Format F>
void place_codes(const Codes& codes, int output, uint8_t* base) {
    using L = Layout<F>;
    uint32_t quads[8];
    std::memcpy(quads, codes.eights, sizeof quads);
    const int half = output / 16, lane = 4 * (output % 16);
    if constexpr (L::base_bits == 8) {
        for (int q = 0; q < 8; ++q) store(base + 512 * half + 64 * q + lane, quads[q]);
    } else {
        for (int j = 0; j < 4; ++j) {
            const uint32_t low = quads[2 * j] & 0x0F0F0F0F, high = quads[2 * j + 1] & 0x0F0F0F0F;
            store(base + 256 * half + 64 * j + lane, low | high << 4);
        }
        uint8_t* high_plane = base + L::base_bytes;
        if constexpr (L::high_bits == 1) {
            uint32_t bits = codes.fifth_bits;
            if constexpr (L::pairs)
                for (int q = 0; q < 8; ++q) bits |= ((quads[q] >> 4) & 0x01010101) << q;
            store(high_plane + 64 * half + lane, bits);
        }
        if constexpr (L::high_bits == 2) {
            for (int part = 0; part < 2; ++part) {
                uint32_t bits = 0;
                for (int q = 0; q < 4; ++q) bits |= ((quads[4 * part + q] >> 4) & 0x03030303) << (2 * q);
                store(high_plane + 128 * half + 64 * part + lane, bits);
            }
        }
    }
}

// Eight 6-bit scales and minimums from the 12 bytes of Q4_K and Q5_K.
void read_pairs(const uint8_t* q, uint8_t scales[8], uint8_t minimums[8]) {
    for (int i = 0; i < 4; ++i) {
        scales[i] = q[i] & 63;
        minimums[i] = q[i + 4] & 63;
        scales[i + 4] = (q[i + 8] & 15) | (q[i] >> 6) << 4;
        minimums[i + 4] = (q[i + 8] >> 4) | (q[i + 4] >> 6) << 4;
    }
}

void place_pair(uint8_t scale, uint8_t minimum, int output, uint8_t* pairs) {
    pairs[output] = (scale & 15) | (minimum & 15) << 4;
    pairs[32 + output % 16] |= ((scale >> 4) | (minimum >> 4) << 2) << (output < 16 ? 0 : 4);
}

// Writes one row's scales of a record. False where one is not finite.
template <Format F>
bool place_scales(const uint8_t* block, int output, uint8_t* record) {
    using L = Layout<F>;
    if constexpr (L::simple) {
        store(record + 2 * output, load<uint16_t>(block));
        if constexpr (L::has_minimum) store(record + 64 + 2 * output, load<uint16_t>(block + 2));
        return is_finite_f16(block) && (!L::has_minimum || is_finite_f16(block + 2));
    } else if constexpr (L::pairs) {
        store(record + 2 * output, load<uint16_t>(block));
        store(record + 64 + 2 * output, load<uint16_t>(block + 2));
        uint8_t scales[8], minimums[8];
        read_pairs(block + 4, scales, minimums);
        for (int g = 0; g < 8; ++g) place_pair(scales[g], minimums[g], output, record + 128 + 48 * g);
        return is_finite_f16(block) && is_finite_f16(block + 2);
    } else {
        store(record + 2 * output, load<uint16_t>(block + 208));
        for (int s = 0; s < 16; ++s) record[64 + 32 * s + output] = block[192 + s];
        return is_finite_f16(block + 208);
    }
}

template <Format F>
bool pack_quantised(const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin, int64_t panel_end,
                    uint8_t* packed) {
    using L = Layout<F>;
    constexpr SourceBlock block = source_block(F);
    const int64_t num_records = columns / block.values;
    const size_t row_bytes = num_records * block.bytes;
    bool finite = true;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        const int64_t first = panel * kPanel;
        const int64_t used = rows - first < kPanel ? rows - first : kPanel;
        uint8_t* record = packed + panel * num_records * L::record_bytes;
        for (int64_t r = 0; r < num_records; ++r, record += L::record_bytes) {
            if (used < kPanel || L::pairs) std::memset(record, 0, used < kPanel ? L::record_bytes : L::header_bytes);
            for (int64_t output = 0; output < used; ++output) {
                const uint8_t* from = source + (first + output) * row_bytes + r * block.bytes;
                finite &= place_scales<F>(from, output, record);
                for (int g = 0; g < L::groups_per_record; ++g)
                    place_codes<F>(read_codes<F>(from, g), output, record + L::header_bytes + g * L::group_bytes);
            }
        }
    }
    return finite;
}

template <class T>
bool pack_floats(const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin, int64_t panel_end,
                 uint8_t* packed, T exponent_mask) {
    bool finite = true;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        uint8_t* out = packed + panel * columns * kPanel * sizeof(T);
        for (int64_t output = 0; output < kPanel; ++output) {
            const int64_t row = panel * kPanel + output;
            for (int64_t k = 0; k < columns; ++k) {
                const T value = row < rows ? load<T>(source + (row * columns + k) * sizeof(T)) : T(0);
                finite &= (value & exponent_mask) != exponent_mask;
                store(out + (k * kPanel + output) * sizeof(T), value);
            }
        }
    }
    return finite;
}

}  // namespace

size_t source_row_bytes(Format format, int64_t columns) {
    const SourceBlock block = source_block(format);
    return columns / block.values * block.bytes;
}

size_t packed_panel_bytes(Format format, int64_t columns) {
    switch (format) {
        case Format::F32:
            return columns * kPanel * 4;
        case Format::F16:
        case Format::BF16:
            return columns * kPanel * 2;
        case Format::Q4_0:
            return columns / 32 * Layout<Format::Q4_0>::record_bytes;
        case Format::Q4_1:
            return columns / 32 * Layout<Format::Q4_1>::record_bytes;
        case Format::Q5_0:
            return columns / 32 * Layout<Format::Q5_0>::record_bytes;
        case Format::Q5_1:
            return columns / 32 * Layout<Format::Q5_1>::record_bytes;
        case Format::Q8_0:
            return columns / 32 * Layout<Format::Q8_0>::record_bytes;
        case Format::Q4_K:
            return columns / 256 * Layout<Format::Q4_K>::record_bytes;
        case Format::Q5_K:
            return columns / 256 * Layout<Format::Q5_K>::record_bytes;
        case Format::Q6_K:
            return columns / 256 * Layout<Format::Q6_K>::record_bytes;
    }
    return 0;
}

bool pack_panels(Format format, const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin,
                 int64_t panel_end, uint8_t* packed) {
    switch (format) {
        case Format::F32:
            return pack_floats<uint32_t>(source, rows, columns, panel_begin, panel_end, packed, 0x7F800000);
        case Format::F16:
            return pack_floats<uint16_t>(source, rows, columns, panel_begin, panel_end, packed, 0x7C00);
        case Format::BF16:
            return pack_floats<uint16_t>(source, rows, columns, panel_begin, panel_end, packed, 0x7F80);
        case Format::Q4_0:
            return pack_quantised<Format::Q4_0>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q4_1:
            return pack_quantised<Format::Q4_1>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q5_0:
            return pack_quantised<Format::Q5_0>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q5_1:
            return pack_quantised<Format::Q5_1>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q8_0:
            return pack_quantised<Format::Q8_0>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q4_K:
            return pack_quantised<Format::Q4_K>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q5_K:
            return pack_quantised<Format::Q5_K>(source, rows, columns, panel_begin, panel_end, packed);
        case Format::Q6_K:
            return pack_quantised<Format::Q6_K>(source, rows, columns, panel_begin, panel_end, packed);
    }
    return false;
}

}  // namespace abaci

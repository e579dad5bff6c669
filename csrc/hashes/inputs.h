// What the kernels are given to be compared by: numbers of every size, weights of every format; and the hash of
// results.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "kernel_table.h"
#include "matmul/layout.h"

namespace abaci {
namespace {

template <class T>
struct CacheLines {
    using value_type = T;
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
    bool operator==(const CacheLines&) const { return true; }
};
template <class T>
using Buffer = std::vector<T, CacheLines<T>>;
using Floats = Buffer<float>;

// splitmix64 (Steele, Lea & Flood 2014); floats are made without rounding.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t x = state_ += 0x9E3779B97F4A7C15;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
        x = (x ^ x >> 27) * 0x94D049BB133111EB;
        return x ^ x >> 31;
    }
    // In [-1, 1), a multiple of 2^-23.
    float number() { return static_cast<float>(static_cast<int32_t>(bits() >> 40) - (1 << 23)) * 0x1p-23f; }
    Floats numbers(size_t n, float magnitude = 1.0f) {
        Floats x(n);
        for (float& value : x) value = number() * magnitude;
        return x;
    }

  private:
    uint64_t state_;
};

float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Zeros, denormals, the least normal number, where exp ends, what float16 rounds and cannot hold, infinities, no
// number.
Floats extremes() {
    const float above_zero[] = {0.0f,      from_bits(1), from_bits(0x00400000),
                                0x1p-126f, 1e-30f,       2e-8f,
                                6e-8f,     6.1e-5f,      87.29f,
                                87.3f,     87.31f,       88.0f,
                                88.1f,     2049.0f,      65504.0f,
                                65520.0f,  1e30f,        3.4e38f,
                                kInfinity};
    Floats x;
    for (float value : above_zero) x.push_back(value), x.push_back(-value);
    x.push_back(from_bits(0x7FC00000));
    return x;
}

class Hash {
  public:
    // FNV-1a.
    void add(const void* memory, size_t num_bytes) {
        const auto* p = static_cast<const uint8_t*>(memory);
        for (size_t i = 0; i < num_bytes; ++i) value_ = (value_ ^ p[i]) * 0x100000001B3;
    }
    template <class Values>
    void add(const Values& values) {
        add(values.data(), values.size() * sizeof(values[0]));
    }
    uint64_t value() const { return value_; }

  private:
    uint64_t value_ = 0xCBF29CE484222325;
};

// Usual, denormal, the smallest, the largest, zero, about one, of any size.
uint16_t half(int64_t kind, Random& random) {
    const uint64_t bits = random.bits();
    const auto sign = static_cast<uint16_t>(bits & 0x8000), mantissa = static_cast<uint16_t>(bits & 0x3FF);
    const auto any = static_cast<uint16_t>((bits >> 16) % 31 << 10 | mantissa);
    const uint16_t magnitudes[] = {static_cast<uint16_t>(8 << 10 | mantissa),  mantissa, 1, 0x7BFF, 0,
                                   static_cast<uint16_t>(15 << 10 | mantissa), any};
    return sign | magnitudes[kind];
}
void put_half(int64_t kind, Random& random, uint8_t* at) {
    const uint16_t bits = half(kind, random);
    std::memcpy(at, &bits, 2);
}
void put_float(int64_t kind, Random& random, uint8_t* at) {
    const float magnitudes[] = {0.01f, from_bits(0x00300000), 0x1p-126f, 1e15f, 0.0f, 1.0f, 100.0f};
    const float scale = magnitudes[kind] * random.number();
    std::memcpy(at, &scale, 4);
}

void put_scales(Format format, int64_t kind, Random& random, uint8_t* block) {
    constexpr uint8_t exponents[] = {121, 0, 1, 160, 2, 100, 90};
    switch (format) {
        case Format::F32:
            return put_float(kind, random, block);
        case Format::BF16: {
            uint8_t value[4];
            put_float(kind, random, value);
            std::memcpy(block, value + 2, 2);
            return;
        }
        case Format::MXFP4:
            block[0] = exponents[kind];
            return;
        case Format::INT8:
            return put_float(kind, random, block);
        case Format::INT4:
        case Format::INT4_128:
            block[2] %= 17;
            return put_half(kind, random, block);
        case Format::Q6_K:
            return put_half(kind, random, block + 208);
        case Format::Q3_K:
            return put_half(kind, random, block + 108);
        case Format::Q2_K:
            put_half(kind, random, block + 80);
            return put_half(kind, random, block + 82);
        case Format::Q4_1:
        case Format::Q5_1:
        case Format::Q4_K:
        case Format::Q5_K:
            put_half(kind, random, block);
            return put_half(kind, random, block + 2);
        case Format::F16:
        case Format::Q4_0:
        case Format::Q5_0:
        case Format::Q8_0:
        case Format::IQ4_NL:
        case Format::IQ4_XS:
        case Format::IQ3_S:
        case Format::IQ3_XXS:
        case Format::IQ2_S:
        case Format::IQ2_XS:
        case Format::IQ2_XXS:
            return put_half(kind, random, block);
    }
}

// Rows as a file stores them: every code, and scales of every size and sign. Those of a row are of like size, but for
// some rows of every other half panel.
Buffer<uint8_t> stored_rows(Format format, int64_t rows, int64_t columns) {
    const SourceBlock block = source_block(format);
    const int64_t num_blocks = columns / block.values;
    Buffer<uint8_t> stored(rows * num_blocks * block.bytes);
    Random random(static_cast<uint64_t>(format));
    for (uint8_t& byte : stored) byte = static_cast<uint8_t>(random.bits());
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t kind = row % 32 == 5 ? 6 : row % 6;
        for (int64_t i = 0; i < num_blocks; ++i)
            put_scales(format, kind, random, stored.data() + (row * num_blocks + i) * block.bytes);
    }
    return stored;
}

}  // namespace
}  // namespace abaci

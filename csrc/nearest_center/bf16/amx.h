// Scores by AMX: 32 rows x 32 centers in four accumulator tiles of 16 x 16, tdpbf16ps adding 32
// columns at a time. With SSK_EMULATE_AMX the same code runs on tiles in plain C++, so that its
// packing, its loop and its bound can be tested on any machine.
#pragma once

#include "core/convert.h"
#include "nearest_center/bf16/rows.h"
#include "nearest_center/filter.h"

#if !defined(SSK_EMULATE_AMX)
#include <immintrin.h>
#endif

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int kTileRows = 16;     // rows of an accumulator; columns too, in fp32
constexpr int kTileColumns = 32;  // bf16 elements in a 64-byte tile row
constexpr int kRowTile = 2 * kTileRows, kCenterTile = 2 * kTileRows;
constexpr int kVectors = kCenterTile / kF32Lanes;
constexpr int kDepthAlign = kTileColumns;
constexpr int kSumStep = kTileColumns;  // an accumulator takes one partial sum per 32 columns

// Tiles 0-3: sums (row half, center half); 4, 5: rows; 6, 7: centers. Strides in bytes.
#if !defined(SSK_EMULATE_AMX)

struct Tiles {
    void zero_sums() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    void load_sums(const float* p00, const float* p01, const float* p10, const float* p11,
                   int64_t stride) {
        _tile_loadd(0, p00, stride);
        _tile_loadd(1, p01, stride);
        _tile_loadd(2, p10, stride);
        _tile_loadd(3, p11, stride);
    }
    void store_sums(float* p00, float* p01, float* p10, float* p11, int64_t stride) {
        _tile_stored(0, p00, stride);
        _tile_stored(1, p01, stride);
        _tile_stored(2, p10, stride);
        _tile_stored(3, p11, stride);
    }
    void load_rows(const uint16_t* top, const uint16_t* bottom, int64_t stride) {
        _tile_loadd(4, top, stride);
        _tile_loadd(5, bottom, stride);
    }
    void load_centers(const uint16_t* left, const uint16_t* right, int64_t stride) {
        _tile_loadd(6, left, stride);
        _tile_loadd(7, right, stride);
    }
    void multiply() {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
};

// The tile registers of this thread, shaped on construction and given back after the last product:
// while they hold state, every context switch saves 8 KiB more.
struct TileSession {
    TileSession() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        asm volatile("" ::"r"(&shape) : "memory");  // the intrinsic admits to reading 8 bytes of 64
        _tile_loadconfig(&shape);
    }
    ~TileSession() { _tile_release(); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;
};

#else

// What the instructions do, as the instruction set reference gives it: even and odd columns are
// summed apart over the 16 pairs, then together, then into the accumulator; subnormals are zero.
struct Tiles {
    using Sums = float[16][16];
    using Pairs = float[2][16][16];  // [column of the pair][tile row][pair]
    Sums sums[4];
    Pairs rows[2], centers[2];

    static float flushed(float x) { return x < 0x1p-126f && x > -0x1p-126f ? 0.0f : x; }
    static void load(Pairs& tile, const uint16_t* p, int64_t stride) {
        for (int r = 0; r < 16; ++r, p += stride / sizeof(uint16_t))
            for (int k = 0; k < 32; ++k) tile[k % 2][r][k / 2] = flushed(to_f32(bf16{p[k]}));
    }
    static void load(Sums& tile, const float* p, int64_t stride) {
        for (int r = 0; r < 16; ++r) std::memcpy(tile[r], p + r * stride / sizeof(float), 64);
    }
    static void store(const Sums& tile, float* p, int64_t stride) {
        for (int r = 0; r < 16; ++r) std::memcpy(p + r * stride / sizeof(float), tile[r], 64);
    }
    void zero_sums() { std::memset(sums, 0, sizeof sums); }
    void load_sums(const float* p00, const float* p01, const float* p10, const float* p11,
                   int64_t stride) {
        load(sums[0], p00, stride);
        load(sums[1], p01, stride);
        load(sums[2], p10, stride);
        load(sums[3], p11, stride);
    }
    void store_sums(float* p00, float* p01, float* p10, float* p11, int64_t stride) {
        store(sums[0], p00, stride);
        store(sums[1], p01, stride);
        store(sums[2], p10, stride);
        store(sums[3], p11, stride);
    }
    void load_rows(const uint16_t* top, const uint16_t* bottom, int64_t stride) {
        load(rows[0], top, stride);
        load(rows[1], bottom, stride);
    }
    void load_centers(const uint16_t* left, const uint16_t* right, int64_t stride) {
        load(centers[0], left, stride);
        load(centers[1], right, stride);
    }
    static void multiply(const Pairs& x, const Pairs& m, float (&sum)[16], int r) {
        float part[2][16] = {};
        for (int odd = 0; odd < 2; ++odd)
            for (int k = 0; k < 16; ++k)
                for (int c = 0; c < 16; ++c)
                    part[odd][c] = flushed(part[odd][c] + x[odd][r][k] * m[odd][k][c]);
        for (int c = 0; c < 16; ++c) sum[c] = flushed(sum[c] + flushed(part[0][c] + part[1][c]));
    }
    void multiply() {
        for (int i = 0; i < 4; ++i)
            for (int r = 0; r < 16; ++r) multiply(rows[i / 2], centers[i % 2], sums[i][r], r);
    }
};

struct TileSession {
    TileSession() {}  // nothing to shape; keeps the two implementations alike
};

#endif

// sums[r][c] (+)= sum_k x[r][k] centers[k][c] over `depth` columns for one tile of rows.
inline void multiply_tile(const uint16_t* x, int64_t leading, const uint16_t* centers,
                          int64_t depth, int64_t /*used*/, float* sums, bool first) {
    constexpr int64_t kSumStride = kCenterTile * sizeof(float);
    constexpr int64_t kCenterStride = 2 * kCenterTile * sizeof(uint16_t);
    float* lower = sums + kTileRows * kCenterTile;
    Tiles tiles;
    // Tile loads do not tell the compiler that they read memory.
    asm volatile("" ::: "memory");
    if (first)
        tiles.zero_sums();
    else
        tiles.load_sums(sums, sums + kTileRows, lower, lower + kTileRows, kSumStride);
    for (int64_t k = 0; k < depth; k += kTileColumns) {
        const uint16_t* c = centers + k * kCenterTile;
        tiles.load_rows(x + k, x + k + kTileRows * leading, leading * sizeof(uint16_t));
        tiles.load_centers(c, c + 2 * kTileRows, kCenterStride);
        tiles.multiply();
    }
    tiles.store_sums(sums, sums + kTileRows, lower, lower + kTileRows, kSumStride);
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk

// Sums over pairs of class means without a C x C matrix: CDNV and the cosines of NC2.
//
// CDNV sums V_ij = (var_i + var_j) / (2 d2_ij), d2 = ||a_i||^2 + ||a_j||^2 - 2 a_i.a_j, over i < j.
// The a are the means less g, the mean of those that are finite, times one power of two that puts
// their largest element into [1/2, 1): V stays, and nothing overflows. Products are taken by blocks
// of the upper triangle, and a block is reduced in float64 as soon as it is there. Three
// precisions:
//
//  (1) fp32, for more than kFew means. u = 2^-24; n = kSteps + D / kSteps is the longest chain
//      of additions that a product passes through. The norms are those of the ROUNDED a, in
//      float64, so rounding the a moves d2 no more than moving both points by u of their norms
//      does: 4 u sqrt(||a||^2 + ||b||^2) / sqrt(d2) of it at most. What cancellation enlarges is
//      the error of the product alone:
//
//        |error of d2| <= 2 gamma_n ||a|| ||b|| <= gamma_n (||a||^2 + ||b||^2), gamma_n ~ n u,
//
//      in the worst case, when all roundings err to one side. They are unbiased: with independent
//      ones (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019) the standard deviation is at most
//      sqrt(n / 3) u of the same, 4e-7 at D = 2048. A pair with d2 > kShare (||a||^2 + ||b||^2),
//      kShare = 1/4, is kept: V is then off by 1.7e-6 (one standard deviation, at the threshold)
//      or less, and the sum of P such pairs by that over sqrt(P). Where the terms are so small that
//      fp32 products underflow (below 2^-90), pairs are not kept either.
//  (2) Pairs that are not kept are taken again from float64 differences of the means, D / 4 times
//      the cost of a product; but where more than 1/kDense of a block is in that case, the block's
//      products are taken again in float64 first.
//  (3) fp64 products: all of it for few means, blocks of (2) else. d2 is good to
//      gamma_n (||a||^2 + ||b||^2) with u = 2^-53; pairs with d2 below kShare64 of that have lost 4
//      of the 16 digits and are taken again from differences.
//
// NC2 sums |cos_ij + 1 / (C - 1)| from means divided by their length: fp32 rounds a cosine by
// 2^-24 or less per rounding and operand, some 1e-8 in all at D = 2048; fp64 for few means.
//
// Blocks are cut by shape alone and their sums added in a fixed order: the same bits for any number
// of threads. Memory: 4 C D bytes for packed fp32 means (none for few), 8 bytes per block of the
// triangle, 0.5 MB per thread.
#pragma once

#include <cstdint>

#include "core/cuts.h"
#include "core/isa.h"

namespace ssk {

// The class means as ClassMoments keeps them: [C, D] contiguous; classes of no rows are left out.
struct MeanTable {
    const double* mean;
    const double* m2;  // null for cosines
    const int64_t* counts;
    int64_t classes, dim;
};

enum class PairSum { cdnv, cosine_gap };

// The sum over the pairs. Cuts: `few`, up to how many means products are in fp64; `super`, the
// blocks on a side of what is gone through before the next; `threads` to put to work. Throws
// std::bad_alloc.
using MeanPairs = double(const MeanTable& means, PairSum sum, int threads, const Cuts& cuts);

SSK_EXPORT(MeanPairs, mean_pairs, VECTORS)

}  // namespace ssk

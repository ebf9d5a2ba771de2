// The nearest center of every row, equal to the argmin of float64 distances, at the speed of a
// low-precision product and without an N x C matrix.
//
// The mathematics. Subtract one vector g (the mean of the centers) from everything and multiply by
// one power of two a: the argmin of ||z - mu_c||^2 stays. With x = a(z - g) and m_c = a(mu_c - g),
//
//     ||x - m_c||^2 = ||x||^2 + 2 S_c,    S_c = ||m_c||^2 / 2 - x.m_c,
//
// so the smallest score S_c wins. A filter computes every score in low precision, s_c, together
// with a bound E_c >= |s_c - S_c|, and keeps the centers with s_c - E_c <= U, where U is the least
// s_c + E_c seen so far (plus the slack T below). Those few are compared by their float64
// distances.
//
// The bound. ^ marks what is stored (bf16 or fp32), p_c the computed product, u = 2^-24.
//   (1) Rounding the operands, by Cauchy-Schwarz:
//       |x.m - x^.m^| <= ||x - x^|| ||m^|| + ||x|| ||m - m^||. Both differences are measured, not
//       assumed: ||x - x^|| while a row is packed, ||m - m^|| / ||m^|| <= rho over all centers.
//       z - g is formed in fp32 (g is an fp32 vector; in float64 for float64 rows): each element
//       off by at most 2^-24 of itself, whatever the offset of the data; a changes nothing.
//   (2) Accumulation: products of two bf16 are exact in fp32. Whatever the order, a sum in which
//       no term passes through more than n additions is off by at most
//       gamma_n sum_d |x^_d m^_d| <= gamma_n ||x^|| ||m^||, gamma_n = n v / (1 - n v). v = 2^-23
//       instead of u also covers hardware that does not round each addition to nearest, and the
//       rounding of fp32 products where there is no fused multiply-add.
//       Sums restart every `sum_step` columns, so n = sum_step + D / sum_step + 2, not D.
//   (3) s_c = fl(b_c - p_c), b_c = fl(||m_c||^2 / 2), and s_c -+ E_c are a few more fp32 roundings:
//       at most 8u (|b_c| + |p_c|) + 4u E_c, with |b_c| <= B ||m^_c|| for B measured.
//   All of it has the shape E_c = A w_c, w_c = ||m^_c|| (at least a floor, below), with A per row:
//       A = ||x - x^|| + ||x|| (rho + gamma_n + 2^-20) + 2^-20 B,
//   all times 1 + 2^-9 + D 2^-23 for the rounding of the fp32 norms themselves.
//   (4) Underflow: bf16 instructions take subnormals as zero and squares below 2^-149 vanish from
//       the norms. a puts max_c ||m_c|| into [1, 2), so that absolute terms of sqrt(D) 2^-62 in
//       both norms of a row, a floor of 2^-60 for w_c and D 2^-100 in T cover it.
//   (5) Overflow: a row whose A is not finite or whose norm passes 2^60 is compared with all
//       centers in float64, and so is everything when the centers' own scale leaves fp32.
//   (6) The reference rounds too: a float64 distance is off by a factor 1 +- gamma, gamma =
//       2^-53 (D + 16), so its argmin c* has S_c* <= S_c + gamma (||x|| + max_c ||m_c||)^2 for
//       every c. Twice that is T, which is added to U; the other half covers the float64 rounding
//       of b_c and of mu_c - g.
// Hence s_c* - E_c* <= S_c* <= S_c + T <= s_c + E_c + T for every c: the argmin is never dropped,
// in whatever order the centers are visited, because U only shrinks towards its final value. All
// this takes the default rounding mode; kernels leave it as they find it.
//
// bf16 rows may be read raw (shift 0, a = 1): then x^ = x, b_c = ||m_c||^2 / 2 + g.m_c, only the
// centers round, and T takes ||x|| + ||g|| + max_c ||m_c||. A sample of rows decides, by the bound.
#pragma once

#include <cstdint>

#include "core/cuts.h"
#include "core/views.h"

namespace ssk {

// out[i] = argmin_c ||z_i - mu_c||^2 with ties to the lowest c; centers with a value that is not
// finite are never chosen; -1 for such rows, and everywhere if no center is left. exact = false
// takes the argmin of the filter's scores. centers: contiguous rows, float32 or float64.
// Cuts: `float64`, 1 to compare all in float64 without a filter; `bf16`, 1 to multiply bf16 where
// the machine does; `tiles` of rows in a filter's block; `raw`, 1 where bf16 rows are to be read
// raw; `chunks` of the centers, where all are compared in float64; `threads` to put to work.
void nearest_center(const MatrixView& z, const MatrixView& centers, bool exact, int threads,
                    const Cuts& cuts, int64_t* out);

}  // namespace ssk

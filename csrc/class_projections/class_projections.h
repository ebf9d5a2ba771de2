// Where the center of its own class stands among all centers for every row, and how the rows of a
// class spread along the lines to the other centers: one product of rows and centers for both, by
// tiles, without an N x C matrix.
//
// The mathematics. Rows are taken in class order. For a row z of class y let r = z - mu_y, and with
// g the mean of the centers v_j = mu_j - g. The projection on the line to another center,
//
//     t_j = r.(mu_j - mu_y) = p_j - p_y,    p_j = r.v_j,
//
// is all that both results need: with d_j = ||mu_j - mu_y||,
//
//     ||z - mu_j||^2 < ||z - mu_y||^2          if and only if  t_j > d_j^2 / 2,
//     ||z - mu_j||^2 < f^2 ||z - mu_y||^2      if and only if  t_j + (f^2 - 1) ||r||^2 / 2 > d_j^2
//     / 2,
//
// the second, with f = n / (n - 1), for a row that has left its class of n; and the spread of class
// y is the sum over its rows and all j != y of (t_j / d_j^2)^2. Nothing large cancels: r is a
// float64 difference, d_j^2 is taken from float64 differences once per class and block of rows, and
// the products are of the size of the scatter, not of the data's offset.
//
// Arithmetic is float32 for the products of float16, bfloat16 and float32 rows, and float64 for
// float64 rows; u is its rounding unit. Operands are scaled by powers of two, v by a and r by b per
// row, so that the largest ||v|| and every ||r|| lie in [1, 2): what follows is in scaled terms.
//
// The bound on the error of t_j - d_j^2 / 2.
//   (1) Rounding r and v to the arithmetic type: 2 u ||r|| ||v_j||.
//   (2) The product, summed in steps of S columns that are added up (gram.h): gamma_n ||r||
//   ||v_j||,
//       n = S + D / S + 2, gamma_n = 2 n u / (1 - 2 n u); 2 u instead of u covers machines without
//       fused multiply-add.
//   (3) p_y is a float64 sum, rounded once; the subtraction rounds t_j, |t_j| <= ||r|| (||v_j|| +
//       ||v_y||). With (1): A ||v_j|| + (4 u + 2^-52 (D + 16)) ||r|| ||v_y|| for
//       A = (gamma_n + 4 u) ||r||.
//   (4) d_j^2 / 2 and the term of a row that has left are float64, rounded once, and the
//   differences
//       round once more: 8 u of each (float64: 8 u + 4 gamma, below).
//   (5) The answer is defined by float64 distances, which round too, by a factor 1 +- gamma, gamma
//   =
//       2^-53 (D + 16): 4 gamma ||r||^2 and 4 gamma of d_j^2 / 2.
//   (6) Underflow: absolute terms, D 2^-100 (float64: D 2^-200) for scaled operands and the
//       D 2^-1072 of unscaled squares. Scales that no such term covers set the bound to infinity.
// The norms are inflated by 2^-10 for their own rounding and that of the bound. A comparison
// outside the bound is decided; one inside is made again between float64 distances from
// differences, which also finds ties: they go to the lowest class. So rank and alone equal those of
// float64 distances.
//
// Where d_j is small beside ||v_j|| and ||v_y|| (2^-5 of them; float64: 2^-12), p_j - p_y would
// lose the digits of t_j. The differences mu_j - mu_y of such pairs are rounded themselves and
// multiplied instead: the bound is then relative to d_j.
//
// Sums of (t_j / d_j^2)^2 run in the arithmetic type over at most 96 centers, then in float64, one
// sum per row; rows are added to their class in their own order. So the bits depend neither on the
// number of threads nor on how rows are cut into blocks.
#pragma once

#include <cstdint>

#include "core/cuts.h"
#include "core/views.h"

namespace ssk {

// z [N, D]; classes [N], -1 to skip a row; centers [C, D] contiguous float64, where a row that is
// not finite throughout is an empty class.
// counts [C], or null: alone is not asked for then.
// between [C, C], or null: ||mu_i - mu_j||^2 to 2^-30 of themselves, 0 where centers coincide; read
// only if rows are not float64.
// rank [N]: centers nearer than the own one, ties to the lowest class; -1 for skipped rows, C where
//   the row, or its own center, is not finite.
// alone [N]: 1 if the own center stays the nearest when the row leaves its class.
// spread [C]: as above, 0 unless `directional`; NaN if a row of the class is not finite or another
//   center coincides with its own.
// Throws std::invalid_argument if a class is outside [-1, C).
// Cuts: `rows` of a block; `threads` to put to work; those of the labels (label_sort.h).
void class_projections(const MatrixView& z, const int64_t* classes, const MatrixView& centers,
                       const int64_t* counts, const double* between, bool directional, int threads,
                       const Cuts& cuts, int64_t* rank, uint8_t* alone, double* spread);

}  // namespace ssk

#include "nearest_center/nearest_center.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/memory.h"
#include "nearest_center/filter.h"
#include "nearest_center/plan.h"

namespace ssk {
namespace {

constexpr int64_t kGroup = 8;               // rows that share a pass over centers in float64
constexpr int64_t kBlockBytes = 400 << 10;  // packed rows of a thread: most of a 512 KiB L2 share
constexpr int64_t kBlockRows = 192;
constexpr double kSmallProblem = 2e6;  // N C D below which packing costs more than it saves
// Elements to prepare, and multiply-adds, below which one more thread costs more than it saves.
constexpr double kPreparedShare = 3e4, kFilteredShare = 1e6, kExactShare = 4e5;
constexpr int64_t kNarrow = 16;  // columns up to which fp32 beats bf16 and its rechecks

struct Problem {
    const MatrixView& z;
    const MatrixView& centers;
    const std::vector<int32_t>& ids;  // usable centers
    const ExactKernel exact;
    int64_t leading;  // columns of a row in float64
};

// Up to kGroup rows against centers ids[first, last); distance is infinite and id -1 for a row that
// is not finite.
void compare_in_float64(const Problem& p, const int64_t* rows, int64_t n, int64_t first,
                        int64_t last, double* staging, double* distance, int64_t* id) {
    p.exact.load(p.z, rows, n, staging, p.leading);
    p.exact.nearest(staging, p.leading, n, p.centers, p.ids.data() + first, last - first, distance,
                    id);
    for (int64_t r = 0; r < n; ++r)
        if (!all_finite(staging + r * p.leading, p.z.cols)) {
            distance[r] = std::numeric_limits<double>::infinity();
            id[r] = -1;
        }
}

// Every distance in float64. Few rows are split over the centers as well.
void nearest_in_float64(const Problem& p, int threads, const Cuts& cuts, int64_t* out) {
    const int64_t count = static_cast<int64_t>(p.ids.size());
    const int64_t groups = (p.z.rows + kGroup - 1) / kGroup;
    const int64_t chunks = cuts(
        "chunks", groups >= threads ? 1 : std::clamp<int64_t>(count / 64, 1, threads), 1, count);
    const double work = static_cast<double>(p.z.rows) * count * p.z.cols;
    const int team = cuts.threads(work / kExactShare, threads);
    const Array<double> distance(chunks * p.z.rows);
    const Array<int64_t> id(chunks * p.z.rows);
    const Array<double> staging(team * kGroup * p.leading);
#pragma omp parallel for num_threads(team) schedule(dynamic) collapse(2)
    for (int64_t group = 0; group < groups; ++group)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t n = std::min(kGroup, p.z.rows - group * kGroup);
            int64_t rows[kGroup];
            for (int64_t r = 0; r < n; ++r) rows[r] = group * kGroup + r;
            const int64_t at = chunk * p.z.rows + group * kGroup;
            compare_in_float64(p, rows, n, count * chunk / chunks, count * (chunk + 1) / chunks,
                               staging.get() + omp_get_thread_num() * kGroup * p.leading,
                               distance.get() + at, id.get() + at);
        }
    for (int64_t i = 0; i < p.z.rows; ++i) {
        int64_t best = i;
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
            if (distance[chunk * p.z.rows + i] < distance[best]) best = chunk * p.z.rows + i;
        out[i] = id[best];
    }
}

// All scratch of one thread.
struct Workspace {
    Array<char> x;
    Array<float> floats, low;
    Array<int32_t> ints;
    Array<double> rows64;
    RowBlock block{};

    Workspace(const FilterPlan& plan, int64_t rows, int64_t leading64)
        : x(rows * (plan.depth + pad(plan)) * element(plan)),
          floats(16 * kDepthBlock + rows * (plan.shape.center_tile + 3)),
          low(rows * kMaxCandidates),
          ints(rows * (kMaxCandidates + 1)),
          rows64(kGroup * leading64) {
        block.x = x.get();
        block.leading = plan.depth + pad(plan);
        block.staging = floats.get();
        block.sums = block.staging + 16 * kDepthBlock;
        std::fill_n(block.sums, rows * plan.shape.center_tile, 0.0f);
        block.slope = block.sums + rows * plan.shape.center_tile;
        block.slack = block.slope + rows;
        block.best = block.slack + rows;
        block.index = ints.get();
        block.count = block.index + rows * kMaxCandidates;
        block.low = low.get();
    }
    static int64_t element(const FilterPlan& plan) { return plan.shape.bf16 ? 2 : 4; }
    static int64_t pad(const FilterPlan& plan) { return 64 / element(plan); }  // one cache line
};

// The filter left several candidates for some rows of a block, or gave up on a row.
void decide(const Problem& p, bool exact, int64_t first, int64_t rows, Workspace& ws,
            int64_t* out) {
    double distance[kGroup];
    int64_t id[kGroup], open[kGroup];
    int64_t waiting = 0;
    const auto flush = [&] {
        if (waiting == 0) return;
        compare_in_float64(p, open, waiting, 0, static_cast<int64_t>(p.ids.size()), ws.rows64.get(),
                           distance, id);
        for (int64_t k = 0; k < waiting; ++k) out[open[k]] = id[k];
        waiting = 0;
    };
    for (int64_t r = 0; r < rows; ++r) {
        const int32_t count = ws.block.count[r];
        int32_t* found = ws.block.index + r * kMaxCandidates;
        const int64_t row = first + r;
        if (count == 1 || (count > 0 && !exact)) {
            out[row] = p.ids[found[0]];
        } else if (count > 1) {
            for (int32_t i = 0; i < count; ++i) found[i] = p.ids[found[i]];
            p.exact.load(p.z, &row, 1, ws.rows64.get(), p.leading);
            p.exact.nearest(ws.rows64.get(), p.leading, 1, p.centers, found, count, distance, id);
            out[row] = id[0];
        } else {
            open[waiting++] = row;
            if (waiting == kGroup) flush();
        }
    }
    flush();
}

void nearest_filtered(const Problem& p, const FilterKernel& filter, const FilterPlan& plan,
                      int threads, const Cuts& cuts, int64_t* out) {
    const int64_t tile = plan.shape.row_tile;
    const auto tiled = [&](int64_t rows) { return (rows + tile - 1) / tile * tile; };
    const int64_t fitting = kBlockBytes / (plan.depth * Workspace::element(plan)) / tile * tile;
    const int64_t share = tiled((p.z.rows + threads - 1) / threads);
    const int64_t chosen = std::min(share, std::clamp(fitting, tile, tiled(kBlockRows)));
    const int64_t rows = cuts("tiles", chosen / tile, 1, tiled(kBlockRows) / tile) * tile;
    const int64_t blocks = (p.z.rows + rows - 1) / rows;
    const int team = static_cast<int>(std::min<int64_t>(blocks, threads));
    std::vector<Workspace> workspaces;
    workspaces.reserve(team);
    for (int t = 0; t < team; ++t) workspaces.emplace_back(plan, rows, p.leading);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
        Workspace& ws = workspaces[omp_get_thread_num()];
        const int64_t first = b * rows, n = std::min(rows, p.z.rows - first);
        filter.scan(plan, p.z, first, n, ws.block);
        decide(p, plan.exact, first, n, ws, out);
    }
}

}  // namespace

void nearest_center(const MatrixView& z, const MatrixView& centers, bool exact, int threads,
                    const Cuts& cuts, int64_t* out) {
    const double elements = static_cast<double>(centers.rows) * centers.cols;
    const double work = elements * static_cast<double>(z.rows);
    const bool direct = cuts("float64", work < kSmallProblem, 0, 1) != 0;
    const bool low = cuts("bf16", z.cols > kNarrow, 0, 1) != 0;
    if (z.rows == 0) return;
    const int preparing = cuts.threads(elements / kPreparedShare, threads);
    const std::vector<int32_t> ids = usable_centers(centers, preparing);
    if (ids.empty()) {
        std::fill(out, out + z.rows, -1);
        return;
    }
    const Problem problem{z, centers, ids, nearest_center_exact()(), (z.cols + 7) / 8 * 8};
    if (!direct) {
        auto* const bf16 = low ? nearest_center_filter_bf16() : nullptr;
        const FilterKernel filter = bf16 ? bf16() : nearest_center_filter()();
        const PreparedCenters prepared =
            prepare_centers(z, centers, ids, filter.shape, exact, preparing, cuts);
        const int scanning = cuts.threads(work / kFilteredShare, threads);
        if (prepared.filterable)
            return nearest_filtered(problem, filter, prepared.plan, scanning, cuts, out);
    }
    nearest_in_float64(problem, threads, cuts, out);
}

}  // namespace ssk

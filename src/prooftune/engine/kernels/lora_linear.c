/* LoRA linear layers that read one input, forward and backward, for bfloat16 or float32 arrays. The
 * adapter's contribution is added while the accumulators of the frozen matmul are in registers.
 * Called by lora_linear.py. All sums are float32, in an order that does not depend on the number of
 * threads. */
#include "lora_matmuls.h"

/* `_LoraLayers` of lora_linear.py: layers on x [n][depth]. Each has frozen weights [width][depth]
 * and an adapter with A (`downs`) [rank][depth] and B (`ups`) [width][rank]. depth and widths are
 * multiples of 32, ranks of 8. */
typedef struct {
    long n, depth, count;
    const long *widths, *ranks;
    float scaling;
    const real_t *x, *const *weights;
    const float *const *downs, *const *ups;
} lora_layers_t;

static long sum(const long *values, long count)
{
    long total = 0;
    for (long i = 0; i < count; i++) total += values[i];
    return total;
}

/* ---- wide matmuls of a task: some panels of columns from j on ---- */

/* Packs frozen weights of a layer as panels of columns: `size` rows from k on, columns from j on.
 */
typedef void pack_t(const lora_layers_t *g, long layer, long k, long size, long j, long panels,
                    pair_t *to);

/* Columns are outputs of the layer. */
static void pack_outputs(const lora_layers_t *g, long layer, long k, long size, long j, long panels,
                         pair_t *to)
{
    pack_transposed(g->weights[layer] + j * g->depth + k, g->depth, panels * PANEL, size, to);
}

/* Columns are inputs of the layer. */
static void pack_inputs(const lora_layers_t *g, long layer, long k, long size, long j, long panels,
                        pair_t *to)
{
    const real_t *from = g->weights[layer] + k * g->depth + j;
    /* A few rows at a time: several panels of them are near in memory. */
    for (long row = 0; row < size; row += PANEL)
        for (long i = 0; i < panels; i++)
            pack_pairs(from + row * g->depth + i * PANEL, g->depth, min(PANEL, size - row), PANEL,
                       to + (i * size + row) / PAIR * PANEL, PANEL);
}

/* Rows `first` to `last` of a wide matmul with the weights of layers from `layer` on; `packed` is
 * memory for `packed_size` values. */
static void multiply_weights(const lora_layers_t *g, const wide_t *w, pack_t *pack, long layer,
                             long first, long last, long j, long panels, const pair_t *up,
                             pair_t *packed)
{
    pair_t *to = packed;
    for (long p = 0; p < w->arrays; p++) {
        const long depth = w->sizes[p], blocks = (depth + DEPTH_BLOCK - 1) / DEPTH_BLOCK,
                   block = round_up_to_panel((depth + blocks - 1) / blocks);
        for (long k = 0; k < depth; k += block) {
            const long size = min(block, depth - k);
            pack(g, layer + p, k, size, j, panels, to);
            if (SPLIT_DEPTH) {
                const real_t *a = w->a[p] + k;
                wide_t part = *w;
                part.arrays = 1, part.a = &a, part.sizes = &size, part.strides = w->strides + p;
                wide_matmul(&part, first, last, panels, packed, size / PAIR * PANEL, up,
                            p == 0 && k == 0, p == w->arrays - 1 && k + size == depth);
            } else to += size / PAIR * PANEL;
        }
    }
    if (!SPLIT_DEPTH) wide_matmul(w, first, last, panels, packed, to - packed, up, 1, 1);
}

static long packed_size(long depth)
{
    return TASK_PANELS * PANEL * min(depth, DEPTH_BLOCK);
}

/* Number of tasks for all columns of a matrix. */
static long column_tasks(long columns)
{
    return (columns + TASK_PANELS * PANEL - 1) / (TASK_PANELS * PANEL);
}

/* ---- layers ---- */

/* hidden [n][total rank] = scaling x downᵀ, the adapters side by side; and, unless `outs` is NULL,
 * for every layer out [n][width] = round(x weightsᵀ) + hidden upᵀ. Returns 1 if memory runs out. */
int lora_forward(const lora_layers_t *layers, real_t *hidden, real_t *const *outs, long threads)
{
    const lora_layers_t g = *layers;
    const long rank = sum(g.ranks, g.count), packed_rank = round_up_to_vector(rank);
    long tasks = 0;
    for (long i = 0; i < g.count; i++) tasks += column_tasks(g.widths[i]);
    const long blocks = row_blocks(g.n, tasks, threads),
               height = (g.n + blocks * TILE_ROWS - 1) / (blocks * TILE_ROWS) * TILE_ROWS;
    pair_t *downs = alloc(sizeof(real_t) * g.depth * packed_rank);
    int failed = !downs;
    if (failed) return failed;
    memset(downs, 0, sizeof(real_t) * g.depth * packed_rank);
#pragma omp parallel num_threads((int)threads)
    {
        pair_t *packed = alloc(sizeof(real_t) * packed_size(g.depth)),
               *up = alloc(sizeof(real_t) * TASK_PANELS * PANEL * rank);
        real_t *scratch = alloc(sizeof(real_t) * (g.depth > rank ? g.depth : rank));
        const int allocated = packed && up && scratch;
        if (!allocated)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(static)
        for (long row = 0; row < rank; row++) {
            long i = 0, at = row;
            for (; at >= g.ranks[i]; i++) at -= g.ranks[i];
            if (allocated)
                pack_rows_as_columns(g.downs[i] + at * g.depth, 1, g.depth, scratch, downs + row,
                                     packed_rank);
        }
#pragma omp for schedule(static)
        for (long i = 0; i < g.n; i += NARROW_ROWS)
            narrow_matmul(min(NARROW_ROWS, g.n - i), (const pair_t *)(g.x + i * g.depth), downs,
                          g.depth / PAIR, rank, g.scaling, hidden + i * rank, rank);
        if (outs) {
#pragma omp for schedule(dynamic)
            for (long task = 0; task < blocks * tasks; task++) {
                long i = 0, j = task % tasks, first = task / tasks * height, at = 0;
                for (; j >= column_tasks(g.widths[i]); i++)
                    j -= column_tasks(g.widths[i]), at += g.ranks[i];
                if (!allocated) continue;
                j *= TASK_PANELS * PANEL;
                const long columns = min(TASK_PANELS * PANEL, g.widths[i] - j);
                for (long k = 0; k < columns; k += PANEL)
                    pack_rows_as_columns(g.ups[i] + (j + k) * g.ranks[i], PANEL, g.ranks[i],
                                         scratch, up + k * g.ranks[i] / PAIR, PANEL);
                const wide_t w = {1,    &g.x,       &g.depth,    &g.depth,   hidden + at,
                                  rank, g.ranks[i], outs[i] + j, g.widths[i]};
                multiply_weights(&g, &w, pack_outputs, i, first, min(g.n, first + height), j,
                                 columns / PANEL, up, packed);
            }
        }
        free(packed), free(up), free(scratch);
    }
    free(downs);
    return failed;
}

/* From the gradients of the outs: grad_hidden [n][total rank] = scaling grads up; unless `grad_x`
 * is NULL, grad_x = round(sum of grads weights) + grad_hidden down; for every layer grad_down (A) =
 * grad_hiddenᵀ x and grad_up (B) = gradsᵀ hidden, in float32. Returns 1 if memory runs out. */
int lora_backward(const lora_layers_t *layers, const real_t *hidden, const real_t *const *grads,
                  real_t *grad_hidden, real_t *grad_x, float *const *grad_downs,
                  float *const *grad_ups, long threads)
{
    const lora_layers_t g = *layers;
    const long rank = sum(g.ranks, g.count), width = sum(g.widths, g.count),
               pairs = round_up_to_panel(g.n) / PAIR;
    const long tasks = column_tasks(g.depth), blocks = row_blocks(g.n, tasks, threads);
    const long height = (g.n + blocks * TILE_ROWS - 1) / (blocks * TILE_ROWS) * TILE_ROWS;
    long ups_at[g.count + 1];
    ups_at[0] = 0;
    for (long i = 0; i < g.count; i++)
        ups_at[i + 1] = ups_at[i] + g.widths[i] / PAIR * round_up_to_vector(g.ranks[i]);
    pair_t *ups = alloc(4 * ups_at[g.count]), *hidden_pairs = alloc(4 * rank * pairs),
           *grad_pairs = alloc(4 * rank * pairs);
    int failed = !ups || !hidden_pairs || !grad_pairs;
    if (failed) {
        free(ups), free(hidden_pairs), free(grad_pairs);
        return failed;
    }
    memset(ups, 0, 4 * ups_at[g.count]);
#pragma omp parallel num_threads((int)threads)
    {
        pair_t *packed = alloc(sizeof(real_t) * packed_size(width)),
               *down = alloc(sizeof(real_t) * TASK_PANELS * PANEL * rank);
        real_t *scratch = alloc(sizeof(real_t) * PAIR * rank);
        float *sums = alloc(4 * REDUCTION_COLUMNS * rank);
        const int allocated = packed && down && scratch && sums;
        if (!allocated)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(static)
        for (long task = 0; task < width / PANEL; task++) {
            long i = 0, j = task * PANEL;
            for (; j >= g.widths[i]; i++) j -= g.widths[i];
            if (allocated)
                pack_row_pairs(g.ups[i], g.ranks[i], j, j + PANEL, scratch, ups + ups_at[i]);
        }
#pragma omp for schedule(static)
        for (long first = 0; first < PAIR * pairs; first += NARROW_ROWS) {
            const long rows = min(NARROW_ROWS, g.n - first), k = first / PAIR,
                       last = min(k + NARROW_ROWS / PAIR, pairs);
            for (long i = 0, at = 0; i < g.count && rows > 0; at += g.ranks[i++])
                narrow_matmul(rows, (const pair_t *)(grads[i] + first * g.widths[i]),
                              ups + ups_at[i], g.widths[i] / PAIR, g.ranks[i], g.scaling,
                              grad_hidden + first * rank + at, rank);
            pack_reduction(grad_hidden, rank, g.n, rank, k, last, grad_pairs);
            pack_reduction(hidden, rank, g.n, rank, k, last, hidden_pairs);
        }
        if (grad_x) {
#pragma omp for schedule(dynamic) nowait
            for (long task = 0; task < blocks * tasks; task++) {
                const long j = task % tasks * TASK_PANELS * PANEL, first = task / tasks * height;
                const long panels = min(TASK_PANELS, (g.depth - j) / PANEL);
                pair_t *to = down;
                if (!allocated) continue;
                for (long panel = 0; panel < panels; panel++)
                    for (long i = 0; i < g.count; i++)
                        for (long k = 0; k < g.ranks[i]; k += PAIR, to += PANEL)
                            pack_float_rows(g.downs[i] + k * g.depth + j + panel * PANEL, g.depth,
                                            to);
                const wide_t w = {g.count, grads, g.widths,   g.widths, grad_hidden,
                                  rank,    rank,  grad_x + j, g.depth};
                multiply_weights(&g, &w, pack_inputs, 0, first, min(g.n, first + height), j, panels,
                                 down, packed);
            }
        }
#pragma omp for schedule(dynamic) nowait
        for (long j = 0; j < g.depth; j += REDUCTION_COLUMNS) {
            if (!allocated) continue;
            reduce_columns(grad_pairs, g.n, rank, g.x + j, g.depth, sums);
            for (long i = 0, at = 0; i < g.count; at += g.ranks[i++])
                for (long k = 0; k < g.ranks[i]; k++)
                    memcpy(grad_downs[i] + k * g.depth + j, sums + (at + k) * REDUCTION_COLUMNS,
                           4 * REDUCTION_COLUMNS);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < width / REDUCTION_COLUMNS; task++) {
            long i = 0, j = task * REDUCTION_COLUMNS, at = 0;
            for (; j >= g.widths[i]; i++) j -= g.widths[i], at += g.ranks[i];
            if (!allocated) continue;
            reduce_columns(hidden_pairs + at * pairs, g.n, g.ranks[i], grads[i] + j, g.widths[i],
                           sums);
            for (long column = 0; column < REDUCTION_COLUMNS; column++)
                for (long k = 0; k < g.ranks[i]; k++)
                    grad_ups[i][(j + column) * g.ranks[i] + k] =
                        sums[k * REDUCTION_COLUMNS + column];
        }
        free(packed), free(down), free(scratch), free(sums);
    }
    free(ups), free(hidden_pairs), free(grad_pairs);
    return failed;
}

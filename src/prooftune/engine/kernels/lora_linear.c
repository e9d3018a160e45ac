/* LoRA linear layers that read one input, forward and backward, for x86 CPUs with AVX512-BF16. The
 * adapter's contribution is added while the accumulators of the frozen matmul are in registers.
 * Called by lora_linear.py. All sums are float32. */
#include "lora_matmuls.h"

/* `_LoraLayers` of lora_linear.py: layers on x [n][depth]. Each has frozen weights [width][depth]
 * and an adapter with A (`downs`) [rank][depth] and B (`ups`) [width][rank]. depth and widths are
 * multiples of 32, ranks of 8. */
typedef struct {
    long n, depth, count;
    const long *widths, *ranks;
    float scaling;
    const bf16_t *x, *const *weights;
    const float *const *downs, *const *ups;
} lora_layers_t;

static long sum(const long *values, long count)
{
    long total = 0;
    for (long i = 0; i < count; i++) total += values[i];
    return total;
}

/* ---- layers ---- */

/* hidden [n][total rank] = scaling x downᵀ, the adapters side by side; and, unless `outs` is NULL,
 * for every layer out [n][width] = round(x weightsᵀ) + hidden upᵀ. Returns 1 if memory runs out. */
int lora_forward(const lora_layers_t *layers, bf16_t *hidden, bf16_t *const *outs, long threads)
{
    const lora_layers_t g = *layers;
    const long rank = sum(g.ranks, g.count), packed_rank = round_up_to_vector(rank),
               panels = sum(g.widths, g.count) / PANEL;
    const long blocks = row_blocks(g.n, panels, threads),
               height = (g.n + blocks * TILE_ROWS - 1) / (blocks * TILE_ROWS) * TILE_ROWS;
    bf16x2_t *downs = alloc(2 * g.depth * packed_rank);
    int failed = !downs;
    if (failed) return failed;
    memset(downs, 0, 2 * g.depth * packed_rank);
#pragma omp parallel num_threads((int)threads)
    {
        bf16x2_t *panel = alloc(2 * PANEL * g.depth), *up = alloc(2 * PANEL * rank);
        bf16_t *scratch = alloc(2 * (g.depth > rank ? g.depth : rank));
        const int allocated = panel && up && scratch;
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
        for (long i = 0; i < g.n; i += VECTOR)
            narrow_matmul(min(VECTOR, g.n - i), (const bf16x2_t *)(g.x + i * g.depth), downs,
                          g.depth / 2, rank, g.scaling, hidden + i * rank, rank);
        if (outs) {
#pragma omp for schedule(dynamic)
            for (long task = 0; task < blocks * panels; task++) {
                long i = 0, j = task % panels * PANEL, first = task / panels * height, at = 0;
                for (; j >= g.widths[i]; i++) j -= g.widths[i], at += g.ranks[i];
                if (!allocated) continue;
                pack_transposed(g.weights[i] + j * g.depth, g.depth, PANEL, g.depth, panel);
                pack_rows_as_columns(g.ups[i] + j * g.ranks[i], PANEL, g.ranks[i], scratch, up,
                                     PANEL);
                wide_matmul(first, min(g.n, first + height), &g.x, &g.depth, 1, panel, hidden + at,
                            rank, up, g.ranks[i] / 2, outs[i] + j, g.widths[i]);
            }
        }
        free(panel), free(up), free(scratch);
    }
    free(downs);
    return failed;
}

/* From the gradients of the outs: grad_hidden [n][total rank] = scaling grads up; unless `grad_x`
 * is NULL, grad_x = round(sum of grads weights) + grad_hidden down; for every layer grad_down (A) =
 * grad_hiddenᵀ x and grad_up (B) = gradsᵀ hidden, in float32. Returns 1 if memory runs out. */
int lora_backward(const lora_layers_t *layers, const bf16_t *hidden, const bf16_t *const *grads,
                  bf16_t *grad_hidden, bf16_t *grad_x, float *const *grad_downs,
                  float *const *grad_ups, long threads)
{
    const lora_layers_t g = *layers;
    const long rank = sum(g.ranks, g.count), width = sum(g.widths, g.count),
               pairs = round_up_to_panel(g.n) / 2;
    const long panels = g.depth / PANEL, blocks = row_blocks(g.n, panels, threads);
    const long height = (g.n + blocks * TILE_ROWS - 1) / (blocks * TILE_ROWS) * TILE_ROWS;
    long ups_at[g.count + 1];
    ups_at[0] = 0;
    for (long i = 0; i < g.count; i++)
        ups_at[i + 1] = ups_at[i] + g.widths[i] / 2 * round_up_to_vector(g.ranks[i]);
    bf16x2_t *ups = alloc(4 * ups_at[g.count]), *hidden_pairs = alloc(4 * rank * pairs),
             *grad_pairs = alloc(4 * rank * pairs);
    int failed = !ups || !hidden_pairs || !grad_pairs;
    if (failed) {
        free(ups), free(hidden_pairs), free(grad_pairs);
        return failed;
    }
    memset(ups, 0, 4 * ups_at[g.count]);
#pragma omp parallel num_threads((int)threads)
    {
        bf16x2_t *panel = alloc(2 * PANEL * width), *down = alloc(2 * PANEL * rank);
        bf16_t *scratch = alloc(2 * (2 * rank > PANEL ? 2 * rank : PANEL)),
               *down_rows = alloc(2 * 2 * PANEL);
        float *sums = alloc(4 * PANEL * rank);
        const int allocated = panel && down && scratch && down_rows && sums;
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
        for (long k = 0; k < pairs; k += VECTOR) {
            long first = 2 * k, rows = min(2 * VECTOR, g.n - first);
            for (long i = 0, at = 0; i < g.count && rows > 0; at += g.ranks[i++])
                narrow_matmul(rows, (const bf16x2_t *)(grads[i] + first * g.widths[i]),
                              ups + ups_at[i], g.widths[i] / 2, g.ranks[i], g.scaling,
                              grad_hidden + first * rank + at, rank);
            pack_reduction(grad_hidden, rank, g.n, rank, k, k + VECTOR, grad_pairs);
            pack_reduction(hidden, rank, g.n, rank, k, k + VECTOR, hidden_pairs);
        }
        if (grad_x) {
#pragma omp for schedule(dynamic) nowait
            for (long task = 0; task < blocks * panels; task++) {
                const long j = task % panels * PANEL, first = task / panels * height;
                bf16x2_t *to = panel;
                if (!allocated) continue;
                for (long i = 0; i < g.count; to += g.widths[i++] / 2 * PANEL)
                    pack_pairs(g.weights[i] + j, g.depth, g.widths[i], PANEL, to, PANEL);
                to = down;
                for (long i = 0; i < g.count; i++)
                    for (long k = 0; k < g.ranks[i]; k += 2, to += PANEL) {
                        to_bf16(g.downs[i] + k * g.depth + j, PANEL, down_rows);
                        to_bf16(g.downs[i] + (k + 1) * g.depth + j, PANEL, down_rows + PANEL);
                        interleave_rows(down_rows, down_rows + PANEL, to);
                    }
                wide_matmul(first, min(g.n, first + height), grads, g.widths, g.count, panel,
                            grad_hidden, rank, down, rank / 2, grad_x + j, g.depth);
            }
        }
#pragma omp for schedule(dynamic) nowait
        for (long j = 0; j < g.depth; j += PANEL) {
            if (!allocated) continue;
            reduce_panel(grad_pairs, g.n, rank, g.x + j, g.depth, sums);
            for (long i = 0, at = 0; i < g.count; at += g.ranks[i++])
                for (long k = 0; k < g.ranks[i]; k++)
                    memcpy(grad_downs[i] + k * g.depth + j, sums + (at + k) * PANEL, 4 * PANEL);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < width / PANEL; task++) {
            long i = 0, j = task * PANEL, at = 0;
            for (; j >= g.widths[i]; i++) j -= g.widths[i], at += g.ranks[i];
            if (!allocated) continue;
            reduce_panel(hidden_pairs + at * pairs, g.n, g.ranks[i], grads[i] + j, g.widths[i],
                         sums);
            for (long column = 0; column < PANEL; column++)
                for (long k = 0; k < g.ranks[i]; k++)
                    grad_ups[i][(j + column) * g.ranks[i] + k] = sums[k * PANEL + column];
        }
        free(panel), free(down), free(scratch), free(down_rows), free(sums);
    }
    free(ups), free(hidden_pairs), free(grad_pairs);
    return failed;
}

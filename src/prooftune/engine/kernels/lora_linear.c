/* LoRA linear layers that read one input, forward and backward, for x86 CPUs with AVX512-BF16. The
 * adapter's contribution is added while the accumulators of the frozen matmul are in registers.
 * Called by lora_linear.py. All sums are float32. */
#include "common.h"

enum {
    ROWS_PER_BLOCK =
        1024, /* rows for which one panel of weights is packed; they stay in the L2 cache */
    REDUCTION_ROWS = 128, /* rows packed at a time for sums over rows; they stay in the L1 cache */
};

/* `LoraLayers` of lora_linear.py: layers on x [n][depth]. Each has frozen weights [width][depth]
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

static inline bf16x2_t make_pair(bf16_t first, bf16_t second)
{
    return first | (bf16x2_t)second << 16;
}

static inline void to_bf16(const float *from, long count, bf16_t *to) /* count is a multiple of 8 */
{
    for (long i = 0; i < count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i),
                         (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(from + i)));
}

/* Rounds to bfloat16, as float32. */
static inline __m512 round_to_bf16(__m512 x)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}

/* ---- narrow matmuls, [n][depth] times [depth][rank]: lora_hidden and its gradient ---- */

/* `rows` rows and up to three vectors of columns, of which the last stores only the columns in
 * `last`. */
static inline __attribute__((always_inline)) void
narrow_tile(int rows, int vectors, __mmask16 last, const bf16x2_t *a, const bf16x2_t *b,
            long b_stride, long pairs, __m512 scale, bf16_t *out, long out_stride)
{
    __m512 acc[VECTOR][3];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) acc[i][v] = _mm512_setzero_ps();
    for (long k = 0; k < pairs; k++, b += b_stride) {
        __m512bh columns[3];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) columns[v] = (__m512bh)_mm512_loadu_si512(b + v * VECTOR);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            __m512bh a_pair = (__m512bh)_mm512_set1_epi32((int)a[i * pairs + k]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++)
                acc[i][v] = _mm512_dpbf16_ps(acc[i][v], a_pair, columns[v]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            _mm256_mask_storeu_epi16(out + i * out_stride + v * VECTOR,
                                     v < vectors - 1 ? 0xffff : last,
                                     (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(acc[i][v], scale)));
}

static inline long round_up_to_vector(long width)
{
    return (width + VECTOR - 1) / VECTOR * VECTOR;
}

/* out [rows][width] = scaling a [rows][pairs] b, b [pairs][round_up_to_vector(width)]. */
static void narrow_matmul(long rows, const bf16x2_t *a, const bf16x2_t *b, long pairs, long width,
                          float scaling, bf16_t *out, long out_stride)
{
    const __m512 scale = _mm512_set1_ps(scaling);
    const long b_stride = round_up_to_vector(width);
    for (long j = 0; j < width; j += 3 * VECTOR) {
        const long vectors = min(3, (width - j + VECTOR - 1) / VECTOR),
                   in_last = width - j - (vectors - 1) * VECTOR;
        const __mmask16 last = in_last >= VECTOR ? 0xffff : (__mmask16)((1 << in_last) - 1);
        for (long i = 0; i < rows;) {
            const bf16x2_t *from = a + i * pairs;
            bf16_t *to = out + i * out_stride + j;
            const int height = rows - i >= VECTOR && vectors == 1 ? VECTOR
                               : rows - i >= TILE_ROWS            ? TILE_ROWS
                                                                  : 1;
            /* Constant numbers of rows and vectors, so that the compiler keeps the accumulators in
             * registers. */
            if (height == VECTOR)
                narrow_tile(VECTOR, 1, last, from, b + j, b_stride, pairs, scale, to, out_stride);
            else if (height == TILE_ROWS && vectors == 3)
                narrow_tile(TILE_ROWS, 3, last, from, b + j, b_stride, pairs, scale, to,
                            out_stride);
            else if (height == TILE_ROWS && vectors == 2)
                narrow_tile(TILE_ROWS, 2, last, from, b + j, b_stride, pairs, scale, to,
                            out_stride);
            else if (height == TILE_ROWS)
                narrow_tile(TILE_ROWS, 1, last, from, b + j, b_stride, pairs, scale, to,
                            out_stride);
            else if (vectors == 3)
                narrow_tile(1, 3, last, from, b + j, b_stride, pairs, scale, to, out_stride);
            else if (vectors == 2)
                narrow_tile(1, 2, last, from, b + j, b_stride, pairs, scale, to, out_stride);
            else narrow_tile(1, 1, last, from, b + j, b_stride, pairs, scale, to, out_stride);
            i += height;
        }
    }
}

/* Packs rows [rank][depth] as columns of to [depth / 2][to_stride]; `row` is scratch memory for one
 * of them. */
static void pack_rows_as_columns(const float *from, long rank, long depth, bf16_t *row,
                                 bf16x2_t *to, long to_stride)
{
    for (long j = 0; j < rank; j++) {
        to_bf16(from + j * depth, depth, row);
        for (long k = 0; k < depth / 2; k++) to[k * to_stride + j] = ((const bf16x2_t *)row)[k];
    }
}

/* Packs rows `first` to `last` of [depth][rank] as pairs [depth / 2][round_up_to_vector(rank)];
 * `scratch` holds two rows. */
static void pack_row_pairs(const float *from, long rank, long first, long last, bf16_t *scratch,
                           bf16x2_t *to)
{
    for (long k = first; k < last; k += 2) {
        to_bf16(from + k * rank, 2 * rank, scratch);
        for (long j = 0; j < rank; j++)
            to[k / 2 * round_up_to_vector(rank) + j] = make_pair(scratch[j], scratch[rank + j]);
    }
}

/* ---- wide matmuls, [n][depth] times frozen weights, plus the adapter's contribution ---- */

/* out = round(round(sum of a[p] times its panel) + hidden up): rows from `first` on of several
 * arrays a[p] [any][depths[p]], with their packed panels of 32 columns one after another; hidden
 * [any][pairs] and up [pairs][32]. */
static inline __attribute__((always_inline)) void
wide_tile(int rows, const bf16_t *const *a, const long *depths, long arrays, long first,
          const bf16x2_t *panel, const bf16x2_t *hidden, long hidden_stride, const bf16x2_t *up,
          long pairs, bf16_t *out, long out_stride)
{
    __m512 acc[TILE_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (long p = 0; p < arrays; p++) {
        long row_pairs = depths[p] / 2;
        accumulate_tile(rows, (const bf16x2_t *)a[p] + first * row_pairs, row_pairs, panel, PANEL,
                        row_pairs, acc);
        panel += row_pairs * PANEL;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        acc[i][0] = round_to_bf16(acc[i][0]), acc[i][1] = round_to_bf16(acc[i][1]);
    accumulate_tile(rows, hidden + first * hidden_stride, hidden_stride, up, PANEL, pairs, acc);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        store_bf16(out + (first + i) * out_stride, acc[i][0]),
            store_bf16(out + (first + i) * out_stride + VECTOR, acc[i][1]);
}

static void wide_matmul(long first, long last, const bf16_t *const *a, const long *depths,
                        long arrays, const bf16x2_t *panel, const bf16_t *hidden,
                        long hidden_stride, const bf16x2_t *up, long pairs, bf16_t *out,
                        long out_stride)
{
    for (long i = first; i < last;) {
        if (last - i >= TILE_ROWS) {
            wide_tile(TILE_ROWS, a, depths, arrays, i, panel, (const bf16x2_t *)hidden,
                      hidden_stride / 2, up, pairs, out, out_stride);
            i += TILE_ROWS;
        } else {
            wide_tile(1, a, depths, arrays, i, panel, (const bf16x2_t *)hidden, hidden_stride / 2,
                      up, pairs, out, out_stride);
            i += 1;
        }
    }
}

/* Number of blocks of rows, so that the tasks (blocks x panels) keep all threads busy. */
static long row_blocks(long n, long panels, long threads)
{
    long blocks = (n + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
    while (blocks * panels < 3 * threads && n / blocks > 4 * TILE_ROWS) blocks++;
    return blocks;
}

/* ---- sums over rows: the gradients of A and B ---- */

/* Transposes rows [n][rank] into pairs of rows [rank][round_up_to_panel(n) / 2]: pairs `first` to
 * `last`. */
static void pack_reduction(const bf16_t *from, long from_stride, long n, long rank, long first,
                           long last, bf16x2_t *to)
{
    for (long k = first; k < last; k++)
        for (long i = 0; i < rank; i++)
            to[i * (round_up_to_panel(n) / 2) + k] =
                make_pair(2 * k < n ? from[2 * k * from_stride + i] : 0,
                          2 * k + 1 < n ? from[(2 * k + 1) * from_stride + i] : 0);
}

/* sums [rank][32] = a [rank][round_up_to_panel(n) / 2 pairs] times 32 columns of b [n][b_stride].
 */
static void reduce_panel(const bf16x2_t *a, long n, long rank, const bf16_t *b, long b_stride,
                         float *sums)
{
    const long pairs = round_up_to_panel(n) / 2;
    bf16x2_t packed[REDUCTION_ROWS / 2 * PANEL] __attribute__((aligned(64)));
    for (long k = 0; k < n; k += REDUCTION_ROWS) {
        const long rows = min(REDUCTION_ROWS, n - k);
        pack_pairs(b + k * b_stride, b_stride, rows, PANEL, packed, PANEL);
        for (long i = 0; i < rank; i += TILE_ROWS)
            matmul_tile(TILE_ROWS, a + i * pairs + k / 2, pairs, packed, PANEL, (rows + 1) / 2,
                        sums + i * PANEL, PANEL, k > 0);
    }
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

/* Products of layers with LoRA adapters that read one input, and their gradients, for x86 processors with AVX512-BF16: what an adapter
 * adds is added while the sums of the frozen product are in registers. lora_linear.py calls it. All sums are float32. */
#include "common.h"

enum {
    ROWS = 1024,     /* that a panel of weights is laid out for: they stay in the second cache */
    AT_A_TIME = 128, /* rows that are laid out where rows are added up: they stay in the first */
};

/* `layers_t` of lora_linear.py: layers on x [n][depth]. Each has weights [width][depth], and an adapter's first product, down
 * [rank][depth], and second, up [width][rank]. depth and widths are multiples of 32, ranks of 8. */
typedef struct {
    long n, depth, count;
    const long *widths, *ranks;
    float scaling;
    const half *x, *const *weights;
    const float *const *downs, *const *ups;
} layers_t;

static long sum(const long *numbers, long count)
{
    long all = 0;
    for (long i = 0; i < count; i++) all += numbers[i];
    return all;
}

static inline pair beside(half first, half second) { return first | (pair)second << 16; }

static inline void narrowed(const float *from, long count, half *to) /* count a multiple of 8 */
{
    for (long i = 0; i < count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(from + i)));
}

static inline __m512 once_rounded(__m512 x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}

/* ---- narrow on one side: [n][depth] times [depth][width] ---- */

/* `rows` rows, and up to three vectors of columns, the last of which has those in `last` alone. */
static inline __attribute__((always_inline)) void low_tile(
    int rows, int vectors, __mmask16 last, const pair *a, const pair *b, long b_row, long pairs, __m512 by, half *out, long out_row)
{
    __m512 sums[VECTOR][3];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sums[i][v] = _mm512_setzero_ps();
    for (long k = 0; k < pairs; k++, b += b_row) {
        __m512bh columns[3];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) columns[v] = (__m512bh)_mm512_loadu_si512(b + v * VECTOR);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            __m512bh one = (__m512bh)_mm512_set1_epi32((int)a[i * pairs + k]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], one, columns[v]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            _mm256_mask_storeu_epi16(out + i * out_row + v * VECTOR, v < vectors - 1 ? 0xffff : last,
                                     (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sums[i][v], by)));
}

static inline long in_vectors(long width) { return (width + VECTOR - 1) / VECTOR * VECTOR; }

/* out [rows][width] = a [rows][pairs] b times `scaling`, b [pairs][in_vectors(width)]. */
static void low_rows(long rows, const pair *a, const pair *b, long pairs, long width, float scaling, half *out, long out_row)
{
    const __m512 by = _mm512_set1_ps(scaling);
    const long b_row = in_vectors(width);
    for (long j = 0; j < width; j += 3 * VECTOR) {
        const long vectors = least(3, (width - j + VECTOR - 1) / VECTOR), in_last = width - j - (vectors - 1) * VECTOR;
        const __mmask16 last = in_last >= VECTOR ? 0xffff : (__mmask16)((1 << in_last) - 1);
        for (long i = 0; i < rows;) {
            const pair *from = a + i * pairs;
            half *to = out + i * out_row + j;
            const int high = rows - i >= VECTOR && vectors == 1 ? VECTOR : rows - i >= HIGH ? HIGH : 1;
            if (high == VECTOR) low_tile(VECTOR, 1, last, from, b + j, b_row, pairs, by, to, out_row);
            else if (high == HIGH && vectors == 3) low_tile(HIGH, 3, last, from, b + j, b_row, pairs, by, to, out_row);
            else if (high == HIGH && vectors == 2) low_tile(HIGH, 2, last, from, b + j, b_row, pairs, by, to, out_row);
            else if (high == HIGH) low_tile(HIGH, 1, last, from, b + j, b_row, pairs, by, to, out_row);
            else if (vectors == 3) low_tile(1, 3, last, from, b + j, b_row, pairs, by, to, out_row);
            else if (vectors == 2) low_tile(1, 2, last, from, b + j, b_row, pairs, by, to, out_row);
            else low_tile(1, 1, last, from, b + j, b_row, pairs, by, to, out_row);
            i += high;
        }
    }
}

/* Columns [rank][depth] at a time, the first at column `at` of to [depth / 2][to_row]. */
static void laid_columns(const float *from, long rank, long depth, half *some, pair *to, long to_row)
{
    for (long j = 0; j < rank; j++) {
        narrowed(from + j * depth, depth, some);
        for (long k = 0; k < depth / 2; k++) to[k * to_row + j] = ((const pair *)some)[k];
    }
}

/* Rows `first` to `last` of [depth][rank], as pairs [depth / 2][in_vectors(rank)]. */
static void laid_rows(const float *from, long rank, long first, long last, half *some, pair *to)
{
    for (long k = first; k < last; k += 2) {
        narrowed(from + k * rank, 2 * rank, some);
        for (long j = 0; j < rank; j++) to[k / 2 * in_vectors(rank) + j] = beside(some[j], some[rank + j]);
    }
}

/* ---- wide: [n][depth] times frozen weights ---- */

/* Rows of several arrays [any][depth] times a panel of the weights, rounded, plus low [any][pairs] times 32 columns of up, rounded. */
static inline __attribute__((always_inline)) void wide_tile(
    int rows, const half *const *a, const long *depths, long pieces, long first, const pair *panel, const pair *low, long low_row,
    const pair *up, long pairs, half *out, long out_row)
{
    __m512 sums[HIGH][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (long p = 0; p < pieces; p++) {
        long of_row = depths[p] / 2;
        add_pairs(rows, (const pair *)a[p] + first * of_row, of_row, panel, PANEL, of_row, sums);
        panel += of_row * PANEL;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) sums[i][0] = once_rounded(sums[i][0]), sums[i][1] = once_rounded(sums[i][1]);
    add_pairs(rows, low + first * low_row, low_row, up, PANEL, pairs, sums);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        rounded(out + (first + i) * out_row, sums[i][0]), rounded(out + (first + i) * out_row + VECTOR, sums[i][1]);
}

static void wide_rows(long first, long last, const half *const *a, const long *depths, long pieces, const pair *panel, const half *low,
                      long low_row, const pair *up, long pairs, half *out, long out_row)
{
    for (long i = first; i < last;) {
        if (last - i >= HIGH) {
            wide_tile(HIGH, a, depths, pieces, i, panel, (const pair *)low, low_row / 2, up, pairs, out, out_row);
            i += HIGH;
        } else {
            wide_tile(1, a, depths, pieces, i, panel, (const pair *)low, low_row / 2, up, pairs, out, out_row);
            i += 1;
        }
    }
}

/* Into how many blocks rows are parted for so many panels. */
static long blocks_of(long n, long panels, long threads)
{
    long blocks = (n + ROWS - 1) / ROWS;
    while (blocks * panels < 3 * threads && n / blocks > 4 * HIGH) blocks++;
    return blocks;
}

/* ---- added up over rows ---- */

/* Rows [n][rank] the other way round, as pairs [rank][filled(n) / 2]: pairs `first` to `last`. */
static void laid_over(const half *from, long from_row, long n, long rank, long first, long last, pair *to)
{
    for (long k = first; k < last; k++)
        for (long i = 0; i < rank; i++)
            to[i * (filled(n) / 2) + k] = beside(2 * k < n ? from[2 * k * from_row + i] : 0,
                                                 2 * k + 1 < n ? from[(2 * k + 1) * from_row + i] : 0);
}

/* sums [rank][32] of a [rank][filled(n) / 2] and 32 columns of b [n][b_row]. */
static void over_panel(const pair *a, long n, long rank, const half *b, long b_row, float *sums)
{
    const long pairs = filled(n) / 2;
    pair some[AT_A_TIME / 2 * PANEL] __attribute__((aligned(64)));
    for (long k = 0; k < n; k += AT_A_TIME) {
        const long rows = least(AT_A_TIME, n - k);
        in_pairs(b + k * b_row, b_row, rows, PANEL, some, PANEL);
        for (long i = 0; i < rank; i += HIGH)
            tile(HIGH, a + i * pairs + k / 2, pairs, some, PANEL, (rows + 1) / 2, sums + i * PANEL, PANEL, k > 0);
    }
}

/* ---- layers ---- */

/* low [n][all ranks] = scaling x downᵀ, the adapters' beside each other; and if `outs` is not NULL, of every layer out [n][width] =
 * x weightsᵀ, rounded, plus low upᵀ. */
int adapted(const layers_t *layers, half *low, half *const *outs, long threads)
{
    const layers_t g = *layers;
    const long all = sum(g.ranks, g.count), low_row = in_vectors(all), panels = sum(g.widths, g.count) / PANEL;
    const long blocks = blocks_of(g.n, panels, threads), high = (g.n + blocks * HIGH - 1) / (blocks * HIGH) * HIGH;
    pair *downs = room(2 * g.depth * low_row);
    int failed = !downs;
    if (failed) return failed;
    memset(downs, 0, 2 * g.depth * low_row);
#pragma omp parallel num_threads((int)threads)
    {
        pair *panel = room(2 * PANEL * g.depth), *up = room(2 * PANEL * all);
        half *some = room(2 * (g.depth > all ? g.depth : all));
        const int able = panel && up && some;
        if (!able)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(static)
        for (long row = 0; row < all; row++) {
            long i = 0, at = row;
            for (; at >= g.ranks[i]; i++) at -= g.ranks[i];
            if (able) laid_columns(g.downs[i] + at * g.depth, 1, g.depth, some, downs + row, low_row);
        }
#pragma omp for schedule(static)
        for (long i = 0; i < g.n; i += VECTOR)
            low_rows(least(VECTOR, g.n - i), (const pair *)(g.x + i * g.depth), downs, g.depth / 2, all, g.scaling, low + i * all, all);
        if (outs) {
#pragma omp for schedule(dynamic)
            for (long task = 0; task < blocks * panels; task++) {
                long i = 0, j = task % panels * PANEL, first = task / panels * high, at = 0;
                for (; j >= g.widths[i]; i++) j -= g.widths[i], at += g.ranks[i];
                if (!able) continue;
                in_columns(g.weights[i] + j * g.depth, g.depth, PANEL, g.depth, panel);
                laid_columns(g.ups[i] + j * g.ranks[i], PANEL, g.ranks[i], some, up, PANEL);
                wide_rows(first, least(g.n, first + high), &g.x, &g.depth, 1, panel, low + at, all, up, g.ranks[i] / 2, outs[i] + j,
                          g.widths[i]);
            }
        }
        free(panel), free(up), free(some);
    }
    free(downs);
    return failed;
}

/* From the gradients of the outs: of_low [n][all ranks] = scaling grads up; if `of_x` is not NULL, of_x = the sum of grads weights, rounded,
 * plus of_low down; of every layer of_down = of_lowᵀ x and of_up = gradsᵀ low, float32. */
int adapted_backward(const layers_t *layers, const half *low, const half *const *grads, half *of_low, half *of_x, float *const *of_downs,
             float *const *of_ups, long threads)
{
    const layers_t g = *layers;
    const long all = sum(g.ranks, g.count), width = sum(g.widths, g.count), pairs = filled(g.n) / 2, panels = g.depth / PANEL;
    const long blocks = blocks_of(g.n, panels, threads), high = (g.n + blocks * HIGH - 1) / (blocks * HIGH) * HIGH;
    long ups_at[g.count + 1];
    ups_at[0] = 0;
    for (long i = 0; i < g.count; i++) ups_at[i + 1] = ups_at[i] + g.widths[i] / 2 * in_vectors(g.ranks[i]);
    pair *ups = room(4 * ups_at[g.count]), *lows = room(4 * all * pairs), *of_lows = room(4 * all * pairs);
    int failed = !ups || !lows || !of_lows;
    if (failed) {
        free(ups), free(lows), free(of_lows);
        return failed;
    }
    memset(ups, 0, 4 * ups_at[g.count]);
#pragma omp parallel num_threads((int)threads)
    {
        pair *panel = room(2 * PANEL * width), *down = room(2 * PANEL * all);
        half *some = room(2 * (2 * all > PANEL ? 2 * all : PANEL)), *others = room(2 * 2 * PANEL);
        float *sums = room(4 * PANEL * all);
        const int able = panel && down && some && others && sums;
        if (!able)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(static)
        for (long task = 0; task < width / PANEL; task++) {
            long i = 0, j = task * PANEL;
            for (; j >= g.widths[i]; i++) j -= g.widths[i];
            if (able) laid_rows(g.ups[i], g.ranks[i], j, j + PANEL, some, ups + ups_at[i]);
        }
#pragma omp for schedule(static)
        for (long k = 0; k < pairs; k += VECTOR) {
            long first = 2 * k, rows = least(2 * VECTOR, g.n - first);
            for (long i = 0, at = 0; i < g.count && rows > 0; at += g.ranks[i++])
                low_rows(rows, (const pair *)(grads[i] + first * g.widths[i]), ups + ups_at[i], g.widths[i] / 2, g.ranks[i], g.scaling,
                         of_low + first * all + at, all);
            laid_over(of_low, all, g.n, all, k, k + VECTOR, of_lows);
            laid_over(low, all, g.n, all, k, k + VECTOR, lows);
        }
        if (of_x) {
#pragma omp for schedule(dynamic) nowait
            for (long task = 0; task < blocks * panels; task++) {
                const long j = task % panels * PANEL, first = task / panels * high;
                pair *to = panel;
                if (!able) continue;
                for (long i = 0; i < g.count; to += g.widths[i++] / 2 * PANEL)
                    in_pairs(g.weights[i] + j, g.depth, g.widths[i], PANEL, to, PANEL);
                to = down;
                for (long i = 0; i < g.count; i++)
                    for (long k = 0; k < g.ranks[i]; k += 2, to += PANEL) {
                        narrowed(g.downs[i] + k * g.depth + j, PANEL, others);
                        narrowed(g.downs[i] + (k + 1) * g.depth + j, PANEL, others + PANEL);
                        side_by_side(others, others + PANEL, to);
                    }
                wide_rows(first, least(g.n, first + high), grads, g.widths, g.count, panel, of_low, all, down, all / 2, of_x + j, g.depth);
            }
        }
#pragma omp for schedule(dynamic) nowait
        for (long j = 0; j < g.depth; j += PANEL) {
            if (!able) continue;
            over_panel(of_lows, g.n, all, g.x + j, g.depth, sums);
            for (long i = 0, at = 0; i < g.count; at += g.ranks[i++])
                for (long k = 0; k < g.ranks[i]; k++) memcpy(of_downs[i] + k * g.depth + j, sums + (at + k) * PANEL, 4 * PANEL);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < width / PANEL; task++) {
            long i = 0, j = task * PANEL, at = 0;
            for (; j >= g.widths[i]; i++) j -= g.widths[i], at += g.ranks[i];
            if (!able) continue;
            over_panel(lows + at * pairs, g.n, g.ranks[i], grads[i] + j, g.widths[i], sums);
            for (long column = 0; column < PANEL; column++)
                for (long k = 0; k < g.ranks[i]; k++) of_ups[i][(j + column) * g.ranks[i] + k] = sums[k * PANEL + column];
        }
        free(panel), free(down), free(some), free(others), free(sums);
    }
    free(ups), free(lows), free(of_lows);
    return failed;
}

/* Matmuls of lora_linear.c: narrow (to the ranks), wide (with frozen weights, plus an adapter), and
 * sums over rows. All sums are float32. */
#include "common.h"

enum {
    NARROW_VECTORS = TILE_ROWS == 8 ? 3 : 2, /* vectors of columns of a narrow matmul's tile */
    NARROW_ROWS = 2 * TALL_ROWS,             /* rows of a narrow matmul's task */
    REDUCTION_ROWS = 128, /* rows packed at a time for sums over rows; they stay in the L1 cache */
    REDUCTION_COLUMNS = 32,
#ifdef FLOAT32
    /* A wide matmul is computed for blocks of depth, whose sums the output accumulates. In the L1
     * cache: a panel of weights; in the L2 cache (of 256 KB): several panels and a block of rows,
     * which is read once for every panel. */
    SPLIT_DEPTH = 1,
    DEPTH_BLOCK = 320,
    TASK_PANELS = 6,
    ROW_BLOCK = 16 * TILE_ROWS,
    TASK_ROWS = 8192
#else
    /* One panel of weights at a time, of all depth: sums in bfloat16 would lose bits. Its rows stay
     * in the L2 cache from panel to panel. */
    SPLIT_DEPTH = 0,
    DEPTH_BLOCK = 1 << 30,
    TASK_PANELS = 1,
    ROW_BLOCK = 1024,
    TASK_ROWS = 1024
#endif
};

/* ---- narrow matmuls, [n][depth] times [depth][rank]: lora_hidden and its gradient ---- */

/* `rows` rows and up to NARROW_VECTORS vectors of columns, of which the last stores only the first
 * `in_last` columns. */
static inline __attribute__((always_inline)) void
narrow_tile(int rows, int vectors, long in_last, const pair_t *a, const pair_t *b, long b_stride,
            long pairs, vec_t scale, real_t *out, long out_stride)
{
    vec_t acc[TALL_ROWS][NARROW_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) acc[i][v] = splat(0);
    for (long k = 0; k < pairs; k++, b += b_stride) {
        pairs_t columns[NARROW_VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) columns[v] = load_pairs(b + v * VECTOR);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            pairs_t a_pair = splat_pair(a[i * pairs + k]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++)
                acc[i][v] = add_products(acc[i][v], a_pair, columns[v]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            store_first(out + i * out_stride + v * VECTOR, acc[i][v] * scale,
                        v < vectors - 1 ? VECTOR : in_last);
}

/* out [rows][width] = scaling a [rows][pairs] b, b [pairs][round_up_to_vector(width)]. */
static void narrow_matmul(long rows, const pair_t *a, const pair_t *b, long pairs, long width,
                          float scaling, real_t *out, long out_stride)
{
    const vec_t scale = splat(scaling);
    const long b_stride = round_up_to_vector(width);
    for (long j = 0; j < width; j += NARROW_VECTORS * VECTOR) {
        const long vectors = min(NARROW_VECTORS, (width - j + VECTOR - 1) / VECTOR),
                   in_last = width - j - (vectors - 1) * VECTOR;
        for (long i = 0; i < rows;) {
            const pair_t *from = a + i * pairs;
            real_t *to = out + i * out_stride + j;
            const int height = rows - i >= TALL_ROWS && vectors == 1 ? TALL_ROWS
                               : rows - i >= TILE_ROWS               ? TILE_ROWS
                                                                     : 1;
            /* Constant numbers of rows and vectors, so that the compiler keeps the accumulators in
             * registers. */
            /* clang-format off */
#define TILE(tall, n)                                                                              \
    if (height == tall && vectors == n)                                                            \
        narrow_tile(tall, n, in_last, from, b + j, b_stride, pairs, scale, to, out_stride);
            TILE(TALL_ROWS, 1)
            TILE(TILE_ROWS, 1) TILE(TILE_ROWS, 2)
            TILE(1, 1) TILE(1, 2)
#if !defined FLOAT32
            TILE(TILE_ROWS, 3) TILE(1, 3)
#endif
#undef TILE
                /* clang-format on */
                i += height;
        }
    }
}

/* Packs rows [rank][depth] as columns of to [depth / PAIR][to_stride]; `row` is scratch memory for
 * one of them. */
static void pack_rows_as_columns(const float *from, long rank, long depth, real_t *row, pair_t *to,
                                 long to_stride)
{
    for (long j = 0; j < rank; j++) {
        to_real(from + j * depth, depth, row);
        for (long k = 0; k < depth / PAIR; k++) to[k * to_stride + j] = ((const pair_t *)row)[k];
    }
}

/* Packs rows `first` to `last` of [depth][rank] as [depth / PAIR][round_up_to_vector(rank)];
 * `scratch` holds PAIR rows. */
static void pack_row_pairs(const float *from, long rank, long first, long last, real_t *scratch,
                           pair_t *to)
{
    for (long k = first; k < last; k += PAIR) {
        to_real(from + k * rank, PAIR * rank, scratch);
        for (long j = 0; j < rank; j++)
            to[k / PAIR * round_up_to_vector(rank) + j] = gather_pair(scratch + j, rank, PAIR);
    }
}

/* ---- wide matmuls, [n][depth] times frozen weights, plus the adapter's contribution ---- */

/* Left operands and output of a wide matmul: the sum of a[p] [any][sizes[p]], times packed panels,
 * and hidden [any][rank] times `up`. */
typedef struct {
    long arrays;
    const real_t *const *a;
    const long *sizes, *strides;
    const real_t *hidden;
    long hidden_stride, rank;
    real_t *out;
    long out_stride;
} wide_t;

/* out = round(round(sum of a[p] times its panel) + hidden up), for rows from `first` on. In blocks
 * of depth, only the last adds the adapter, and all but the first add to `out`. */
static inline __attribute__((always_inline)) void wide_tile(int rows, const wide_t *w, long first,
                                                            const pair_t *panel, const pair_t *up,
                                                            real_t *out, int start, int end)
{
    vec_t acc[TILE_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) acc[i][0] = acc[i][1] = splat(0);
    for (long p = 0; p < w->arrays; p++) {
        const long stride = w->strides[p] / PAIR, pairs = w->sizes[p] / PAIR;
        accumulate_tile(rows, 2, (const pair_t *)w->a[p] + first * stride, stride, panel, PANEL,
                        pairs, acc);
        panel += pairs * PANEL;
    }
    if (end) {
        const long stride = w->hidden_stride / PAIR;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            acc[i][0] = round_to_real(acc[i][0]), acc[i][1] = round_to_real(acc[i][1]);
        accumulate_tile(rows, 2, (const pair_t *)w->hidden + first * stride, stride, up, PANEL,
                        w->rank / PAIR, acc);
    }
    out += first * w->out_stride;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++, out += w->out_stride)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            if (!start) acc[i][v] += load_real(out + v * VECTOR);
            store_real(out + v * VECTOR, acc[i][v]);
        }
}

/* Rows `first` to `last` of `panels` panels, `panel_size` apart. */
static void wide_matmul(const wide_t *w, long first, long last, long panels, const pair_t *panel,
                        long panel_size, const pair_t *up, int start, int end)
{
    if (!SPLIT_DEPTH) start = end = 1; /* constants for the compiler */
    for (long block = first; block < last; block += ROW_BLOCK)
        for (long j = 0; j < panels; j++) {
            const pair_t *columns = panel + j * panel_size,
                         *added = up + j * w->rank / PAIR * PANEL;
            real_t *out = w->out + j * PANEL;
            long i = block;
            const long block_end = min(last, block + ROW_BLOCK);
            for (; i + TILE_ROWS <= block_end; i += TILE_ROWS)
                wide_tile(TILE_ROWS, w, i, columns, added, out, start, end);
            for (; i + TILE_ROWS / 2 <= block_end; i += TILE_ROWS / 2)
                wide_tile(TILE_ROWS / 2, w, i, columns, added, out, start, end);
            for (; i < block_end; i++) wide_tile(1, w, i, columns, added, out, start, end);
        }
}

/* Number of blocks of rows, so that the tasks (blocks x those of one block) keep all threads busy.
 */
static long row_blocks(long n, long tasks, long threads)
{
    long blocks = (n + TASK_ROWS - 1) / TASK_ROWS;
    while (blocks * tasks < 3 * threads && n / blocks > 4 * TILE_ROWS) blocks++;
    return blocks;
}

/* ---- sums over rows: the gradients of A and B ---- */

/* Transposes rows [n][rank] to [rank][round_up_to_panel(n) / PAIR]: pairs `first` to `last`. */
static void pack_reduction(const real_t *from, long from_stride, long n, long rank, long first,
                           long last, pair_t *to)
{
    for (long k = first; k < last; k++)
        for (long i = 0; i < rank; i++)
            to[i * (round_up_to_panel(n) / PAIR) + k] =
                gather_pair(from + PAIR * k * from_stride + i, from_stride, n - PAIR * k);
}

/* sums [rank][REDUCTION_COLUMNS] = a [rank][round_up_to_panel(n) / PAIR] times as many columns of b
 * [n][b_stride]. */
static void reduce_columns(const pair_t *a, long n, long rank, const real_t *b, long b_stride,
                           float *sums)
{
    const long pairs = round_up_to_panel(n) / PAIR;
    pair_t packed[REDUCTION_ROWS / PAIR * REDUCTION_COLUMNS] __attribute__((aligned(64)));
    for (long k = 0; k < n; k += REDUCTION_ROWS) {
        const long rows = min(REDUCTION_ROWS, n - k);
        pack_pairs(b + k * b_stride, b_stride, rows, REDUCTION_COLUMNS, packed, REDUCTION_COLUMNS);
        (k ? add_matmul : matmul_into)(rank, REDUCTION_COLUMNS, a + k / PAIR, pairs, packed,
                                       REDUCTION_COLUMNS, PANEL, (rows + PAIR - 1) / PAIR, sums,
                                       REDUCTION_COLUMNS);
    }
}

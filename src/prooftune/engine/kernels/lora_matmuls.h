/* Matmuls of lora_linear.c: narrow (to the ranks), wide (with frozen weights, plus an adapter), and
 * sums over rows. All sums are float32. */
#include "common.h"

enum {
    ROWS_PER_BLOCK =
        1024, /* rows for which one panel of weights is packed; they stay in the L2 cache */
    REDUCTION_ROWS = 128, /* rows packed at a time for sums over rows; they stay in the L1 cache */
};

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
        accumulate_tile(rows, 2, (const bf16x2_t *)a[p] + first * row_pairs, row_pairs, panel,
                        PANEL, row_pairs, acc);
        panel += row_pairs * PANEL;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        acc[i][0] = round_to_bf16(acc[i][0]), acc[i][1] = round_to_bf16(acc[i][1]);
    accumulate_tile(rows, 2, hidden + first * hidden_stride, hidden_stride, up, PANEL, pairs, acc);
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
            matmul_tile(TILE_ROWS, 2, a + i * pairs + k / 2, pairs, packed, PANEL, (rows + 1) / 2,
                        sums + i * PANEL, PANEL, k > 0);
    }
}

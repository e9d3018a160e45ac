/* Products of layers with adapters, for x86 processors with AVX512-BF16: frozen weights and what an adapter adds in one pass, and the
 * narrow products that adapters are learned by. adapted_products.py calls it. All sums are float32. */
#include "products.h"

enum {
    ROWS = 1024,     /* that a panel of weights is laid out for: they stay in the second cache */
    AT_A_TIME = 128, /* rows that are laid out where rows are added up: they stay in the first */
};

static inline __m512 once_rounded(__m512 x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}

static inline pair beside(half first, half second) { return first | (pair)second << 16; }

/* `rows` rows of one product, and of 32 of its columns. */
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

/* out [n][width] = the sum over `pieces` of a [n][depth] b, rounded, plus low [n][rank] up [rank][width]. Every b is [depth][width], or,
 * `turned`, [width][depth]; so is up. width and depths multiples of 32, rank of 2; rows of low `low_row` numbers apart. */
int wide_product(const half *const *a, const half *const *b, const long *depths, long pieces, long is_turned, long n, long width,
                    const half *low, long low_row, long rank, const half *up, half *out, long threads)
{
    long depth = 0, blocks = (n + ROWS - 1) / ROWS, panels = width / PANEL, high, pairs = rank / 2;
    int failed = 0;
    for (long p = 0; p < pieces; p++) depth += depths[p];
    while (blocks * panels < 3 * threads && n / blocks > 4 * HIGH) blocks++;
    high = (n + blocks * HIGH - 1) / (blocks * HIGH) * HIGH;
#pragma omp parallel num_threads((int)threads)
    {
        pair *panel = room(2 * PANEL * depth), *narrow = room(4 * PANEL * pairs);
        if (!panel || !narrow)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < blocks * panels; task++) {
            const long j = task % panels * PANEL, last = least(n, (task / panels + 1) * high);
            pair *to = panel;
            if (!panel || !narrow) continue;
            for (long p = 0; p < pieces; p++, to += depths[p - 1] / 2 * PANEL)
                if (is_turned) in_columns(b[p] + j * depths[p], depths[p], PANEL, depths[p], to);
                else in_pairs(b[p] + j, width, depths[p], PANEL, to, PANEL);
            for (long k = 0; k < pairs; k++) {
                if (is_turned)
                    for (long i = 0; i < PANEL; i++) memcpy(narrow + k * PANEL + i, up + (j + i) * rank + 2 * k, 4);
                else side_by_side(up + 2 * k * width + j, up + (2 * k + 1) * width + j, narrow + k * PANEL);
            }
            for (long i = task / panels * high; i < last;) {
                if (last - i >= HIGH) {
                    wide_tile(HIGH, a, depths, pieces, i, panel, (const pair *)low, low_row / 2, narrow, pairs, out + j, width);
                    i += HIGH;
                } else {
                    wide_tile(1, a, depths, pieces, i, panel, (const pair *)low, low_row / 2, narrow, pairs, out + j, width);
                    i += 1;
                }
            }
        }
        free(panel), free(narrow);
    }
    return failed;
}

/* `rows` rows of one product, and of up to three vectors of its columns, the last of which has those in `last` alone. */
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

/* out [n][width] = a [n][depth] b times `scaling`, rows of out `out_row` apart; b [depth][width], or, `turned`, [width][depth]; depth a
 * multiple of 2. */
int low_product(const half *a, long n, long depth, const half *b, long is_turned, long width, float scaling, half *out, long out_row,
                long threads)
{
    const long pairs = depth / 2, b_row = (width + VECTOR - 1) / VECTOR * VECTOR;
    const __m512 by = _mm512_set1_ps(scaling);
    pair *laid = room(4 * pairs * b_row);
    if (!laid) return 1;
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (long k = 0; k < pairs; k++)
            for (long j = 0; j < b_row; j++)
                laid[k * b_row + j] = j >= width  ? 0
                                      : is_turned ? beside(b[j * depth + 2 * k], b[j * depth + 2 * k + 1])
                                                  : beside(b[2 * k * width + j], b[(2 * k + 1) * width + j]);
#pragma omp for schedule(static)
        for (long block = 0; block < n; block += VECTOR)
            for (long j = 0; j < width; j += 3 * VECTOR) {
                const long left = width - j, vectors = least(3, (left + VECTOR - 1) / VECTOR), in_last = left - (vectors - 1) * VECTOR;
                const __mmask16 last = in_last >= VECTOR ? 0xffff : (__mmask16)((1 << in_last) - 1);
                for (long i = block, end = least(n, block + VECTOR); i < end;) {
                    const pair *rows = (const pair *)a + i * pairs, *columns = laid + j;
                    half *to = out + i * out_row + j;
                    const int high = end - i >= VECTOR && vectors == 1 ? VECTOR : end - i >= HIGH ? HIGH : 1;
                    if (high == VECTOR) low_tile(VECTOR, 1, last, rows, columns, b_row, pairs, by, to, out_row);
                    else if (high == HIGH && vectors == 3) low_tile(HIGH, 3, last, rows, columns, b_row, pairs, by, to, out_row);
                    else if (high == HIGH && vectors == 2) low_tile(HIGH, 2, last, rows, columns, b_row, pairs, by, to, out_row);
                    else if (high == HIGH) low_tile(HIGH, 1, last, rows, columns, b_row, pairs, by, to, out_row);
                    else if (vectors == 3) low_tile(1, 3, last, rows, columns, b_row, pairs, by, to, out_row);
                    else if (vectors == 2) low_tile(1, 2, last, rows, columns, b_row, pairs, by, to, out_row);
                    else low_tile(1, 1, last, rows, columns, b_row, pairs, by, to, out_row);
                    i += high;
                }
            }
    }
    free(laid);
    return 0;
}

/* out [rank][width] = the sum over n of a [n][rank] and b [n][width], or, `turned`, out [width][rank]; float32. Rows of a `a_row`
 * numbers apart; width a multiple of 32, rank of 8. */
int over_rows(const half *a, long a_row, long n, long rank, const half *b, long width, long is_turned, float *out, long threads)
{
    const long pairs = filled(n) / 2;
    pair *laid = room(4 * rank * pairs);
    int failed = !laid;
    if (failed) return failed;
#pragma omp parallel num_threads((int)threads)
    {
        float *sums = room(4 * rank * PANEL);
        if (!sums)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(static)
        for (long k = 0; k < pairs; k++)
            for (long i = 0; i < rank; i++)
                laid[i * pairs + k] = beside(2 * k < n ? a[2 * k * a_row + i] : 0, 2 * k + 1 < n ? a[(2 * k + 1) * a_row + i] : 0);
#pragma omp for schedule(static)
        for (long j = 0; j < width; j += PANEL) {
            pair some[AT_A_TIME / 2 * PANEL] __attribute__((aligned(64)));
            for (long k = 0; k < n && sums; k += AT_A_TIME) {
                const long rows = least(AT_A_TIME, n - k);
                in_pairs(b + k * width + j, width, rows, PANEL, some, PANEL);
                for (long i = 0; i < rank; i += HIGH)
                    tile(HIGH, laid + i * pairs + k / 2, pairs, some, PANEL, (rows + 1) / 2, sums + i * PANEL, PANEL, k > 0);
            }
            for (long i = 0; i < rank && sums; i++)
                for (long column = 0; column < PANEL; column++)
                    out[is_turned ? (j + column) * rank + i : i * width + j + column] = sums[i * PANEL + column];
        }
        free(sums);
    }
    free(laid);
    return failed;
}

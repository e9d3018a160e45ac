/* Products that are narrow on one side, the rank of a LoRA adapter, in bfloat16, for x86 processors with AVX512-BF16.
 *
 * A library made for square products takes two to four times as long for these as for others of as many operations. Here the narrow
 * side stays in the first cache while the long one is read once. narrow.py calls it. Every function returns 1 where there
 * is no memory; sums are float32, in the same order whatever the number of threads.
 */
#include "products.h"

enum { WIDEST = 256 };

/* out [n][m] = scale x [n][k] w, rounded; w is [k][m], or where `by_columns` [m][k]. k a multiple of 32, m of 16, up to 256. */
int to_narrow(const half *x, long n, long k, const half *w, long w_row, long m, long by_columns, float scale, half *out, long out_row,
              long threads)
{
    const long panel = k / 2 * PANEL;
    pair *laid = room(4 * filled(m) / PANEL * panel);
    if (!laid) return 1;
#pragma omp parallel num_threads((int)threads)
    {
        if (by_columns) {
#pragma omp for schedule(static)
            for (long j = 0; j < m; j += PANEL)
                in_columns(w + j * w_row, w_row, least(m - j, PANEL), k, laid + j / PANEL * panel);
        } else {
#pragma omp for schedule(static)
            for (long i = 0; i < k; i += 2)
                for (long j = 0; j < m; j += PANEL)
                    side_by_side(w + i * w_row + j, w + (i + 1) * w_row + j, m - j, laid + j / PANEL * panel + i / 2 * PANEL);
        }
        float sums[BLOCK * WIDEST] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic)
        for (long i = 0; i < n; i += BLOCK) {
            long rows = least(n - i, BLOCK);
            product(rows, m, x + i * k, k / 2, laid, PANEL, panel, k / 2, sums, m, 0);
            for (long r = 0; r < rows; r++)
                for (long j = 0; j < m; j += VECTOR)
                    rounded(out + (i + r) * out_row + j, _mm512_mul_ps(_mm512_loadu_ps(sums + r * m + j), _mm512_set1_ps(scale)));
        }
    }
    free(laid);
    return 0;
}

/* y [n][m] += x [n][k] w, rounded; w is [k][m], or where `by_columns` [m][k]. k a multiple of 16, m of 32. */
int add_from_narrow(half *y, long n, long m, const half *x, long x_row, long k, const half *w, long w_row, long by_columns, long threads)
{
    const long panel = k / 2 * PANEL;
    pair *laid = room(4 * m / PANEL * panel);
    if (!laid) return 1;
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (long j = 0; j < m; j += PANEL) {
            pair *to = laid + j / PANEL * panel;
            if (by_columns)
                for (long one = 0; one < PANEL; one++)
                    for (long i = 0; i < k / 2; i++) to[i * PANEL + one] = ((const pair *)(w + (j + one) * w_row))[i];
            else
                for (long i = 0; i < k; i += 2) side_by_side(w + i * w_row + j, w + (i + 1) * w_row + j, PANEL, to + i / 2 * PANEL);
        }
        float sums[HIGH * PANEL] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic, 8)
        for (long i = 0; i < n; i += HIGH) {
            long rows = least(n - i, HIGH);
            for (long j = 0; j < m; j += PANEL) {
                half *to = y + i * m + j;
                tile_of(rows, (const pair *)(x + i * x_row), x_row / 2, laid + j / PANEL * panel, PANEL, k / 2, sums, PANEL, 0);
                for (long r = 0; r < rows; r++)
                    for (long v = 0; v < PANEL; v += VECTOR)
                        rounded(to + r * m + v, _mm512_add_ps(widened(to + r * m + v), _mm512_load_ps(sums + r * PANEL + v)));
            }
        }
    }
    free(laid);
    return 0;
}

/* out [m][k] = x [n][m] the other way round, times y [n][k]. m a multiple of 16, up to 256, k of 32. */
int over_tokens(const half *x, long x_row, long m, const half *y, long n, long k, float *out, long threads)
{
    const long blocks = (n + BLOCK - 1) / BLOCK, high = filled(m), each = high * BLOCK / 2;
    pair *laid = room(4 * blocks * each);
    if (!laid) return 1;
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (long b = 0; b < blocks; b++)
            for (long j = 0; j < m; j += PANEL)
                flipped(x + b * BLOCK * x_row + j, x_row, least(n - b * BLOCK, BLOCK), least(m - j, PANEL), laid + b * each + j * BLOCK / 2);
        pair beside[BLOCK / 2 * PANEL] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic)
        for (long j = 0; j < k; j += PANEL)
            for (long b = 0; b < blocks; b++) {
                long rows = least(n - b * BLOCK, BLOCK);
                in_pairs(y + b * BLOCK * k + j, k, rows, PANEL, beside, PANEL);
                product(m, PANEL, laid + b * each, BLOCK / 2, beside, PANEL, 0, filled(rows) / 2, out + j, k, b > 0);
            }
    }
    free(laid);
    return 0;
}

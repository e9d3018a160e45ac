/* Matmuls whose right operand is packed, for the types of bfloat16.h or float32.h. */

/* acc [rows][vectors] += a [rows][pairs] b [pairs][vectors], for at most TILE_ROWS rows of two
 * vectors or TALL_ROWS rows of one. */
static inline __attribute__((always_inline)) void accumulate_tile(int rows, int vectors,
                                                                  const pair_t *a, long a_stride,
                                                                  const pair_t *b, long b_stride,
                                                                  long pairs, vec_t acc[][2])
{
    for (long k = 0; k < pairs; k++) {
        pairs_t columns[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) columns[j] = load_pairs(b + k * b_stride + j * VECTOR);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            pairs_t a_pair = splat_pair(a[i * a_stride + k]);
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++)
                acc[i][j] = add_products(acc[i][j], a_pair, columns[j]);
        }
    }
}

/* out [rows][vectors] = a b, or out += a b if `accumulate`. */
static inline __attribute__((always_inline)) void
matmul_tile(int rows, int vectors, const pair_t *a, long a_stride, const pair_t *b, long b_stride,
            long pairs, float *out, long out_stride, int accumulate)
{
    vec_t acc[TALL_ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            acc[i][j] = accumulate ? load(out + i * out_stride + j * VECTOR) : splat(0);
    accumulate_tile(rows, vectors, a, a_stride, b, b_stride, pairs, acc);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) store(out + i * out_stride + j * VECTOR, acc[i][j]);
}

/* `matmul_tile` of a variable number of rows: a constant one in each case, so that the compiler
 * keeps the accumulators in registers. */
static inline __attribute__((always_inline)) void
matmul_rows(long rows, int vectors, const pair_t *a, long a_stride, const pair_t *b, long b_stride,
            long pairs, float *out, long out_stride, int accumulate)
{
    /* clang-format off */
    switch (rows) {
#define ROWS(n)                                                                                    \
    case n:                                                                                        \
        if (n <= (vectors == 1 ? TALL_ROWS : TILE_ROWS))                                           \
            matmul_tile(n, vectors, a, a_stride, b, b_stride, pairs, out, out_stride, accumulate); \
        break;
    ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8)
    ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14) ROWS(15) ROWS(16)
#undef ROWS
    }
    /* clang-format on */
}

/* out [m][n] = a [m][pairs] b, or out += a b if `accumulate`; n is a multiple of VECTOR. b is
 * packed in panels of PANEL columns, `b_panel` apart. */
static inline __attribute__((always_inline)) void
matmul(long m, long n, const void *a, long a_stride, const pair_t *b, long b_stride, long b_panel,
       long pairs, float *out, long out_stride, int accumulate)
{
    for (long j = 0; j < n; j += PANEL, b += b_panel) {
        const int vectors = n - j < PANEL ? 1 : 2;
        const long most = vectors == 1 ? TALL_ROWS : TILE_ROWS, tiles = (m + most - 1) / most;
        /* Tiles of about equal height: a low one has too few accumulators to keep the multiply-add
         * units busy. */
        for (long i = 0, tile = 0; tile < tiles; tile++) {
            const long rows = (m - i + tiles - tile - 1) / (tiles - tile);
            const pair_t *from = (const pair_t *)a + i * a_stride;
            float *to = out + i * out_stride + j;
            if (vectors == 1)
                matmul_rows(rows, 1, from, a_stride, b, b_stride, pairs, to, out_stride,
                            accumulate);
            else
                matmul_rows(rows, 2, from, a_stride, b, b_stride, pairs, to, out_stride,
                            accumulate);
            i += rows;
        }
    }
}

/* `matmul` without and with accumulation: separate functions, because inlining every use
 * multiplies the code. */
MAY_BE_UNUSED static __attribute__((noinline)) void
matmul_into(long m, long n, const void *a, long a_stride, const pair_t *b, long b_stride,
            long b_panel, long pairs, float *out, long out_stride)
{
    matmul(m, n, a, a_stride, b, b_stride, b_panel, pairs, out, out_stride, 0);
}

MAY_BE_UNUSED static __attribute__((noinline)) void
add_matmul(long m, long n, const void *a, long a_stride, const pair_t *b, long b_stride,
           long b_panel, long pairs, float *out, long out_stride)
{
    matmul(m, n, a, a_stride, b, b_stride, b_panel, pairs, out, out_stride, 1);
}

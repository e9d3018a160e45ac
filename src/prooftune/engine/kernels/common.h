/* Shared helpers of the bfloat16 kernels for x86 CPUs with AVX512-BF16: matmul micro-kernels,
 * packing, and exp2.
 *
 * The matmul instruction, VDPBF16PS, multiplies pairs of bfloat16 and accumulates in float32. The
 * left operand (A) is read as pairs from its rows. The right operand (B) needs, in one vector, a
 * pair from each of 16 columns, so it is packed first: by `pack_transposed` when its columns are
 * rows in memory, by `pack_pairs` when its rows are.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAY_BE_UNUSED __attribute__((unused))

enum {
    PANEL = 32,    /* columns of a matmul computed at a time: two vectors */
    TILE_ROWS = 8, /* rows computed at a time; with two vectors of columns, all accumulators stay in
                      registers */
    VECTOR = 16,   /* float32 values, or bfloat16 pairs, in a 512-bit register */
    BLOCK = 32, /* queries, and keys, of one attention block; everything computed for a block stays
                   in the L1 cache */
};

typedef uint16_t bf16_t;   /* one bfloat16 */
typedef uint32_t bf16x2_t; /* two consecutive bfloat16 */

static inline long round_up_to_panel(long n)
{
    return (n + PANEL - 1) / PANEL * PANEL;
}
static inline long round_up_to_vector(long n)
{
    return (n + VECTOR - 1) / VECTOR * VECTOR;
}
static inline long min(long a, long b)
{
    return a < b ? a : b;
}

static inline void *alloc(size_t bytes)
{
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

/* Rounds 16 float32 values to bfloat16 and stores them. */
static inline void store_bf16(bf16_t *to, __m512 x)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

/* Loads 16 bfloat16 values as float32. A bfloat16 is the upper half of a float32. */
static inline __m512 load_bf16(const bf16_t *x)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

/* ---- matmul ---- */

/* acc [rows][16 x vectors] += a [rows][pairs] b [pairs][16 x vectors], for at most TILE_ROWS rows
 * of two vectors or VECTOR rows of one. */
static inline __attribute__((always_inline)) void accumulate_tile(int rows, int vectors,
                                                                  const bf16x2_t *a, long a_stride,
                                                                  const bf16x2_t *b, long b_stride,
                                                                  long pairs, __m512 acc[][2])
{
    for (long k = 0; k < pairs; k++) {
        __m512bh columns[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            columns[j] = (__m512bh)_mm512_loadu_si512(b + k * b_stride + j * VECTOR);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            __m512bh a_pair = (__m512bh)_mm512_set1_epi32((int)a[i * a_stride + k]);
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++)
                acc[i][j] = _mm512_dpbf16_ps(acc[i][j], a_pair, columns[j]);
        }
    }
}

/* out [rows][16 x vectors] = a b, or out += a b if `accumulate`. */
static inline __attribute__((always_inline)) void
matmul_tile(int rows, int vectors, const bf16x2_t *a, long a_stride, const bf16x2_t *b,
            long b_stride, long pairs, float *out, long out_stride, int accumulate)
{
    __m512 acc[VECTOR][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            acc[i][j] = accumulate ? _mm512_loadu_ps(out + i * out_stride + j * VECTOR)
                                   : _mm512_setzero_ps();
    accumulate_tile(rows, vectors, a, a_stride, b, b_stride, pairs, acc);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            _mm512_storeu_ps(out + i * out_stride + j * VECTOR, acc[i][j]);
}

/* `matmul_tile` of a variable number of rows: a constant one in each case, so that the compiler
 * keeps the accumulators in registers. */
static inline __attribute__((always_inline)) void
matmul_rows(long rows, int vectors, const bf16x2_t *a, long a_stride, const bf16x2_t *b,
            long b_stride, long pairs, float *out, long out_stride, int accumulate)
{
    /* clang-format off */
    switch (rows) {
#define ROWS(n)                                                                                    \
    case n:                                                                                        \
        matmul_tile(n, vectors, a, a_stride, b, b_stride, pairs, out, out_stride, accumulate);     \
        break;
    ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8)
    ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14) ROWS(15) ROWS(16)
#undef ROWS
    }
    /* clang-format on */
}

/* out [m][n] = a [m][pairs] b, or out += a b if `accumulate`; n is a multiple of 16. b is packed in
 * panels of 32 columns, `b_panel` apart. */
static inline __attribute__((always_inline)) void
matmul(long m, long n, const void *a, long a_stride, const bf16x2_t *b, long b_stride, long b_panel,
       long pairs, float *out, long out_stride, int accumulate)
{
    for (long j = 0; j < n; j += PANEL, b += b_panel) {
        const int vectors = n - j < PANEL ? 1 : 2;
        const long most = vectors == 1 ? VECTOR : TILE_ROWS, tiles = (m + most - 1) / most;
        /* Tiles of about equal height: a low one has too few accumulators to keep the units for
         * VDPBF16PS busy. */
        for (long i = 0, tile = 0; tile < tiles; tile++) {
            const long rows = (m - i + tiles - tile - 1) / (tiles - tile);
            const bf16x2_t *from = (const bf16x2_t *)a + i * a_stride;
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

/* `matmul` without and with accumulation: functions of their own, because inlining every use
 * multiplies the code. */
MAY_BE_UNUSED static __attribute__((noinline)) void
matmul_into(long m, long n, const void *a, long a_stride, const bf16x2_t *b, long b_stride,
            long b_panel, long pairs, float *out, long out_stride)
{
    matmul(m, n, a, a_stride, b, b_stride, b_panel, pairs, out, out_stride, 0);
}

MAY_BE_UNUSED static __attribute__((noinline)) void
add_matmul(long m, long n, const void *a, long a_stride, const bf16x2_t *b, long b_stride,
           long b_panel, long pairs, float *out, long out_stride)
{
    matmul(m, n, a, a_stride, b, b_stride, b_panel, pairs, out, out_stride, 1);
}

/* ---- packing ---- */

/* Transposes 16 rows of 16 pairs, of which the first `rows` exist; the others count as zeros. */
MAY_BE_UNUSED static void transpose_16x16(const bf16x2_t *from, long from_stride, long rows,
                                          bf16x2_t *to, long to_stride)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = i < rows ? _mm512_loadu_si512(from + i * from_stride) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    /* Now the four 128-bit lanes of a[4 i + j] hold columns j, j + 4, j + 8, j + 12 of rows 4 i to
     * 4 i + 3. */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i even = _mm512_shuffle_i32x4(a[j], a[j + 4], 0x88),
                odd = _mm512_shuffle_i32x4(a[j], a[j + 4], 0xdd);
        __m512i even2 = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0x88),
                odd2 = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0xdd);
        _mm512_storeu_si512(to + j * to_stride, _mm512_shuffle_i32x4(even, even2, 0x88));
        _mm512_storeu_si512(to + (j + 4) * to_stride, _mm512_shuffle_i32x4(odd, odd2, 0x88));
        _mm512_storeu_si512(to + (j + 8) * to_stride, _mm512_shuffle_i32x4(even, even2, 0xdd));
        _mm512_storeu_si512(to + (j + 12) * to_stride, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
    }
}

/* Packs vectors [n][size] as panels of 32 columns, [size / 2 pairs][32 vectors], the last one
 * zero-padded; size is a multiple of 32. */
MAY_BE_UNUSED static void pack_transposed(const bf16_t *from, long from_stride, long n, long size,
                                          bf16x2_t *to)
{
    for (long first = 0; first < n; first += PANEL, to += size / 2 * PANEL)
        for (long j = 0; j < PANEL; j += 16)
            for (long k = 0; k < size / 2; k += 16)
                transpose_16x16((const bf16x2_t *)(from + (first + j) * from_stride) + k,
                                from_stride / 2, n - first - j, to + k * PANEL + j, PANEL);
}

/* Interleaves 32 values of two rows, either of which may be NULL (zeros), into 32 pairs. */
static inline void interleave_rows(const bf16_t *a, const bf16_t *b, bf16x2_t *to)
{
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    __m512i row_a = a ? _mm512_loadu_si512(a) : _mm512_setzero_si512(),
            row_b = b ? _mm512_loadu_si512(b) : _mm512_setzero_si512();
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(row_a, low, row_b));
    _mm512_storeu_si512(to + VECTOR, _mm512_permutex2var_epi16(row_a, high, row_b));
}

/* Packs vectors [n][columns] as [pairs of vectors][columns], zero-padded to a multiple of 32
 * vectors; columns is a multiple of 32. */
MAY_BE_UNUSED static void pack_pairs(const bf16_t *from, long from_stride, long n, long columns,
                                     bf16x2_t *to, long to_stride)
{
    for (long i = 0; i < round_up_to_panel(n); i += 2, to += to_stride)
        for (long k = 0; k < columns; k += 32)
            interleave_rows(i < n ? from + i * from_stride + k : NULL,
                            i + 1 < n ? from + (i + 1) * from_stride + k : NULL, to + k);
}

/* Transposes [n][BLOCK] values, n at most BLOCK, into pairs [BLOCK][pairs of the n], zero-padded.
 */
MAY_BE_UNUSED static void transpose_block(const bf16_t *from, long from_stride, long n,
                                          bf16x2_t *to)
{
    bf16x2_t interleaved[BLOCK / 2 * BLOCK] __attribute__((aligned(64)));
    pack_pairs(from, from_stride, n, BLOCK, interleaved, BLOCK);
    for (long j = 0; j < BLOCK; j += 16)
        transpose_16x16(interleaved + j, BLOCK, 16, to + j * (BLOCK / 2), BLOCK / 2);
}

/* ---- functions ---- */

/* 2^x with a relative error of 2e-7: a Taylor polynomial of the fraction in [-1/2, 1/2]. The result
 * is rounded to bfloat16 later, so this is enough. */
static inline __m512 exp2_ps(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-1000.0f), x); /* in this order NaN stays NaN */
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
           fraction = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.5403530e-4f); /* ln(2)^k / k!, from k = 6 down */
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(1.3333558e-3f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, fraction, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

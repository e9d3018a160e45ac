/* Products of pairs of 16-bit numbers, added up in 32 bits (VDPBF16PS), and what they are laid out with, for x86 processors with
 * AVX512-BF16.
 *
 * Of a product's operands one is read in pairs from its rows; of the other each vector has a pair from each of 16 columns, so that
 * it is laid out first: by `in_columns` where its columns are rows in memory, by `in_pairs` where its rows are.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAY_BE_UNUSED __attribute__((unused))

enum {
    PANEL = 32, /* columns of a product that are computed at a time: two vectors */
    HIGH = 8,   /* and its rows: with their columns, all sums stay in registers */
    VECTOR = 16,
    BLOCK = 32, /* queries, and keys, that attention goes through at a time: all that is computed of them stays in the first cache */
};

typedef uint16_t half; /* a bfloat16 */
typedef uint32_t pair; /* two of them */

static inline long filled(long n) { return (n + PANEL - 1) / PANEL * PANEL; }
static inline long least(long a, long b) { return a < b ? a : b; }

static inline void *room(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

static inline void rounded(half *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

static inline __m512 widened(const half *x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

/* ---- products ---- */

/* To the sums of `rows` rows, at most HIGH, and 32 columns is added a [rows][pairs] b [pairs][32]. */
static inline __attribute__((always_inline)) void add_pairs(
    int rows, const pair *a, long a_row, const pair *b, long b_row, long pairs, __m512 sums[][2])
{
    for (long k = 0; k < pairs; k++) {
        __m512bh left = (__m512bh)_mm512_loadu_si512(b + k * b_row), right = (__m512bh)_mm512_loadu_si512(b + k * b_row + VECTOR);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512bh one = (__m512bh)_mm512_set1_epi32((int)a[i * a_row + k]);
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], one, left);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], one, right);
        }
    }
}

static inline __attribute__((always_inline)) void tile(
    int rows, const pair *a, long a_row, const pair *b, long b_row, long pairs, float *out, long out_row, int added)
{
    __m512 sums[HIGH][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 2; j++) sums[i][j] = added ? _mm512_loadu_ps(out + i * out_row + j * VECTOR) : _mm512_setzero_ps();
    add_pairs(rows, a, a_row, b, b_row, pairs, sums);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 2; j++) _mm512_storeu_ps(out + i * out_row + j * VECTOR, sums[i][j]);
}

/* out [m][n] = a [m][pairs] b, or that added to it; n a multiple of 32. b is laid out in panels of 32 of the columns, `b_panel`
 * apart. */
MAY_BE_UNUSED static void product(long m, long n, const void *a, long a_row, const pair *b, long b_row, long b_panel, long pairs,
                                  float *out, long out_row, int added)
{
    for (long j = 0; j < n; j += PANEL, b += b_panel)
        for (long i = 0; i < m; i += HIGH) {
            const pair *rows = (const pair *)a + i * a_row;
            float *to = out + i * out_row + j;
            switch (least(m - i, HIGH)) {
            case 8:
                if (added) tile(8, rows, a_row, b, b_row, pairs, to, out_row, 1);
                else tile(8, rows, a_row, b, b_row, pairs, to, out_row, 0);
                break;
            case 7: tile(7, rows, a_row, b, b_row, pairs, to, out_row, added); break;
            case 6: tile(6, rows, a_row, b, b_row, pairs, to, out_row, added); break;
            case 5: tile(5, rows, a_row, b, b_row, pairs, to, out_row, added); break;
            case 4: tile(4, rows, a_row, b, b_row, pairs, to, out_row, added); break;
            case 3: tile(3, rows, a_row, b, b_row, pairs, to, out_row, added); break;
            case 2: tile(2, rows, a_row, b, b_row, pairs, to, out_row, added); break;
            default: tile(1, rows, a_row, b, b_row, pairs, to, out_row, added);
            }
        }
}

/* ---- layouts ---- */

/* 16 rows of 16 pairs, of which `rows` are there, the other way round: zeros for the others. */
MAY_BE_UNUSED static void turned(const pair *from, long from_row, long rows, pair *to, long to_row)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = i < rows ? _mm512_loadu_si512(from + i * from_row) : _mm512_setzero_si512();
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
    /* Now a[4 i + j] has, in its fourths, columns j, j + 4, j + 8, j + 12 of rows 4 i to 4 i + 3. */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i even = _mm512_shuffle_i32x4(a[j], a[j + 4], 0x88), odd = _mm512_shuffle_i32x4(a[j], a[j + 4], 0xdd);
        __m512i even2 = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0x88), odd2 = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0xdd);
        _mm512_storeu_si512(to + j * to_row, _mm512_shuffle_i32x4(even, even2, 0x88));
        _mm512_storeu_si512(to + (j + 4) * to_row, _mm512_shuffle_i32x4(odd, odd2, 0x88));
        _mm512_storeu_si512(to + (j + 8) * to_row, _mm512_shuffle_i32x4(even, even2, 0xdd));
        _mm512_storeu_si512(to + (j + 12) * to_row, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
    }
}

/* Vectors [n][size] as panels of 32 columns, [pairs of one vector's numbers][32 vectors], the last filled up with zeros; size a
 * multiple of 32. */
MAY_BE_UNUSED static void in_columns(const half *from, long from_row, long n, long size, pair *to)
{
    for (long first = 0; first < n; first += PANEL, to += size / 2 * PANEL)
        for (long j = 0; j < PANEL; j += 16)
            for (long k = 0; k < size / 2; k += 16)
                turned((const pair *)(from + (first + j) * from_row) + k, from_row / 2, n - first - j, to + k * PANEL + j, PANEL);
}

/* 32 numbers of two rows, or zeros for one that is NULL, as 32 pairs. */
static inline void side_by_side(const half *a, const half *b, pair *to)
{
    const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4,
                                           35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    __m512i one = a ? _mm512_loadu_si512(a) : _mm512_setzero_si512(), other = b ? _mm512_loadu_si512(b) : _mm512_setzero_si512();
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(one, first, other));
    _mm512_storeu_si512(to + VECTOR, _mm512_permutex2var_epi16(one, second, other));
}

/* Vectors [n][columns] as [pairs of vectors][columns], filled up with zeros to a multiple of 32 vectors; columns as well. */
MAY_BE_UNUSED static void in_pairs(const half *from, long from_row, long n, long columns, pair *to, long to_row)
{
    for (long i = 0; i < filled(n); i += 2, to += to_row)
        for (long k = 0; k < columns; k += 32)
            side_by_side(i < n ? from + i * from_row + k : NULL, i + 1 < n ? from + (i + 1) * from_row + k : NULL, to + k);
}

/* Numbers [n][BLOCK], up to BLOCK rows, the other way round, as pairs: [BLOCK][pairs of the n], filled up with zeros. */
MAY_BE_UNUSED static void flipped(const half *from, long n, pair *to)
{
    pair beside[BLOCK / 2 * BLOCK] __attribute__((aligned(64)));
    in_pairs(from, BLOCK, n, BLOCK, beside, BLOCK);
    for (long j = 0; j < BLOCK; j += 16) turned(beside + j, BLOCK, 16, to + j * (BLOCK / 2), BLOCK / 2);
}

/* ---- functions ---- */

/* 2^x, to 2e-7 of it: a Taylor polynomial of the fraction in [-1/2, 1/2], whose rounding to bfloat16 is what counts. */
static inline __m512 power(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-1000.0f), x); /* which leaves what is not a number as it is */
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), rest = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.5403530e-4f); /* ln(2)^k / k! */
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.3333558e-3f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

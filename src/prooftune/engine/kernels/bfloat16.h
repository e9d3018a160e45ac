/* Vectors of bfloat16 arrays for x86 CPUs with AVX512-BF16: types, operations, packing. float32.h
 * has the same names for float32 arrays; common.h includes one of them.
 *
 * The matmul instruction, VDPBF16PS, multiplies pairs of bfloat16 and accumulates in float32. The
 * left operand (A) is read as pairs from its rows. The right operand (B) needs, in one vector, a
 * pair from each of 16 columns, so it is packed first: by `pack_transposed` when its columns are
 * rows in memory, by `pack_pairs` when its rows are.
 */
#include <immintrin.h>

typedef uint16_t bf16_t;   /* one bfloat16 */
typedef uint32_t bf16x2_t; /* two consecutive bfloat16 */
typedef bf16_t real_t;     /* element of an array */
typedef bf16x2_t pair_t;   /* PAIR of them */
typedef __m512 vec_t;      /* VECTOR float32 values */
typedef __m512bh pairs_t;  /* VECTOR pairs */
typedef __mmask16 mask_t;

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

/* ---- operations ---- */

static inline vec_t load_real(const real_t *from)
{
    return load_bf16(from);
}
static inline void store_real(real_t *to, vec_t x)
{
    store_bf16(to, x);
}
/* Stores the first `count` values, at most all. */
static inline void store_first(real_t *to, vec_t x, long count)
{
    const mask_t mask = count >= VECTOR ? 0xffff : (mask_t)((1 << count) - 1);
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}
/* x as it is after `store_real` and `load_real` */
static inline vec_t round_to_real(vec_t x)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}
static inline vec_t load(const float *from)
{
    return _mm512_loadu_ps(from);
}
static inline void store(float *to, vec_t x)
{
    _mm512_storeu_ps(to, x);
}
static inline vec_t splat(float x)
{
    return _mm512_set1_ps(x);
}
/* a b + c */
static inline vec_t multiply_add(vec_t a, vec_t b, vec_t c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* a b - c */
static inline vec_t multiply_subtract(vec_t a, vec_t b, vec_t c)
{
    return _mm512_fmsub_ps(a, b, c);
}
/* c - a b */
static inline vec_t subtract_product(vec_t c, vec_t a, vec_t b)
{
    return _mm512_fnmadd_ps(a, b, c);
}
static inline float reduce_add(vec_t x)
{
    return _mm512_reduce_add_ps(x);
}
static inline float reduce_max(vec_t x)
{
    return _mm512_reduce_max_ps(x);
}
static inline int any_greater(vec_t x, float bound)
{
    return _mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0;
}

/* Mask of the positions from j on that satisfy low <= position < end. */
static inline mask_t range_mask(long j, long low, long end)
{
    const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i position = _mm512_add_epi32(steps, _mm512_set1_epi32((int)j));
    return _mm512_cmplt_epi32_mask(position, _mm512_set1_epi32((int)end)) &
           _mm512_cmpge_epi32_mask(position, _mm512_set1_epi32((int)low));
}
/* x where the mask is set, else 0. */
static inline vec_t keep(mask_t mask, vec_t x)
{
    return _mm512_maskz_mov_ps(mask, x);
}
/* The maximum of a and b where the mask is set, else a. */
static inline vec_t max_where(mask_t mask, vec_t a, vec_t b)
{
    return _mm512_mask_max_ps(a, mask, a, b);
}
/* a where x >= 0, else b. */
static inline vec_t select_nonnegative(vec_t x, vec_t a, vec_t b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), b, a);
}
static inline vec_t absolute(vec_t x)
{
    return _mm512_abs_ps(x);
}

static inline pairs_t load_pairs(const pair_t *from)
{
    return (pairs_t)_mm512_loadu_si512(from);
}
static inline pairs_t splat_pair(pair_t x)
{
    return (pairs_t)_mm512_set1_epi32((int)x);
}
/* acc + the products of the pairs of a and b */
static inline vec_t add_products(vec_t acc, pairs_t a, pairs_t b)
{
    return _mm512_dpbf16_ps(acc, a, b);
}

/* 2^x with a relative error of 2e-7: a Taylor polynomial of the fraction in [-1/2, 1/2]. The result
 * is rounded to bfloat16 later, so this is enough. */
static inline vec_t exp2_vec(vec_t x)
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

/* ---- packing ---- */

/* Converts to the type of arrays; count is a multiple of 8. */
MAY_BE_UNUSED static void to_real(const float *from, long count, real_t *to)
{
    for (long i = 0; i < count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i),
                         (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(from + i)));
}

/* The pair of two values `stride` apart, of which only the first `count` exist; else zeros. */
static inline pair_t gather_pair(const real_t *from, long stride, long count)
{
    return (count > 0 ? from[0] : 0) | (pair_t)(count > 1 ? from[stride] : 0) << 16;
}

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

/* Packs PANEL values of PAIR float32 rows. */
MAY_BE_UNUSED static void pack_float_rows(const float *from, long from_stride, pair_t *to)
{
    real_t rows[2 * PANEL];
    for (long i = 0; i < 2; i++) to_real(from + i * from_stride, PANEL, rows + i * PANEL);
    interleave_rows(rows, rows + PANEL, to);
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

/* Products of activations and frozen weights in 8 bits, added up exactly in 32 (VPDPBUSD), for x86 processors with AVX512-VNNI.
 * int8_linear.py calls it.
 *
 * Both operands have a scale for every `group` numbers along what is added up: activations for each row, weights for each column.
 * The instruction multiplies bytes without a sign by bytes with one: activations have 128 added, and sums begin with what that adds,
 * taken away.
 */
#include "common.h"

enum { TALL = 6 }; /* rows at a time: their sums, whole and scaled, with two vectors of columns stay in registers */

typedef int8_t byte;

/* What a number is multiplied with to have its byte; 0 where all are zero. What is not a number stays none. */
static inline __m512 per_byte(__m512 largest)
{
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_NEQ_UQ), _mm512_set1_ps(127), largest);
}

/* The largest of 16 sizes; what is not a number is larger than all. */
static inline __m512 largest_of(__m512 sizes)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(_mm512_castps_si512(sizes))));
}

static inline __m512 larger(__m512 a, __m512 b) /* of two vectors of sizes */
{
    const __m512i bits = _mm512_set1_epi32(0x7fffffff);
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_and_si512(bits, _mm512_castps_si512(b))));
}

static inline __m512i in_bytes(__m512 x, __m512 by) { return _mm512_cvtps_epi32(_mm512_mul_ps(x, by)); }

/* Rows x [n][depth], each number times its column's factor, as bytes + 128, and what a byte stands for, by groups; rows of both are
 * so far apart, to stand beside others. */
int quantised(const half *x, long n, long depth, long group, const float *factors, uint8_t *to, long to_row, float *scales,
              long scales_row, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++)
        for (long k = 0; k < depth; k += group) {
            const half *from = x + i * depth + k;
            __m512 most = _mm512_setzero_ps();
            for (long j = 0; j < group; j += VECTOR)
                most = larger(most, _mm512_mul_ps(widened(from + j), _mm512_loadu_ps(factors + k + j)));
            most = largest_of(most);
            scales[i * scales_row + k / group] = _mm512_cvtss_f32(most) / 127;
            most = per_byte(most);
            for (long j = 0; j < group; j += VECTOR) {
                __m512i bytes = in_bytes(_mm512_mul_ps(widened(from + j), _mm512_loadu_ps(factors + k + j)), most);
                _mm_storeu_si128((__m128i *)(to + i * to_row + k + j), _mm512_cvtepi32_epi8(_mm512_xor_si512(bytes, _mm512_set1_epi32(128))));
            }
        }
    return 0;
}

/* Weights [width][depth], one row for a column of the product, each number divided by its factor [depth], in panels
 * [width / 32][depth / 4][32][4]; and by panels and groups [width / 32][depth / group][32] what a byte stands for and where sums
 * begin. */
int laid_out(const half *weights, long width, long depth, long group, const float *factors, byte *panels, int *starts, float *scales,
             long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long j = 0; j < width; j++) {
        const half *from = weights + j * depth;
        byte *panel = panels + j / PANEL * PANEL * depth + j % PANEL * 4;
        long at = j / PANEL * PANEL * (depth / group) + j % PANEL;
        for (long k = 0; k < depth; k += group, at += PANEL) {
            __m512 most = _mm512_setzero_ps();
            for (long i = k; i < k + group; i += VECTOR)
                most = larger(most, _mm512_div_ps(widened(from + i), _mm512_loadu_ps(factors + i)));
            most = largest_of(most);
            scales[at] = _mm512_cvtss_f32(most) / 127;
            most = per_byte(most);
            __m512i sums = _mm512_setzero_si512();
            for (long i = k; i < k + group; i += VECTOR) {
                __m512i numbers = in_bytes(_mm512_div_ps(widened(from + i), _mm512_loadu_ps(factors + i)), most);
                sums = _mm512_add_epi32(sums, numbers);
                int fours[4];
                _mm_storeu_si128((__m128i *)fours, _mm512_cvtepi32_epi8(numbers));
                for (int four = 0; four < 4; four++) memcpy(panel + (i / 4 + four) * PANEL * 4, fours + four, 4);
            }
            starts[at] = -128 * _mm512_reduce_add_epi32(sums);
        }
    }
    return 0;
}

/* The same of weights [depth][width], one column for a column of the product, as they are. */
int laid_out_turned(const half *weights, long width, long depth, long group, byte *panels, int *starts, float *scales, long threads)
{
    const __m512i last = _mm512_set1_epi32(255);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long j = 0; j < width; j += VECTOR) {
        const half *from = weights + j;
        byte *panel = panels + j / PANEL * PANEL * depth + j % PANEL * 4;
        long at = j / PANEL * PANEL * (depth / group) + j % PANEL;
        for (long k = 0; k < depth; k += group, at += PANEL) {
            __m512 most = _mm512_setzero_ps();
            for (long i = k; i < k + group; i++) most = larger(most, widened(from + i * width));
            _mm512_storeu_ps(scales + at, _mm512_div_ps(most, _mm512_set1_ps(127)));
            most = per_byte(most);
            __m512i sums = _mm512_setzero_si512();
            for (long i = k; i < k + group; i += 4, panel += PANEL * 4) {
                __m512i fours = _mm512_setzero_si512();
                for (int four = 3; four >= 0; four--) {
                    __m512i numbers = in_bytes(widened(from + (i + four) * width), most);
                    sums = _mm512_add_epi32(sums, numbers);
                    fours = _mm512_or_si512(_mm512_slli_epi32(fours, 8), _mm512_and_si512(numbers, last));
                }
                _mm512_storeu_si512(panel, fours);
            }
            _mm512_storeu_si512(starts + at, _mm512_mullo_epi32(sums, _mm512_set1_epi32(-128)));
        }
    }
    return 0;
}

static inline __attribute__((always_inline)) void byte_tile(
    int rows, const uint8_t *a, const float *scales, const __m512i *panel, const __m512i *starts, const float *columns,
    long depth, long group, __m512 sums[TALL][2])
{
    const long groups = depth / group;
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (long g = 0; g < groups; g++, a += group, starts += 2, columns += PANEL) {
        __m512i whole[TALL][2];
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) whole[i][0] = starts[0], whole[i][1] = starts[1];
        for (long k = 0; k < group; k += 4, panel += 2) {
            __m512i left = panel[0], right = panel[1];
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                int four;
                memcpy(&four, a + i * depth + k, 4);
                __m512i one = _mm512_set1_epi32(four);
                whole[i][0] = _mm512_dpbusd_epi32(whole[i][0], one, left);
                whole[i][1] = _mm512_dpbusd_epi32(whole[i][1], one, right);
            }
        }
        __m512 first = _mm512_loadu_ps(columns), second = _mm512_loadu_ps(columns + VECTOR);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m512 by = _mm512_set1_ps(scales[i * groups + g]);
            sums[i][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[i][0]), _mm512_mul_ps(by, first), sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[i][1]), _mm512_mul_ps(by, second), sums[i][1]);
        }
    }
}

static inline __m512 once_rounded(__m512 x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}

/* The sums, rounded; then what the adapter adds, low [rows][2 pairs] up [pairs][32], rounded as well. */
static inline __attribute__((always_inline)) void adapted(
    int rows, __m512 sums[TALL][2], const pair *low, long low_row, const pair *up, long pairs, half *out, long out_row)
{
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) sums[i][0] = once_rounded(sums[i][0]), sums[i][1] = once_rounded(sums[i][1]);
    add_pairs(rows, low, low_row, up, PANEL, pairs, sums);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) rounded(out + i * out_row, sums[i][0]), rounded(out + i * out_row + VECTOR, sums[i][1]);
}

/* out [n][width] = a [n][depth] b + low [n][rank] up, with a of `quantised`, b of `laid_out`; up [rank / 2][width] pairs, rows of low
 * `low_row` numbers apart; width and depth multiples of 32, rank of 2. */
int int8_product(const uint8_t *a, const float *scales, long n, long depth, long group, const byte *panels, const int *starts,
                 const float *columns, long width, const half *low, long low_row, long rank, const pair *up, half *out, long threads)
{
    const long groups = depth / group, pairs = rank / 2;
    int failed = 0;
#pragma omp parallel num_threads((int)threads)
    {
        pair *some = room(4 * PANEL * pairs); /* of this panel's columns */
        if (!some)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(dynamic)
        for (long j = 0; j < width; j += PANEL) {
            if (!some) continue;
            const __m512i *panel = (const __m512i *)(panels + j * depth), *start = (const __m512i *)(starts + j * groups);
            for (long k = 0; k < pairs; k++) memcpy(some + k * PANEL, up + k * width + j, 4 * PANEL);
            for (long i = 0; i < n;) {
                __m512 sums[TALL][2];
                const uint8_t *rows = a + i * depth;
                const float *by = scales + i * groups;
                const pair *narrow = (const pair *)(low + i * low_row);
                half *to = out + i * width + j;
                if (n - i >= TALL) {
                    byte_tile(TALL, rows, by, panel, start, columns + j * groups, depth, group, sums);
                    adapted(TALL, sums, narrow, low_row / 2, some, pairs, to, width);
                    i += TALL;
                } else {
                    byte_tile(1, rows, by, panel, start, columns + j * groups, depth, group, sums);
                    adapted(1, sums, narrow, low_row / 2, some, pairs, to, width);
                    i += 1;
                }
            }
        }
        free(some);
    }
    return failed;
}

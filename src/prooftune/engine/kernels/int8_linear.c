/* int8 matmuls of activations and frozen weights, accumulated exactly in int32 (VPDPBUSD), for x86
 * CPUs with AVX512-VNNI. Called by int8_linear.py.
 *
 * Both operands are quantized with one scale per group of `group` values along the reduction axis:
 * activations per row, weights per column. VPDPBUSD multiplies unsigned by signed bytes, so
 * activations are stored with an offset of 128; accumulators start from the correction that cancels
 * the offset.
 */
#include "common.h"

enum {
    INT8_ROWS = 6
}; /* rows at a time: their int32 and float32 accumulators, with two vectors of columns, stay in
      registers */

/* 127 / largest: the factor from values to bytes; 0 where all values are zero. NaN stays NaN. */
static inline __m512 quantization_factor(__m512 largest)
{
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_NEQ_UQ),
                               _mm512_set1_ps(127), largest);
}

/* The largest of 16 magnitudes. Compared as integers, NaN is larger than any number. */
static inline __m512 group_max(__m512 magnitudes)
{
    return _mm512_castsi512_ps(
        _mm512_set1_epi32(_mm512_reduce_max_epi32(_mm512_castps_si512(magnitudes))));
}

/* max(a, |b|), with NaN larger than any number. */
static inline __m512 max_abs(__m512 a, __m512 b)
{
    const __m512i bits = _mm512_set1_epi32(0x7fffffff);
    return _mm512_castsi512_ps(
        _mm512_max_epi32(_mm512_castps_si512(a), _mm512_and_si512(bits, _mm512_castps_si512(b))));
}

static inline __m512i quantize(__m512 x, __m512 factor)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
}

/* Quantizes rows x [n][depth], each value multiplied by its column's factor, to bytes + 128, and
 * their scales by groups. `to_stride` and `scales_stride` are the distances between output rows, so
 * that several arrays can be written side by side. */
int quantize_rows(const bf16_t *x, long n, long depth, long group, const float *factors,
                  uint8_t *to, long to_stride, float *scales, long scales_stride, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++)
        for (long k = 0; k < depth; k += group) {
            const bf16_t *from = x + i * depth + k;
            __m512 largest = _mm512_setzero_ps();
            for (long j = 0; j < group; j += VECTOR)
                largest = max_abs(
                    largest, _mm512_mul_ps(load_bf16(from + j), _mm512_loadu_ps(factors + k + j)));
            largest = group_max(largest);
            scales[i * scales_stride + k / group] = _mm512_cvtss_f32(largest) / 127;
            largest = quantization_factor(largest);
            for (long j = 0; j < group; j += VECTOR) {
                __m512i bytes = quantize(
                    _mm512_mul_ps(load_bf16(from + j), _mm512_loadu_ps(factors + k + j)), largest);
                _mm_storeu_si128(
                    (__m128i *)(to + i * to_stride + k + j),
                    _mm512_cvtepi32_epi8(_mm512_xor_si512(bytes, _mm512_set1_epi32(128))));
            }
        }
    return 0;
}

/* Quantizes and packs weights [width][depth], one row per output column, each value divided by its
 * factor [depth], in panels [width / 32][depth / 4][32][4]; and per panel and group [width /
 * 32][depth / group][32] the scales and the offset corrections. */
int pack_weights(const bf16_t *weights, long width, long depth, long group, const float *factors,
                 int8_t *panels, int *corrections, float *scales, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long j = 0; j < width; j++) {
        const bf16_t *from = weights + j * depth;
        int8_t *panel = panels + j / PANEL * PANEL * depth + j % PANEL * 4;
        long at = j / PANEL * PANEL * (depth / group) + j % PANEL;
        for (long k = 0; k < depth; k += group, at += PANEL) {
            __m512 largest = _mm512_setzero_ps();
            for (long i = k; i < k + group; i += VECTOR)
                largest = max_abs(largest,
                                  _mm512_div_ps(load_bf16(from + i), _mm512_loadu_ps(factors + i)));
            largest = group_max(largest);
            scales[at] = _mm512_cvtss_f32(largest) / 127;
            largest = quantization_factor(largest);
            __m512i sums = _mm512_setzero_si512();
            for (long i = k; i < k + group; i += VECTOR) {
                __m512i values = quantize(
                    _mm512_div_ps(load_bf16(from + i), _mm512_loadu_ps(factors + i)), largest);
                sums = _mm512_add_epi32(sums, values);
                int quads[4]; /* four bytes each */
                _mm_storeu_si128((__m128i *)quads, _mm512_cvtepi32_epi8(values));
                for (int quad = 0; quad < 4; quad++)
                    memcpy(panel + (i / 4 + quad) * PANEL * 4, quads + quad, 4);
            }
            corrections[at] = -128 * _mm512_reduce_add_epi32(sums);
        }
    }
    return 0;
}

/* The same for weights [depth][width], one column per output column, without factors. */
int pack_transposed_weights(const bf16_t *weights, long width, long depth, long group,
                            int8_t *panels, int *corrections, float *scales, long threads)
{
    const __m512i low_byte = _mm512_set1_epi32(255);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long j = 0; j < width; j += VECTOR) {
        const bf16_t *from = weights + j;
        int8_t *panel = panels + j / PANEL * PANEL * depth + j % PANEL * 4;
        long at = j / PANEL * PANEL * (depth / group) + j % PANEL;
        for (long k = 0; k < depth; k += group, at += PANEL) {
            __m512 largest = _mm512_setzero_ps();
            for (long i = k; i < k + group; i++)
                largest = max_abs(largest, load_bf16(from + i * width));
            _mm512_storeu_ps(scales + at, _mm512_div_ps(largest, _mm512_set1_ps(127)));
            largest = quantization_factor(largest);
            __m512i sums = _mm512_setzero_si512();
            for (long i = k; i < k + group; i += 4, panel += PANEL * 4) {
                __m512i quads = _mm512_setzero_si512();
                for (int row = 3; row >= 0; row--) {
                    __m512i values = quantize(load_bf16(from + (i + row) * width), largest);
                    sums = _mm512_add_epi32(sums, values);
                    quads = _mm512_or_si512(_mm512_slli_epi32(quads, 8),
                                            _mm512_and_si512(values, low_byte));
                }
                _mm512_storeu_si512(panel, quads);
            }
            _mm512_storeu_si512(corrections + at,
                                _mm512_mullo_epi32(sums, _mm512_set1_epi32(-128)));
        }
    }
    return 0;
}

/* acc [rows][32] = a times one panel of weights: int32 within a group, scaled and added in float32
 * across groups. */
static inline __attribute__((always_inline)) void
int8_tile(int rows, const uint8_t *a, const float *a_scales, const __m512i *panel,
          const __m512i *corrections, const float *b_scales, long depth, long group,
          __m512 acc[INT8_ROWS][2])
{
    const long groups = depth / group;
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (long g = 0; g < groups; g++, a += group, corrections += 2, b_scales += PANEL) {
        __m512i sums[INT8_ROWS][2];
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) sums[i][0] = corrections[0], sums[i][1] = corrections[1];
        for (long k = 0; k < group; k += 4, panel += 2) {
            __m512i b0 = panel[0], b1 = panel[1];
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                int quad;
                memcpy(&quad, a + i * depth + k, 4);
                __m512i a_quad = _mm512_set1_epi32(quad);
                sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], a_quad, b0);
                sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], a_quad, b1);
            }
        }
        __m512 scale0 = _mm512_loadu_ps(b_scales), scale1 = _mm512_loadu_ps(b_scales + VECTOR);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m512 a_scale = _mm512_set1_ps(a_scales[i * groups + g]);
            acc[i][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][0]),
                                        _mm512_mul_ps(a_scale, scale0), acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][1]),
                                        _mm512_mul_ps(a_scale, scale1), acc[i][1]);
        }
    }
}

/* out = round(round(acc) + hidden up): the frozen output plus the adapter's, hidden [rows][pairs]
 * and up [pairs][32]. */
static inline __attribute__((always_inline)) void
add_adapter(int rows, __m512 acc[INT8_ROWS][2], const bf16x2_t *hidden, long hidden_stride,
            const bf16x2_t *up, long pairs, bf16_t *out, long out_stride)
{
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
        acc[i][0] = round_to_real(acc[i][0]), acc[i][1] = round_to_real(acc[i][1]);
    accumulate_tile(rows, 2, hidden, hidden_stride, up, PANEL, pairs, acc);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
        store_bf16(out + i * out_stride, acc[i][0]),
            store_bf16(out + i * out_stride + VECTOR, acc[i][1]);
}

/* out [n][width] = a [n][depth] b + hidden [n][rank] up, with a from `quantize_rows` and b from
 * `pack_weights`; up is pairs [rank / 2][width], and rows of hidden are `hidden_stride` values
 * apart; width and depth are multiples of 32, rank is even. */
int int8_matmul(const uint8_t *a, const float *a_scales, long n, long depth, long group,
                const int8_t *panels, const int *corrections, const float *b_scales, long width,
                const bf16_t *hidden, long hidden_stride, long rank, const bf16x2_t *up,
                bf16_t *out, long threads)
{
    const long groups = depth / group, pairs = rank / 2;
    int failed = 0;
#pragma omp parallel num_threads((int)threads)
    {
        bf16x2_t *up_panel = alloc(4 * PANEL * pairs);
        if (!up_panel)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(dynamic)
        for (long j = 0; j < width; j += PANEL) {
            if (!up_panel) continue;
            const __m512i *panel = (const __m512i *)(panels + j * depth),
                          *correction = (const __m512i *)(corrections + j * groups);
            for (long k = 0; k < pairs; k++)
                memcpy(up_panel + k * PANEL, up + k * width + j, 4 * PANEL);
            for (long i = 0; i < n;) {
                __m512 acc[INT8_ROWS][2];
                const uint8_t *rows = a + i * depth;
                const float *row_scales = a_scales + i * groups;
                const bf16x2_t *hidden_rows = (const bf16x2_t *)(hidden + i * hidden_stride);
                bf16_t *to = out + i * width + j;
                if (n - i >= INT8_ROWS) {
                    int8_tile(INT8_ROWS, rows, row_scales, panel, correction, b_scales + j * groups,
                              depth, group, acc);
                    add_adapter(INT8_ROWS, acc, hidden_rows, hidden_stride / 2, up_panel, pairs, to,
                                width);
                    i += INT8_ROWS;
                } else {
                    int8_tile(1, rows, row_scales, panel, correction, b_scales + j * groups, depth,
                              group, acc);
                    add_adapter(1, acc, hidden_rows, hidden_stride / 2, up_panel, pairs, to, width);
                    i += 1;
                }
            }
        }
        free(up_panel);
    }
    return failed;
}

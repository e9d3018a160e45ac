/* What stands between the products of a layer, each in one pass over its arrays, in bfloat16 with float32 arithmetic, for x86
 * processors with AVX512-BF16. pointwise.py calls it. */
#include "common.h"

/* 1 / (1 + e^-x) */
static inline __m512 logistic(__m512 x)
{
    __m512 small = power(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-1.4426950408889634f))); /* e^-|x| */
    __m512 low = _mm512_div_ps(small, _mm512_add_ps(small, _mm512_set1_ps(1.0f)));
    return _mm512_mask_sub_ps(low, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), _mm512_set1_ps(1.0f), low);
}

/* out = gate logistic(gate) up; `count` numbers, a multiple of 16. */
int gated(const half *gate, const half *up, half *out, long count, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < count; i += VECTOR) {
        __m512 x = widened(gate + i);
        rounded(out + i, _mm512_mul_ps(_mm512_mul_ps(x, logistic(x)), widened(up + i)));
    }
    return 0;
}

/* Gradients of gate and up from that of out. */
int gated_backward(const half *gate, const half *up, const half *grad, half *of_gate, half *of_up, long count, long threads)
{
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < count; i += VECTOR) {
        __m512 x = widened(gate + i), g = widened(grad + i), share = logistic(x), out = _mm512_mul_ps(x, share);
        rounded(of_up + i, _mm512_mul_ps(g, out));
        __m512 slope = _mm512_mul_ps(share, _mm512_add_ps(one, _mm512_sub_ps(x, out))); /* share (1 + x (1 - share)) */
        rounded(of_gate + i, _mm512_mul_ps(_mm512_mul_ps(g, widened(up + i)), slope));
    }
    return 0;
}

/* out [n][size] = x / sqrt(mean x^2 + eps) weight, and inverses [n] of the roots; size a multiple of 16. */
int normed(const half *x, const half *weight, float eps, half *out, float *inverses, long n, long size, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++) {
        __m512 squares = _mm512_setzero_ps();
        for (long j = 0; j < size; j += VECTOR) {
            __m512 one = widened(x + i * size + j);
            squares = _mm512_fmadd_ps(one, one, squares);
        }
        inverses[i] = 1 / sqrtf(_mm512_reduce_add_ps(squares) / size + eps);
        __m512 by = _mm512_set1_ps(inverses[i]);
        for (long j = 0; j < size; j += VECTOR)
            rounded(out + i * size + j, _mm512_mul_ps(_mm512_mul_ps(widened(x + i * size + j), by), widened(weight + j)));
    }
    return 0;
}

/* The gradient of x from that of out. */
int normed_backward(const half *grad, const half *x, const half *weight, const float *inverses, half *of_x, long n, long size, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++) {
        __m512 dots = _mm512_setzero_ps();
        for (long j = 0; j < size; j += VECTOR)
            dots = _mm512_fmadd_ps(_mm512_mul_ps(widened(grad + i * size + j), widened(weight + j)), widened(x + i * size + j), dots);
        float mean = _mm512_reduce_add_ps(dots) / size * inverses[i] * inverses[i];
        __m512 by = _mm512_set1_ps(inverses[i]), less = _mm512_set1_ps(mean);
        for (long j = 0; j < size; j += VECTOR) {
            __m512 own = _mm512_mul_ps(widened(grad + i * size + j), widened(weight + j));
            rounded(of_x + i * size + j, _mm512_mul_ps(_mm512_fnmadd_ps(less, widened(x + i * size + j), own), by));
        }
    }
    return 0;
}

/* out [tokens][heads][size] = x cos + (-second half of x, first half of x) sin, cos and sin [tokens][size]; or the gradient of x from
 * that of out, given as x. size a multiple of 32. */
int rotated(const half *x, const half *cosines, const half *sines, half *out, long tokens, long heads, long size, long back,
            long threads)
{
    const long other = size / 2;
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < tokens * heads; i++) {
        const half *from = x + i * size, *cosine = cosines + i / heads * size, *sine = sines + i / heads * size;
        half *to = out + i * size;
        for (long j = 0; j < other; j += VECTOR) {
            __m512 first = widened(from + j), second = widened(from + other + j);
            __m512 low = widened(sine + j), high = widened(sine + other + j);
            __m512 one = _mm512_mul_ps(first, widened(cosine + j)), two = _mm512_mul_ps(second, widened(cosine + other + j));
            rounded(to + j, back ? _mm512_fmadd_ps(second, high, one) : _mm512_fnmadd_ps(second, low, one));
            rounded(to + other + j, back ? _mm512_fnmadd_ps(first, low, two) : _mm512_fmadd_ps(first, high, two));
        }
    }
    return 0;
}

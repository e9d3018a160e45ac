/* Pointwise operations between a layer's matmuls: SwiGLU, RMSNorm and RoPE with their gradients,
 * each in one pass over its arrays. Arrays are bfloat16, arithmetic is float32. For x86 CPUs with
 * AVX512-BF16; called by pointwise.py. */
#include "common.h"

/* 1 / (1 + e^-x), computed from e^-|x| so that nothing overflows. */
static inline __m512 sigmoid(__m512 x)
{
    __m512 exp_neg =
        exp2_ps(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-1.4426950408889634f))); /* e^-|x| */
    __m512 of_negative =
        _mm512_div_ps(exp_neg, _mm512_add_ps(exp_neg, _mm512_set1_ps(1.0f))); /* sigmoid(-|x|) */
    return _mm512_mask_sub_ps(of_negative, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ),
                              _mm512_set1_ps(1.0f), of_negative);
}

/* out = gate sigmoid(gate) up; `count` values, a multiple of 16. */
int swiglu(const bf16_t *gate, const bf16_t *up, bf16_t *out, long count, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < count; i += VECTOR) {
        __m512 x = load_bf16(gate + i);
        store_bf16(out + i, _mm512_mul_ps(_mm512_mul_ps(x, sigmoid(x)), load_bf16(up + i)));
    }
    return 0;
}

/* Gradients of gate and up from the gradient of out. */
int swiglu_backward(const bf16_t *gate, const bf16_t *up, const bf16_t *grad_out, bf16_t *grad_gate,
                    bf16_t *grad_up, long count, long threads)
{
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < count; i += VECTOR) {
        __m512 x = load_bf16(gate + i), grad = load_bf16(grad_out + i), s = sigmoid(x),
               silu = _mm512_mul_ps(x, s);
        store_bf16(grad_up + i, _mm512_mul_ps(grad, silu));
        __m512 slope = _mm512_mul_ps(
            s, _mm512_add_ps(one, _mm512_sub_ps(x, silu))); /* silu'(x) = s (1 + x (1 - s)) */
        store_bf16(grad_gate + i, _mm512_mul_ps(_mm512_mul_ps(grad, load_bf16(up + i)), slope));
    }
    return 0;
}

/* out [n][size] = x / sqrt(mean x^2 + eps) weight, and the inverse root mean squares [n]; size is a
 * multiple of 16. */
int rms_norm(const bf16_t *x, const bf16_t *weight, float eps, bf16_t *out, float *inverse_rms,
             long n, long size, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++) {
        __m512 squares = _mm512_setzero_ps();
        for (long j = 0; j < size; j += VECTOR) {
            __m512 value = load_bf16(x + i * size + j);
            squares = _mm512_fmadd_ps(value, value, squares);
        }
        inverse_rms[i] = 1 / sqrtf(_mm512_reduce_add_ps(squares) / size + eps);
        __m512 scale = _mm512_set1_ps(inverse_rms[i]);
        for (long j = 0; j < size; j += VECTOR)
            store_bf16(out + i * size + j,
                       _mm512_mul_ps(_mm512_mul_ps(load_bf16(x + i * size + j), scale),
                                     load_bf16(weight + j)));
    }
    return 0;
}

/* The gradient of x from the gradient of out, for a frozen weight. */
int rms_norm_backward(const bf16_t *grad_out, const bf16_t *x, const bf16_t *weight,
                      const float *inverse_rms, bf16_t *grad_x, long n, long size, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++) {
        __m512 dots = _mm512_setzero_ps();
        for (long j = 0; j < size; j += VECTOR)
            dots = _mm512_fmadd_ps(
                _mm512_mul_ps(load_bf16(grad_out + i * size + j), load_bf16(weight + j)),
                load_bf16(x + i * size + j), dots);
        float mean = _mm512_reduce_add_ps(dots) / size * inverse_rms[i] * inverse_rms[i];
        __m512 scale = _mm512_set1_ps(inverse_rms[i]), mean_dot = _mm512_set1_ps(mean);
        for (long j = 0; j < size; j += VECTOR) {
            __m512 weighted =
                _mm512_mul_ps(load_bf16(grad_out + i * size + j), load_bf16(weight + j));
            store_bf16(
                grad_x + i * size + j,
                _mm512_mul_ps(_mm512_fnmadd_ps(mean_dot, load_bf16(x + i * size + j), weighted),
                              scale));
        }
    }
    return 0;
}

/* out [tokens][heads][size] = x cos + (-second half of x, first half of x) sin, with cos and sin
 * [tokens][size]. With `backward`, x is the gradient of the result, and out the gradient of its
 * input. size is a multiple of 32. */
int apply_rope(const bf16_t *x, const bf16_t *cosines, const bf16_t *sines, bf16_t *out,
               long tokens, long heads, long size, long backward, long threads)
{
    const long half = size / 2;
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < tokens * heads; i++) {
        const bf16_t *from = x + i * size, *cosine = cosines + i / heads * size,
                     *sine = sines + i / heads * size;
        bf16_t *to = out + i * size;
        for (long j = 0; j < half; j += VECTOR) {
            __m512 first = load_bf16(from + j), second = load_bf16(from + half + j);
            __m512 sin_first = load_bf16(sine + j), sin_second = load_bf16(sine + half + j);
            __m512 a = _mm512_mul_ps(first, load_bf16(cosine + j)),
                   b = _mm512_mul_ps(second, load_bf16(cosine + half + j));
            store_bf16(to + j, backward ? _mm512_fmadd_ps(second, sin_second, a)
                                        : _mm512_fnmadd_ps(second, sin_first, a));
            store_bf16(to + half + j, backward ? _mm512_fnmadd_ps(first, sin_first, b)
                                               : _mm512_fmadd_ps(first, sin_second, b));
        }
    }
    return 0;
}

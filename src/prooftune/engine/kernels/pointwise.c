/* Pointwise operations between a layer's matmuls: SwiGLU, RMSNorm and RoPE with their gradients,
 * each in one pass over its arrays. Arrays are bfloat16 (x86 CPUs with AVX512-BF16) or, with
 * -DFLOAT32, float32 (any CPU); arithmetic is float32. Called by pointwise.py. */
#include "common.h"
#include "rope.h"

/* 1 / (1 + e^-x), computed from e^-|x| so that nothing overflows. */
static inline vec_t sigmoid(vec_t x)
{
    vec_t exp_neg = exp2_vec(absolute(x) * splat(-1.4426950408889634f)); /* e^-|x| */
    vec_t of_negative = exp_neg / (exp_neg + splat(1));                  /* sigmoid(-|x|) */
    return select_nonnegative(x, splat(1) - of_negative, of_negative);
}

/* out = gate sigmoid(gate) up; `count` values, a multiple of 16. */
int swiglu(const real_t *gate, const real_t *up, real_t *out, long count, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < count; i += VECTOR) {
        vec_t x = load_real(gate + i);
        store_real(out + i, x * sigmoid(x) * load_real(up + i));
    }
    return 0;
}

/* Gradients of gate and up from the gradient of out; grad_up may be grad_out. */
int swiglu_backward(const real_t *gate, const real_t *up, const real_t *grad_out, real_t *grad_gate,
                    real_t *grad_up, long count, long threads)
{
    const vec_t one = splat(1.0f);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < count; i += VECTOR) {
        vec_t x = load_real(gate + i), grad = load_real(grad_out + i), s = sigmoid(x), silu = x * s;
        store_real(grad_up + i, grad * silu);
        vec_t slope = s * (one + (x - silu)); /* silu'(x) = s (1 + x (1 - s)) */
        store_real(grad_gate + i, grad * load_real(up + i) * slope);
    }
    return 0;
}

/* out [n][size] = x / sqrt(mean x^2 + eps) weight, and the inverse root mean squares [n]; size is a
 * multiple of 16. With `addend` (or NULL), x + addend takes the place of x, rounded to `sum`. */
int rms_norm(const real_t *x, const real_t *addend, const real_t *weight, float eps, real_t *sum,
             real_t *out, float *inverse_rms, long n, long size, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++) {
        const real_t *row = addend ? sum + i * size : x + i * size;
        vec_t squares = splat(0);
        for (long j = 0; j < size; j += VECTOR) {
            if (addend)
                store_real(sum + i * size + j,
                           load_real(x + i * size + j) + load_real(addend + i * size + j));
            vec_t value = load_real(row + j);
            squares = multiply_add(value, value, squares);
        }
        inverse_rms[i] = 1 / sqrtf(reduce_add(squares) / size + eps);
        vec_t scale = splat(inverse_rms[i]);
        for (long j = 0; j < size; j += VECTOR)
            store_real(out + i * size + j, load_real(row + j) * scale * load_real(weight + j));
    }
    return 0;
}

/* The gradient of x from the gradient of out, for a frozen weight; plus `addend` (or NULL), to
 * which it is added after rounding. */
int rms_norm_backward(const real_t *grad_out, const real_t *x, const real_t *weight,
                      const float *inverse_rms, const real_t *addend, real_t *grad_x, long n,
                      long size, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < n; i++) {
        vec_t dots = splat(0);
        for (long j = 0; j < size; j += VECTOR)
            dots = multiply_add(load_real(grad_out + i * size + j) * load_real(weight + j),
                                load_real(x + i * size + j), dots);
        float mean = reduce_add(dots) / size * inverse_rms[i] * inverse_rms[i];
        vec_t scale = splat(inverse_rms[i]), mean_dot = splat(mean);
        for (long j = 0; j < size; j += VECTOR) {
            real_t *to = grad_x + i * size + j;
            vec_t weighted = load_real(grad_out + i * size + j) * load_real(weight + j);
            store_real(to,
                       subtract_product(weighted, mean_dot, load_real(x + i * size + j)) * scale);
            if (addend) store_real(to, load_real(to) + load_real(addend + i * size + j));
        }
    }
    return 0;
}

/* out [tokens][heads][size] = x cos + (-second half of x, first half of x) sin, with cos and sin
 * [tokens][size]. With `backward`, x is the gradient of the result, and out the gradient of its
 * input. size is a multiple of 32. */
int apply_rope(const real_t *x, const real_t *cosines, const real_t *sines, real_t *out,
               long tokens, long heads, long size, long backward, long threads)
{
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (long i = 0; i < tokens * heads; i++)
        rotate(x + i * size, cosines + i / heads * size, sines + i / heads * size, out + i * size,
               size, (int)backward);
    return 0;
}

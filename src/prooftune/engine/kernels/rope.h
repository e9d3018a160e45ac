/* Rotary position embeddings (RoPE, arXiv 2104.09864), for the types of bfloat16.h or float32.h. */

/* to = x cos + (-second half of x, first half of x) sin, for one vector; size is a multiple of two
 * vectors, and `to` may be x. With `backward`, x is the gradient of the result, and `to` takes that
 * of its input. */
static inline void rotate(const real_t *x, const real_t *cosine, const real_t *sine, real_t *to,
                          long size, int backward)
{
    const long half = size / 2;
    for (long j = 0; j < half; j += VECTOR) {
        vec_t first = load_real(x + j), second = load_real(x + half + j);
        vec_t sin_first = load_real(sine + j), sin_second = load_real(sine + half + j);
        vec_t a = first * load_real(cosine + j), b = second * load_real(cosine + half + j);
        store_real(to + j, backward ? multiply_add(second, sin_second, a)
                                    : subtract_product(a, second, sin_first));
        store_real(to + half + j, backward ? subtract_product(b, first, sin_first)
                                           : multiply_add(first, sin_second, b));
    }
}

/* Vectors of float32 arrays, in GCC's vector extension, which compilers translate for any CPU:
 * AVX2, AVX512 or NEON. The names are those of bfloat16.h; a "pair" of a matmul is one value here.
 */

typedef float real_t; /* element of an array */
typedef float pair_t; /* PAIR of them */
typedef float vec_t __attribute__((vector_size(4 * VECTOR)));
typedef int32_t mask_t __attribute__((vector_size(4 * VECTOR))); /* -1 where set, else 0 */
typedef vec_t pairs_t;

/* ---- operations ---- */

static inline vec_t load(const float *from)
{
    vec_t x;
    memcpy(&x, from, sizeof x); /* unaligned */
    return x;
}
static inline void store(float *to, vec_t x)
{
    memcpy(to, &x, sizeof x);
}
static inline vec_t load_real(const real_t *from)
{
    return load(from);
}
static inline void store_real(real_t *to, vec_t x)
{
    store(to, x);
}
/* Stores the first `count` values, at most all. */
static inline void store_first(real_t *to, vec_t x, long count)
{
    if (count >= VECTOR) store(to, x);
    else memcpy(to, &x, 4 * count);
}
/* x as it is after `store_real` and `load_real` */
static inline vec_t round_to_real(vec_t x)
{
    return x;
}
static inline vec_t splat(float x)
{
    return (vec_t){x, x, x, x, x, x, x, x}; /* `(vec_t){0} + x` would be computed, for -0 */
}
/* a b + c, one rounding where the CPU has such an instruction: the compiler contracts it */
static inline vec_t multiply_add(vec_t a, vec_t b, vec_t c)
{
    return a * b + c;
}
/* a b - c */
static inline vec_t multiply_subtract(vec_t a, vec_t b, vec_t c)
{
    return a * b - c;
}
/* c - a b */
static inline vec_t subtract_product(vec_t c, vec_t a, vec_t b)
{
    return c - a * b;
}
static inline float reduce_add(vec_t x)
{
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}
static inline float reduce_max(vec_t x)
{
    float most = x[0];
    for (int i = 1; i < VECTOR; i++) most = x[i] > most ? x[i] : most;
    return most;
}
static inline int any_greater(vec_t x, float bound)
{
    mask_t above = x > splat(bound);
    int any = 0;
    for (int i = 0; i < VECTOR; i++) any |= above[i];
    return any;
}

/* Mask of the positions from j on that satisfy low <= position < end. */
static inline mask_t range_mask(long j, long low, long end)
{
    mask_t position = (mask_t){0, 1, 2, 3, 4, 5, 6, 7} + (int32_t)j;
    return (position < (int32_t)end) & (position >= (int32_t)low);
}
static inline vec_t select_where(mask_t mask, vec_t a, vec_t b)
{
    return (vec_t)((mask & (mask_t)a) | (~mask & (mask_t)b));
}
/* x where the mask is set, else 0. */
static inline vec_t keep(mask_t mask, vec_t x)
{
    return (vec_t)(mask & (mask_t)x);
}
/* The maximum of a and b where the mask is set, else a. */
static inline vec_t max_where(mask_t mask, vec_t a, vec_t b)
{
    return select_where(mask & (b > a), b, a);
}
/* a where x >= 0, else b. */
static inline vec_t select_nonnegative(vec_t x, vec_t a, vec_t b)
{
    return select_where(x >= (vec_t){0}, a, b);
}
static inline vec_t absolute(vec_t x)
{
    return (vec_t)((mask_t)x & 0x7fffffff);
}

static inline pairs_t load_pairs(const pair_t *from)
{
    return load(from);
}
static inline pairs_t splat_pair(pair_t x)
{
    return splat(x);
}
/* acc + the products of a and b */
static inline vec_t add_products(vec_t acc, pairs_t a, pairs_t b)
{
    return a * b + acc;
}

/* 2^x with a relative error of 2e-7: a Taylor polynomial of the fraction in [-1/2, 1/2], times the
 * power of two whose exponent is put together as bits. 0 below 2^-126. */
static inline vec_t exp2_vec(vec_t x)
{
    const vec_t least = splat(-126), most = splat(127), round = splat(12582912); /* 1.5 x 2^23 */
    const mask_t in_range = ~(x < least);                    /* set for NaN, which stays NaN */
    x = select_where(x > most, most, x);                     /* NaN stays NaN */
    vec_t whole = (x + round) - round, fraction = x - whole; /* rounded to the nearest integer */
    mask_t exponent = __builtin_convertvector(keep(whole == whole, whole), mask_t);
    vec_t y = splat(1.5403530e-4f); /* ln(2)^k / k!, from k = 6 down */
    y = multiply_add(y, fraction, splat(1.3333558e-3f));
    y = multiply_add(y, fraction, splat(9.6181291e-3f));
    y = multiply_add(y, fraction, splat(5.5504109e-2f));
    y = multiply_add(y, fraction, splat(2.4022651e-1f));
    y = multiply_add(y, fraction, splat(6.9314718e-1f));
    y = multiply_add(y, fraction, splat(1));
    return keep(in_range, y * (vec_t)((exponent + 127) << 23));
}

/* ---- packing ---- */

/* Converts to the type of arrays. */
MAY_BE_UNUSED static void to_real(const float *from, long count, real_t *to)
{
    memcpy(to, from, 4 * count);
}

/* The value at `from`, or zero if `count` is. */
static inline pair_t gather_pair(const real_t *from, long stride, long count)
{
    (void)stride; /* of bfloat16 pairs */
    return count > 0 ? *from : 0;
}

/* Packs PANEL values of PAIR float32 rows. */
MAY_BE_UNUSED static void pack_float_rows(const float *from, long from_stride, pair_t *to)
{
    (void)from_stride;
    memcpy(to, from, 4 * PANEL);
}

/* Transposes 8 rows of 8 values, of which the first `rows` exist; the others count as zeros. */
MAY_BE_UNUSED static void transpose_8x8(const float *from, long from_stride, long rows, float *to,
                                        long to_stride)
{
    vec_t a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = i < rows ? load(from + i * from_stride) : (vec_t){0};
    for (int i = 0; i < 8; i += 2) { /* pairs of rows */
        b[i] = __builtin_shuffle(a[i], a[i + 1], (mask_t){0, 8, 1, 9, 4, 12, 5, 13});
        b[i + 1] = __builtin_shuffle(a[i], a[i + 1], (mask_t){2, 10, 3, 11, 6, 14, 7, 15});
    }
    for (int i = 0; i < 8; i += 4) /* columns j and j + 4 of four rows */
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] =
                __builtin_shuffle(b[i + j], b[i + j + 2], (mask_t){0, 1, 8, 9, 4, 5, 12, 13});
            a[i + 2 * j + 1] =
                __builtin_shuffle(b[i + j], b[i + j + 2], (mask_t){2, 3, 10, 11, 6, 7, 14, 15});
        }
    for (int j = 0; j < 4; j++) {
        store(to + j * to_stride,
              __builtin_shuffle(a[j], a[j + 4], (mask_t){0, 1, 2, 3, 8, 9, 10, 11}));
        store(to + (j + 4) * to_stride,
              __builtin_shuffle(a[j], a[j + 4], (mask_t){4, 5, 6, 7, 12, 13, 14, 15}));
    }
}

/* Packs vectors [n][size] as panels of 16 columns, [size][16 vectors], the last one zero-padded;
 * size is a multiple of 8. */
MAY_BE_UNUSED static void pack_transposed(const real_t *from, long from_stride, long n, long size,
                                          pair_t *to)
{
    for (long first = 0; first < n; first += PANEL, to += size * PANEL)
        for (long j = 0; j < PANEL; j += 8)
            for (long k = 0; k < size; k += 8)
                transpose_8x8(from + (first + j) * from_stride + k, from_stride, n - first - j,
                              to + k * PANEL + j, PANEL);
}

/* Copies vectors [n][columns], zero-padded to a multiple of 16 vectors. */
MAY_BE_UNUSED static void pack_pairs(const real_t *from, long from_stride, long n, long columns,
                                     pair_t *to, long to_stride)
{
    for (long i = 0; i < round_up_to_panel(n); i++)
        if (i < n) memcpy(to + i * to_stride, from + i * from_stride, 4 * columns);
        else memset(to + i * to_stride, 0, 4 * columns);
}

/* Transposes [n][BLOCK] values, n at most BLOCK, to [BLOCK][BLOCK], zero-padded to a multiple of 8.
 */
MAY_BE_UNUSED static void transpose_block(const real_t *from, long from_stride, long n, pair_t *to)
{
    for (long i = 0; i < n; i += 8)
        for (long j = 0; j < BLOCK; j += 8)
            transpose_8x8(from + i * from_stride + j, from_stride, n - i, to + j * BLOCK + i,
                          BLOCK);
}

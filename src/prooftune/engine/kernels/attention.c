/* Attention over a line of tokens in bfloat16, with its gradients, for x86 processors with AVX512-BF16.
 *
 *     prefix . row 1 . row 2 . ... . row n
 *
 * Each token sees the prefix and its own row up to itself; with a window, only the last tokens of these. Scores are computed a
 * block of queries and keys at a time and never stored, their softmax as it goes along (FlashAttention-2, Dao 2023, arXiv
 * 2307.08691): a block stays in the first cache, where plain products would write all scores to memory and read them again.
 *
 * Compiled for one size of head (-DSIZE, a multiple of 32) by build.py; attention.py calls it. Every sum is added up in
 * the same order, whatever the number of threads.
 */
#include "common.h"
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    PAIRS = SIZE / 2,
    MANY = 8, /* powers of two by which a score may exceed the highest one so far before sums are scaled to it */
};

typedef struct {
    long rows, prefix, heads, groups, window; /* key heads, queries for each; tokens that are seen, 0 for all */
    const long *starts, *lengths; /* of the prefix (length 0 for none), then of the rows */
    float scaling;
} line_t;

static inline long this_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static inline long tokens_of(const line_t *line) { return line->starts[line->rows] + line->lengths[line->rows]; }

/* Which of 16 places from j on are in low <= place < end. */
static inline __mmask16 within(long j, long low, long end)
{
    const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i place = _mm512_add_epi32(steps, _mm512_set1_epi32((int)j));
    return _mm512_cmplt_epi32_mask(place, _mm512_set1_epi32((int)end)) & _mm512_cmpge_epi32_mask(place, _mm512_set1_epi32((int)low));
}

static float exponents(const line_t *line) { return line->scaling * 1.4426950408889634f; } /* of scores, to the base 2 */

/* Where the prefix and each row begin among vectors that are laid out, each filled up; returns how many there are. */
static long lay_out(const line_t *line, long *places)
{
    long at = 0;
    for (long i = 0; i <= line->rows; i++) {
        places[i] = at;
        at += filled(line->lengths[i]);
    }
    return at;
}

/* ---- forward ---- */

/* n queries of a row (or of the prefix: row 0) from `q0` on, of one head, whose keys and values are laid out. */
static void attend_block(const line_t *line, const long *places, long row, long head, long q0, long n, const half *query,
                         const pair *keys, const pair *values, half *out, float *sums)
{
    float scores[BLOCK * BLOCK] __attribute__((aligned(64))), found[BLOCK * SIZE] __attribute__((aligned(64)));
    half weights[BLOCK * BLOCK] __attribute__((aligned(64)));
    __m512 totals[BLOCK];
    __mmask16 seen[BLOCK / VECTOR];
    float most[BLOCK], limits[BLOCK]; /* what weights are relative to, and the score from which on they are made relative to another */
    const long heads = line->heads * line->groups, stride = heads * SIZE, behind = row ? line->prefix : 0, tokens = tokens_of(line);
    const float factor = exponents(line);
    query += (line->starts[row] + q0) * stride + head * SIZE;
    memset(found, 0, sizeof(float) * n * SIZE);
    for (long i = 0; i < n; i++) {
        most[i] = limits[i] = -INFINITY;
        totals[i] = _mm512_setzero_ps();
    }
    for (int own = row ? 0 : 1; own < 2; own++) {
        long of = own ? row : 0, offset = own ? behind : 0, end = own ? q0 + n : line->prefix, k0 = 0;
        if (line->window && behind + q0 - line->window + 1 > offset) k0 = (behind + q0 - line->window + 1 - offset) / PANEL * PANEL;
        for (; k0 < end; k0 += BLOCK) {
            long known = least(end - k0, BLOCK);
            product(n, BLOCK, query, stride / 2, keys + (places[of] + k0) * PAIRS, PANEL, 0, PAIRS, scores, BLOCK, 0);
            for (long i = 0; i < n; i++) {
                const float *score = scores + i * BLOCK;
                long at = behind + q0 + i - offset - k0, to = least(at + 1, known), low = line->window ? at - line->window + 1 : 0;
                __m512 high = _mm512_set1_ps(-INFINITY);
                for (long j = 0; j < BLOCK; j += VECTOR) {
                    seen[j / VECTOR] = within(j, low, to);
                    high = _mm512_mask_max_ps(high, seen[j / VECTOR], high, _mm512_load_ps(score + j));
                }
                if (_mm512_cmp_ps_mask(high, _mm512_set1_ps(limits[i]), _CMP_GT_OQ)) {
                    float now = _mm512_reduce_max_ps(high) * factor;
                    __m512 less = _mm512_set1_ps(exp2f(most[i] - now));
                    totals[i] = _mm512_mul_ps(totals[i], less);
                    for (long j = i * SIZE; j < (i + 1) * SIZE; j += VECTOR)
                        _mm512_store_ps(found + j, _mm512_mul_ps(_mm512_load_ps(found + j), less));
                    most[i] = now;
                    limits[i] = (now + MANY) / factor;
                }
                for (long j = 0; j < BLOCK; j += VECTOR) {
                    __m512 x = _mm512_load_ps(score + j);
                    x = _mm512_maskz_mov_ps(seen[j / VECTOR], power(_mm512_fmsub_ps(x, _mm512_set1_ps(factor), _mm512_set1_ps(most[i]))));
                    totals[i] = _mm512_add_ps(totals[i], x);
                    rounded(weights + i * BLOCK + j, x);
                }
            }
            product(n, SIZE, weights, BLOCK / 2, values + (places[of] + k0) / 2 * SIZE, SIZE, PANEL, BLOCK / 2, found, SIZE, 1);
        }
    }
    for (long i = 0; i < n; i++) {
        float total = _mm512_reduce_add_ps(totals[i]);
        for (long j = 0; j < SIZE; j += VECTOR)
            rounded(out + (line->starts[row] + q0 + i) * stride + head * SIZE + j,
                    _mm512_mul_ps(_mm512_load_ps(found + i * SIZE + j), _mm512_set1_ps(1 / total)));
        sums[head * tokens + line->starts[row] + q0 + i] = most[i] + log2f(total);
    }
}

/* out [tokens][query heads][SIZE] of query (like out), key and value [tokens][key heads][SIZE]; sums [query heads][tokens]:
 * logarithms to the base 2 of what the weights were divided by. Returns 1 where there is no memory. */
int attend(const half *query, const half *key, const half *value, half *out, float *sums, const line_t *line, long threads)
{
    const long heads = line->heads * line->groups, stride = line->heads * SIZE;
    long *places = malloc(sizeof(long) * (2 * line->rows + 3)), *blocks = places + line->rows + 1;
    if (!places) return 1;
    const long whole = lay_out(line, places);
    pair *keys = room(4 * (size_t)line->heads * whole * PAIRS), *values = room(4 * (size_t)line->heads * whole * PAIRS);
    int failed = !keys || !values;
    if (!failed) {
        blocks[0] = 0;
        for (long i = 0; i <= line->rows; i++) blocks[i + 1] = blocks[i] + (line->lengths[i] + BLOCK - 1) / BLOCK;
        const long units = blocks[line->rows + 1];
#pragma omp parallel num_threads((int)threads)
        {
#pragma omp for schedule(dynamic)
            for (long u = 0; u < (line->rows + 1) * line->heads; u++) {
                long i = u / line->heads, h = u % line->heads, from = line->starts[i] * stride + h * SIZE;
                in_columns(key + from, stride, line->lengths[i], SIZE, keys + (h * whole + places[i]) * PAIRS);
                in_pairs(value + from, stride, line->lengths[i], SIZE, values + (h * whole + places[i]) * PAIRS, SIZE);
            }
#pragma omp for schedule(dynamic)
            for (long u = units * heads - 1; u >= 0; u--) { /* the last blocks of a row have the most to do */
                long head = u / units, block = u % units, i = 0, of = head / line->groups * whole * PAIRS;
                while (block >= blocks[i + 1]) i++;
                long q0 = (block - blocks[i]) * BLOCK;
                attend_block(line, places, i, head, q0, least(line->lengths[i] - q0, BLOCK), query, keys + of, values + of, out, sums);
            }
        }
    }
    free(keys);
    free(values);
    free(places);
    return failed;
}

/* ---- backward ---- */

/* What one head's gradients are computed from: keys and values as they are, from its key head's first; the keys, its queries and
 * the gradients of what they found, laid out; for each of its queries the sum of `attend`, and what was found times its gradient. */
typedef struct {
    const half *keys, *values;
    const pair *paired_keys, *query_columns, *paired_queries, *grad_columns, *paired_grads;
    const float *sums, *dots;
} given_t;

/* Adds what the queries of a row have to do with the keys of `of` (itself, or the prefix: row 0) to the gradients of both
 * [tokens][SIZE]. Scores stand here by keys, so that two of the three products with them find them as they are. */
static void add_gradients(const line_t *line, const long *places, long row, long of, const given_t *given, float *of_queries,
                          float *of_keys, float *of_values)
{
    float scores[BLOCK * BLOCK] __attribute__((aligned(64))), of_weights[BLOCK * BLOCK] __attribute__((aligned(64)));
    half weights[BLOCK * BLOCK] __attribute__((aligned(64))), of_scores[BLOCK * BLOCK] __attribute__((aligned(64)));
    pair by_queries[BLOCK * BLOCK / 2] __attribute__((aligned(64)));
    const long stride = line->heads * SIZE, length = line->lengths[row], offset = of == row ? 0 : line->prefix;
    const half *keys = given->keys + line->starts[of] * stride, *values = given->values + line->starts[of] * stride;
    const float *sums = given->sums + line->starts[row], *dots = given->dots + line->starts[row];
    const __m512 factor = _mm512_set1_ps(exponents(line)), scaling = _mm512_set1_ps(line->scaling);
    for (long k0 = 0; k0 < line->lengths[of]; k0 += BLOCK) {
        long known = least(line->lengths[of] - k0, BLOCK), last = length;
        if (line->window) last = least(last, k0 + known - 1 + line->window - offset);
        for (long q0 = of == row ? k0 : 0; q0 < last; q0 += BLOCK) {
            long n = least(last - q0, BLOCK), at = (places[row] + q0) * PAIRS;
            product(known, BLOCK, keys + k0 * stride, stride / 2, given->query_columns + at, PANEL, 0, PAIRS, scores, BLOCK, 0);
            product(known, BLOCK, values + k0 * stride, stride / 2, given->grad_columns + at, PANEL, 0, PAIRS, of_weights, BLOCK, 0);
            for (long i = 0; i < known; i++) {
                long low = k0 + i - offset - q0, end = line->window ? least(low + line->window, n) : n;
                for (long j = 0; j < BLOCK; j += VECTOR) {
                    __mmask16 seeing = within(j, low, end);
                    __m512 x = _mm512_load_ps(scores + i * BLOCK + j), of_x = _mm512_load_ps(of_weights + i * BLOCK + j);
                    x = power(_mm512_fmsub_ps(x, factor, _mm512_maskz_loadu_ps(seeing, sums + q0 + j)));
                    x = _mm512_maskz_mov_ps(seeing, x);
                    of_x = _mm512_mul_ps(_mm512_sub_ps(of_x, _mm512_maskz_loadu_ps(seeing, dots + q0 + j)), scaling);
                    rounded(weights + i * BLOCK + j, x);
                    rounded(of_scores + i * BLOCK + j, _mm512_mul_ps(of_x, x));
                }
            }
            product(known, SIZE, weights, BLOCK / 2, given->paired_grads + at, SIZE, PANEL, BLOCK / 2, of_values + k0 * SIZE, SIZE, 1);
            product(known, SIZE, of_scores, BLOCK / 2, given->paired_queries + at, SIZE, PANEL, BLOCK / 2, of_keys + k0 * SIZE, SIZE, 1);
            flipped(of_scores, known, by_queries);
            product(n, SIZE, by_queries, BLOCK / 2, given->paired_keys + (places[of] + k0) * PAIRS, SIZE, PANEL, BLOCK / 2,
                    of_queries + q0 * SIZE, SIZE, 1);
        }
    }
}

/* Gradients of query, key and value from that of out; the others as in `attend`. Returns 1 where there is no memory. */
int attend_backward(const half *query, const half *key, const half *value, const half *out, const float *sums, const half *grad,
                    half *of_query, half *of_key, half *of_value, const line_t *line, long threads)
{
    const long rows = line->rows, heads = line->heads * line->groups, stride = heads * SIZE, key_stride = line->heads * SIZE;
    const long tokens = tokens_of(line), prefix = line->prefix;
    /* What the prefix gets from rows is added up in so many parts, which keep to the memory that all rows together take. */
    const long parts = prefix && rows ? least(rows, tokens / prefix) : 0, units = parts ? parts : rows;
    long *places = malloc(sizeof(long) * (2 * rows + 2)), *order = places + rows + 1;
    if (!places) return 1;
    const long whole = lay_out(line, places), all = whole * PAIRS; /* pairs of one head, and half of the numbers */
    long longest = 0;
    for (long i = 0; i <= rows; i++) { /* long rows first, the prefix last */
        long j = i;
        longest = line->lengths[i] > longest ? line->lengths[i] : longest;
        for (; j > 0 && (!order[j - 1] || line->lengths[order[j - 1]] < line->lengths[i]); j--) order[j] = order[j - 1];
        order[j] = i;
    }
    pair *paired_keys = room(4 * line->heads * all), *query_columns = room(4 * heads * all), *paired_queries = room(4 * heads * all);
    pair *grad_columns = room(4 * heads * all), *paired_grads = room(4 * heads * all);
    float *wide_keys = room(8 * heads * all), *wide_values = room(8 * heads * all), *dots = room(4 * heads * tokens);
    float *of_prefix = room(8 * parts * heads * prefix * SIZE), *wide_queries = room(4 * threads * longest * SIZE);
    void *rooms[] = {paired_keys, query_columns, paired_queries, grad_columns, paired_grads, wide_keys, wide_values, dots, of_prefix,
                     wide_queries, places};
    int failed = 0;
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) failed |= !rooms[i];
    if (!failed) {
#pragma omp parallel num_threads((int)threads)
        {
#pragma omp for schedule(dynamic)
            for (long u = 0; u < (rows + 1) * heads; u++) {
                long i = order[u / heads], head = u % heads, h = head / line->groups, n = line->lengths[i], at = head * all + places[i] * PAIRS;
                const half *q = query + line->starts[i] * stride + head * SIZE, *g = grad + line->starts[i] * stride + head * SIZE;
                const half *o = out + line->starts[i] * stride + head * SIZE, *k = key + line->starts[i] * key_stride + h * SIZE;
                in_columns(q, stride, n, SIZE, query_columns + at);
                in_pairs(q, stride, n, SIZE, paired_queries + at, SIZE);
                in_columns(g, stride, n, SIZE, grad_columns + at);
                in_pairs(g, stride, n, SIZE, paired_grads + at, SIZE);
                if (head % line->groups == 0) in_pairs(k, key_stride, n, SIZE, paired_keys + h * all + places[i] * PAIRS, SIZE);
                for (long j = 0; j < n; j++) {
                    __m512 sum = _mm512_setzero_ps();
                    for (long d = j * stride; d < j * stride + SIZE; d += VECTOR) sum = _mm512_fmadd_ps(widened(g + d), widened(o + d), sum);
                    dots[head * tokens + line->starts[i] + j] = _mm512_reduce_add_ps(sum);
                }
            }
#pragma omp for schedule(dynamic)
            for (long u = 0; u < (units + 1) * heads; u++) { /* some rows of one head; the prefix last */
                long head = u % heads, h = head / line->groups, first = u / heads, step = units ? units : 1;
                given_t given = {key + h * SIZE, value + h * SIZE, paired_keys + h * all, query_columns + head * all,
                                 paired_queries + head * all, grad_columns + head * all, paired_grads + head * all, sums + head * tokens,
                                 dots + head * tokens};
                float *shared_keys = of_prefix + 2 * (first * heads + head) * prefix * SIZE, *shared_values = shared_keys + prefix * SIZE;
                if (first < parts) memset(shared_keys, 0, 8 * prefix * SIZE);
                for (long r = first < units ? first : rows; r <= (first < units ? rows - 1 : rows); r += step) {
                    long i = order[r], at = 2 * (head * all + places[i] * PAIRS);
                    float *found = wide_queries + this_thread() * longest * SIZE;
                    memset(found, 0, 4 * line->lengths[i] * SIZE);
                    memset(wide_keys + at, 0, 4 * line->lengths[i] * SIZE);
                    memset(wide_values + at, 0, 4 * line->lengths[i] * SIZE);
                    if (i && parts) add_gradients(line, places, i, 0, &given, found, shared_keys, shared_values);
                    add_gradients(line, places, i, i, &given, found, wide_keys + at, wide_values + at);
                    for (long j = 0; j < line->lengths[i]; j++)
                        for (long d = 0; d < SIZE; d += VECTOR)
                            rounded(of_query + (line->starts[i] + j) * stride + head * SIZE + d, _mm512_load_ps(found + j * SIZE + d));
                }
            }
#pragma omp for schedule(dynamic)
            for (long u = 0; u < (rows + 1) * line->heads; u++) {
                long i = u / line->heads, h = u % line->heads;
                for (long j = 0; j < line->lengths[i] * SIZE; j += VECTOR) {
                    __m512 of_k = _mm512_setzero_ps(), of_v = _mm512_setzero_ps();
                    for (long head = h * line->groups; head < (h + 1) * line->groups; head++) {
                        long at = 2 * (head * all + places[i] * PAIRS) + j;
                        of_k = _mm512_add_ps(of_k, _mm512_load_ps(wide_keys + at));
                        of_v = _mm512_add_ps(of_v, _mm512_load_ps(wide_values + at));
                        for (long part = 0; !i && part < parts; part++) {
                            const float *more = of_prefix + 2 * (part * heads + head) * prefix * SIZE + j;
                            of_k = _mm512_add_ps(of_k, _mm512_loadu_ps(more));
                            of_v = _mm512_add_ps(of_v, _mm512_loadu_ps(more + prefix * SIZE));
                        }
                    }
                    long to = (line->starts[i] + j / SIZE) * key_stride + h * SIZE + j % SIZE;
                    rounded(of_key + to, of_k);
                    rounded(of_value + to, of_v);
                }
            }
        }
    }
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) free(rooms[i]);
    return failed;
}

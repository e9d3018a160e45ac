/* FlashAttention over a packed batch, forward and backward: in bfloat16 for x86 CPUs with
 * AVX512-BF16, with -DFLOAT32 in float32 for any CPU.
 *
 *     prefix . sequence 1 . sequence 2 . ... . sequence n
 *
 * Each token attends to the prefix and, causally, to its own sequence; with a sliding window, to
 * the last tokens of these only. Scores are computed a block of queries and keys at a time with an
 * online softmax and never stored (FlashAttention-2, Dao 2023, arXiv 2307.08691): a block stays in
 * the L1 cache, whereas separate matmuls would write all scores to memory and read them again.
 *
 * Compiled once per head size (-DSIZE, a multiple of 32) by build.py; called by attention.py. Every
 * sum is accumulated in the same order, whatever the number of threads.
 */
#include "common.h"
#include "rope.h"
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    HEAD_PAIRS = SIZE / PAIR,
    RESCALE_MARGIN = 8, /* powers of two by which a score may exceed the reference maximum before
                           the accumulators are rescaled */
};

typedef struct {
    long sequences, prefix, heads, groups,
        window; /* heads: key heads; groups: query heads per key head (GQA); window: 0 for none */
    const long *starts,
        *lengths; /* of the prefix (length 0 if there is none), then of the sequences */
    float scaling;
    const real_t *cosines, *sines; /* [tokens][SIZE] of RoPE; NULL if queries and keys need none */
} packed_layout_t;

static inline long thread_index(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static inline long total_tokens(const packed_layout_t *layout)
{
    return layout->starts[layout->sequences] + layout->lengths[layout->sequences];
}

/* Factor that turns a score into an exponent of base 2: scaling / ln(2). */
static float log2_scaling(const packed_layout_t *layout)
{
    return layout->scaling * 1.4426950408889634f;
}

/* Offsets of the prefix and of each sequence among packed vectors, each padded to a multiple of
 * PANEL; returns the total. */
static long panel_offsets(const packed_layout_t *layout, long *offsets)
{
    long total = 0;
    for (long i = 0; i <= layout->sequences; i++) {
        offsets[i] = total;
        total += round_up_to_panel(layout->lengths[i]);
    }
    return total;
}

/* Copies n vectors of one head, from `token` on, to [n][SIZE], and applies RoPE if there is one:
 * rotating them again in each pass takes less time than a separate pass over memory. */
static void load_rows(const packed_layout_t *layout, const real_t *from, long stride, long token,
                      long n, real_t *to)
{
    for (long i = 0; i < n; i++, from += stride, to += SIZE)
        if (layout->cosines)
            rotate(from, layout->cosines + (token + i) * SIZE, layout->sines + (token + i) * SIZE,
                   to, SIZE, 0);
        else memcpy(to, from, sizeof(real_t) * SIZE);
}

/* ---- forward ---- */

/* A block of queries of one head, and what the online softmax keeps of the keys so far. */
typedef struct {
    float scores[BLOCK * BLOCK] __attribute__((aligned(64))),
        acc[BLOCK * SIZE] __attribute__((aligned(64)));
    real_t weights[BLOCK * BLOCK] __attribute__((aligned(64))),
        queries[BLOCK * SIZE] __attribute__((aligned(64)));
    vec_t denominators[BLOCK];
    float max_exponent[BLOCK],
        rescale_above[BLOCK]; /* the softmax's reference, and the score that makes it move */
} query_block_t;

/* Turns the scores of query i with `width` keys into weights; those that it sees are the ones from
 * `low` on and before `end`. */
static inline void softmax_row(query_block_t *block, long i, long low, long end, long width,
                               float factor)
{
    const float *score = block->scores + i * BLOCK;
    mask_t visible[BLOCK / VECTOR];
    vec_t max_score = splat(-INFINITY);
    for (long j = 0; j < width; j += VECTOR) {
        visible[j / VECTOR] = range_mask(j, low, end);
        max_score = max_where(visible[j / VECTOR], max_score, load(score + j));
    }
    if (any_greater(max_score, block->rescale_above[i])) {
        float new_max = reduce_max(max_score) * factor;
        vec_t correction = splat(exp2f(block->max_exponent[i] - new_max));
        block->denominators[i] = block->denominators[i] * correction;
        for (float *acc = block->acc + i * SIZE; acc < block->acc + (i + 1) * SIZE; acc += VECTOR)
            store(acc, load(acc) * correction);
        block->max_exponent[i] = new_max;
        block->rescale_above[i] = (new_max + RESCALE_MARGIN) / factor;
    }
    for (long j = 0; j < width; j += VECTOR) {
        vec_t x = load(score + j);
        x = keep(visible[j / VECTOR],
                 exp2_vec(multiply_subtract(x, splat(factor), splat(block->max_exponent[i]))));
        block->denominators[i] = block->denominators[i] + x;
        store_real(block->weights + i * BLOCK + j, x);
    }
}

/* Attention of n queries to a block of packed keys and values. Query i sees `position` + i of the
 * keys before its own. */
static void attend_keys(query_block_t *block, long n, long num_keys, long position, long window,
                        float factor, const pair_t *keys, const pair_t *values)
{
    /* On the diagonal, half of the queries see half of the keys. */
    const long step = position ? n : BLOCK / 2;
    for (long first = 0; first < n; first += step) {
        const long rows = min(n - first, step),
                   seen = min(num_keys, position + first + rows), /* by the last one */
            width = round_up_to_vector(seen);
        matmul_into(rows, width, block->queries + first * SIZE, HEAD_PAIRS, keys, PANEL,
                    PANEL * HEAD_PAIRS, HEAD_PAIRS, block->scores + first * BLOCK, BLOCK);
        for (long i = first; i < first + rows; i++)
            softmax_row(block, i, window ? position + i - window + 1 : 0,
                        min(position + i + 1, num_keys), width, factor);
        add_matmul(rows, SIZE, block->weights + first * BLOCK, BLOCK / PAIR, values, SIZE, PANEL,
                   (seen + PAIR - 1) / PAIR, block->acc + first * SIZE, SIZE);
    }
}

/* Attention of n queries from `q0` on, of one head of a sequence (sequence 0 is the prefix), over
 * packed keys and values. */
static void attend_block(const packed_layout_t *layout, const long *offsets, long sequence,
                         long head, long q0, long n, const real_t *query, const pair_t *keys,
                         const pair_t *values, real_t *out, float *logsumexp)
{
    query_block_t block;
    const long heads = layout->heads * layout->groups, stride = heads * SIZE,
               past = sequence ? layout->prefix : 0, token = layout->starts[sequence] + q0;
    load_rows(layout, query + token * stride + head * SIZE, stride, token, n, block.queries);
    memset(block.acc, 0, sizeof(float) * n * SIZE);
    for (long i = 0; i < n; i++) {
        block.max_exponent[i] = block.rescale_above[i] = -INFINITY;
        block.denominators[i] = splat(0);
    }
    for (int own = sequence ? 0 : 1; own < 2;
         own++) { /* first the keys of the prefix, then the sequence's own */
        long source = own ? sequence : 0, offset = own ? past : 0,
             end = own ? q0 + n : layout->prefix, k0 = 0;
        /* Blocks of keys before the sliding window are skipped. */
        if (layout->window && past + q0 - layout->window + 1 > offset)
            k0 = (past + q0 - layout->window + 1 - offset) / PANEL * PANEL;
        for (; k0 < end; k0 += BLOCK)
            attend_keys(&block, n, min(end - k0, BLOCK), past + q0 - offset - k0, layout->window,
                        log2_scaling(layout), keys + (offsets[source] + k0) * HEAD_PAIRS,
                        values + (offsets[source] + k0) / PAIR * SIZE);
    }
    for (long i = 0; i < n; i++) {
        float denominator = reduce_add(block.denominators[i]);
        for (long j = 0; j < SIZE; j += VECTOR)
            store_real(out + (token + i) * stride + head * SIZE + j,
                       load(block.acc + i * SIZE + j) * splat(1 / denominator));
        logsumexp[head * total_tokens(layout) + token + i] =
            block.max_exponent[i] + log2f(denominator);
    }
}

/* Packs the keys of one head, from `token` on, with RoPE if there is one. */
static void pack_keys(const packed_layout_t *layout, const real_t *key, long stride, long token,
                      long n, pair_t *to)
{
    real_t rows[PANEL * SIZE] __attribute__((aligned(64)));
    for (long first = 0; first < n; first += PANEL) {
        const long count = min(n - first, PANEL);
        load_rows(layout, key + first * stride, stride, token + first, count, rows);
        pack_transposed(rows, SIZE, count, SIZE, to + first * HEAD_PAIRS);
    }
}

/* out, like query [tokens][query heads][SIZE], from key and value [tokens][key heads][SIZE];
 * logsumexp [query heads][tokens] takes the base-2 logarithms of the softmax denominators, for the
 * backward pass. Returns 1 if memory runs out. */
int flash_attention(const real_t *query, const real_t *key, const real_t *value, real_t *out,
                    float *logsumexp, const packed_layout_t *layout, long threads)
{
    const long heads = layout->heads * layout->groups, stride = layout->heads * SIZE;
    long *offsets = malloc(sizeof(long) * (2 * layout->sequences + 3)),
         *first_block = offsets + layout->sequences + 1;
    if (!offsets) return 1;
    const long padded = panel_offsets(layout, offsets);
    pair_t *keys = alloc(sizeof(pair_t) * layout->heads * padded * HEAD_PAIRS);
    pair_t *values = alloc(sizeof(pair_t) * layout->heads * padded * HEAD_PAIRS);
    int failed = !keys || !values;
    if (!failed) {
        first_block[0] = 0;
        for (long i = 0; i <= layout->sequences; i++)
            first_block[i + 1] = first_block[i] + (layout->lengths[i] + BLOCK - 1) / BLOCK;
        const long blocks = first_block[layout->sequences + 1];
#pragma omp parallel num_threads((int)threads)
        {
#pragma omp for schedule(dynamic)
            for (long task = 0; task < (layout->sequences + 1) * layout->heads; task++) {
                long i = task / layout->heads, h = task % layout->heads,
                     from = layout->starts[i] * stride + h * SIZE;
                pack_keys(layout, key + from, stride, layout->starts[i], layout->lengths[i],
                          keys + (h * padded + offsets[i]) * HEAD_PAIRS);
                pack_pairs(value + from, stride, layout->lengths[i], SIZE,
                           values + (h * padded + offsets[i]) * HEAD_PAIRS, SIZE);
            }
#pragma omp for schedule(dynamic)
            for (long task = blocks * heads - 1; task >= 0;
                 task--) { /* a sequence's last blocks have the most work, so they go first */
                long head = task / blocks, block = task % blocks, i = 0,
                     at = head / layout->groups * padded * HEAD_PAIRS;
                while (block >= first_block[i + 1]) i++;
                long q0 = (block - first_block[i]) * BLOCK;
                attend_block(layout, offsets, i, head, q0, min(layout->lengths[i] - q0, BLOCK),
                             query, keys + at, values + at, out, logsumexp);
            }
        }
    }
    free(keys);
    free(values);
    free(offsets);
    return failed;
}

#include "attention_backward.h"

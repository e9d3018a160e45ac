/* FlashAttention over a packed batch in bfloat16, forward and backward, for x86 CPUs with
 * AVX512-BF16.
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
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    HEAD_PAIRS = SIZE / 2,
    RESCALE_MARGIN = 8, /* powers of two by which a score may exceed the reference maximum before
                           the accumulators are rescaled */
};

typedef struct {
    long sequences, prefix, heads, groups,
        window; /* heads: key heads; groups: query heads per key head (GQA); window: 0 for none */
    const long *starts,
        *lengths; /* of the prefix (length 0 if there is none), then of the sequences */
    float scaling;
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

/* Mask of the 16 positions from j on that satisfy low <= position < end. */
static inline __mmask16 range_mask(long j, long low, long end)
{
    const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i position = _mm512_add_epi32(steps, _mm512_set1_epi32((int)j));
    return _mm512_cmplt_epi32_mask(position, _mm512_set1_epi32((int)end)) &
           _mm512_cmpge_epi32_mask(position, _mm512_set1_epi32((int)low));
}

/* Factor that turns a score into an exponent of base 2: scaling / ln(2). */
static float log2_scaling(const packed_layout_t *layout)
{
    return layout->scaling * 1.4426950408889634f;
}

/* Offsets of the prefix and of each sequence among packed vectors, each padded to a multiple of 32;
 * returns the total. */
static long panel_offsets(const packed_layout_t *layout, long *offsets)
{
    long total = 0;
    for (long i = 0; i <= layout->sequences; i++) {
        offsets[i] = total;
        total += round_up_to_panel(layout->lengths[i]);
    }
    return total;
}

/* ---- forward ---- */

/* Attention of n queries from `q0` on, of one head of a sequence (sequence 0 is the prefix), over
 * packed keys and values. */
static void attend_block(const packed_layout_t *layout, const long *offsets, long sequence,
                         long head, long q0, long n, const bf16_t *query, const bf16x2_t *keys,
                         const bf16x2_t *values, bf16_t *out, float *logsumexp)
{
    float scores[BLOCK * BLOCK] __attribute__((aligned(64))),
        acc[BLOCK * SIZE] __attribute__((aligned(64)));
    bf16_t weights[BLOCK * BLOCK] __attribute__((aligned(64)));
    __m512 denominators[BLOCK];
    __mmask16 visible[BLOCK / VECTOR];
    float max_exponent[BLOCK],
        rescale_above[BLOCK]; /* the softmax's reference, and the score that makes it move */
    const long heads = layout->heads * layout->groups, stride = heads * SIZE,
               past = sequence ? layout->prefix : 0;
    const long tokens = total_tokens(layout);
    const float factor = log2_scaling(layout);
    query += (layout->starts[sequence] + q0) * stride + head * SIZE;
    memset(acc, 0, sizeof(float) * n * SIZE);
    for (long i = 0; i < n; i++) {
        max_exponent[i] = rescale_above[i] = -INFINITY;
        denominators[i] = _mm512_setzero_ps();
    }
    for (int own = sequence ? 0 : 1; own < 2;
         own++) { /* first the keys of the prefix, then the sequence's own */
        long source = own ? sequence : 0, offset = own ? past : 0,
             end = own ? q0 + n : layout->prefix, k0 = 0;
        /* Blocks of keys before the sliding window are skipped. */
        if (layout->window && past + q0 - layout->window + 1 > offset)
            k0 = (past + q0 - layout->window + 1 - offset) / PANEL * PANEL;
        for (; k0 < end; k0 += BLOCK) {
            long num_keys = min(end - k0, BLOCK);
            matmul(n, BLOCK, query, stride / 2, keys + (offsets[source] + k0) * HEAD_PAIRS, PANEL,
                   0, HEAD_PAIRS, scores, BLOCK, 0);
            for (long i = 0; i < n; i++) {
                const float *score = scores + i * BLOCK;
                long position = past + q0 + i - offset - k0, to = min(position + 1, num_keys);
                long low = layout->window ? position - layout->window + 1 : 0;
                __m512 max_score = _mm512_set1_ps(-INFINITY);
                for (long j = 0; j < BLOCK; j += VECTOR) {
                    visible[j / VECTOR] = range_mask(j, low, to);
                    max_score = _mm512_mask_max_ps(max_score, visible[j / VECTOR], max_score,
                                                   _mm512_load_ps(score + j));
                }
                if (_mm512_cmp_ps_mask(max_score, _mm512_set1_ps(rescale_above[i]), _CMP_GT_OQ)) {
                    float new_max = _mm512_reduce_max_ps(max_score) * factor;
                    __m512 correction = _mm512_set1_ps(exp2f(max_exponent[i] - new_max));
                    denominators[i] = _mm512_mul_ps(denominators[i], correction);
                    for (long j = i * SIZE; j < (i + 1) * SIZE; j += VECTOR)
                        _mm512_store_ps(acc + j,
                                        _mm512_mul_ps(_mm512_load_ps(acc + j), correction));
                    max_exponent[i] = new_max;
                    rescale_above[i] = (new_max + RESCALE_MARGIN) / factor;
                }
                for (long j = 0; j < BLOCK; j += VECTOR) {
                    __m512 x = _mm512_load_ps(score + j);
                    x = _mm512_maskz_mov_ps(
                        visible[j / VECTOR],
                        exp2_ps(_mm512_fmsub_ps(x, _mm512_set1_ps(factor),
                                                _mm512_set1_ps(max_exponent[i]))));
                    denominators[i] = _mm512_add_ps(denominators[i], x);
                    store_bf16(weights + i * BLOCK + j, x);
                }
            }
            matmul(n, SIZE, weights, BLOCK / 2, values + (offsets[source] + k0) / 2 * SIZE, SIZE,
                   PANEL, BLOCK / 2, acc, SIZE, 1);
        }
    }
    for (long i = 0; i < n; i++) {
        float denominator = _mm512_reduce_add_ps(denominators[i]);
        for (long j = 0; j < SIZE; j += VECTOR)
            store_bf16(
                out + (layout->starts[sequence] + q0 + i) * stride + head * SIZE + j,
                _mm512_mul_ps(_mm512_load_ps(acc + i * SIZE + j), _mm512_set1_ps(1 / denominator)));
        logsumexp[head * tokens + layout->starts[sequence] + q0 + i] =
            max_exponent[i] + log2f(denominator);
    }
}

/* out, like query [tokens][query heads][SIZE], from key and value [tokens][key heads][SIZE];
 * logsumexp [query heads][tokens] takes the base-2 logarithms of the softmax denominators, for the
 * backward pass. Returns 1 if memory runs out. */
int flash_attention(const bf16_t *query, const bf16_t *key, const bf16_t *value, bf16_t *out,
                    float *logsumexp, const packed_layout_t *layout, long threads)
{
    const long heads = layout->heads * layout->groups, stride = layout->heads * SIZE;
    long *offsets = malloc(sizeof(long) * (2 * layout->sequences + 3)),
         *first_block = offsets + layout->sequences + 1;
    if (!offsets) return 1;
    const long padded = panel_offsets(layout, offsets);
    bf16x2_t *keys = alloc(4 * (size_t)layout->heads * padded * HEAD_PAIRS);
    bf16x2_t *values = alloc(4 * (size_t)layout->heads * padded * HEAD_PAIRS);
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
                pack_transposed(key + from, stride, layout->lengths[i], SIZE,
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

/* ---- backward ---- */

/* Inputs of one head's gradients. Unpacked: keys and values, from the first of the head's key head.
 * Packed: the keys, the head's queries and its output gradients. Per query: `logsumexp` of the
 * forward pass, and the dot product of output and its gradient. */
typedef struct {
    const bf16_t *keys, *values;
    const bf16x2_t *paired_keys, *transposed_queries, *paired_queries, *transposed_grads,
        *paired_grads;
    const float *logsumexp, *dots;
} head_inputs_t;

/* Adds the contribution of a sequence's queries and the keys of `source` (the sequence itself, or
 * the prefix: 0) to the gradients of both [tokens][SIZE]. Scores are transposed here,
 * [keys][queries], so that two of the three matmuls with them use them as they are. */
static void add_gradients(const packed_layout_t *layout, const long *offsets, long sequence,
                          long source, const head_inputs_t *inputs, float *grad_queries,
                          float *grad_keys, float *grad_values)
{
    float scores[BLOCK * BLOCK] __attribute__((aligned(64))),
        grad_weights[BLOCK * BLOCK] __attribute__((aligned(64)));
    bf16_t weights[BLOCK * BLOCK] __attribute__((aligned(64))),
        grad_scores[BLOCK * BLOCK] __attribute__((aligned(64)));
    bf16x2_t grad_scores_by_query[BLOCK * BLOCK / 2] __attribute__((aligned(64)));
    const long stride = layout->heads * SIZE, length = layout->lengths[sequence],
               offset = source == sequence ? 0 : layout->prefix;
    const bf16_t *keys = inputs->keys + layout->starts[source] * stride,
                 *values = inputs->values + layout->starts[source] * stride;
    const float *logsumexp = inputs->logsumexp + layout->starts[sequence],
                *dots = inputs->dots + layout->starts[sequence];
    const __m512 factor = _mm512_set1_ps(log2_scaling(layout)),
                 scaling = _mm512_set1_ps(layout->scaling);
    for (long k0 = 0; k0 < layout->lengths[source]; k0 += BLOCK) {
        long num_keys = min(layout->lengths[source] - k0, BLOCK), last = length;
        if (layout->window) last = min(last, k0 + num_keys - 1 + layout->window - offset);
        for (long q0 = source == sequence ? k0 : 0; q0 < last; q0 += BLOCK) {
            long n = min(last - q0, BLOCK), at = (offsets[sequence] + q0) * HEAD_PAIRS;
            matmul(num_keys, BLOCK, keys + k0 * stride, stride / 2, inputs->transposed_queries + at,
                   PANEL, 0, HEAD_PAIRS, scores, BLOCK, 0);
            matmul(num_keys, BLOCK, values + k0 * stride, stride / 2, inputs->transposed_grads + at,
                   PANEL, 0, HEAD_PAIRS, grad_weights, BLOCK, 0);
            for (long i = 0; i < num_keys; i++) {
                long low = k0 + i - offset - q0,
                     end = layout->window ? min(low + layout->window, n) : n;
                for (long j = 0; j < BLOCK; j += VECTOR) {
                    __mmask16 visible = range_mask(j, low, end);
                    __m512 x = _mm512_load_ps(scores + i * BLOCK + j),
                           grad = _mm512_load_ps(grad_weights + i * BLOCK + j);
                    x = exp2_ps(_mm512_fmsub_ps(
                        x, factor, _mm512_maskz_loadu_ps(visible, logsumexp + q0 + j)));
                    x = _mm512_maskz_mov_ps(visible, x);
                    grad = _mm512_mul_ps(
                        _mm512_sub_ps(grad, _mm512_maskz_loadu_ps(visible, dots + q0 + j)),
                        scaling);
                    store_bf16(weights + i * BLOCK + j, x);
                    store_bf16(grad_scores + i * BLOCK + j, _mm512_mul_ps(grad, x));
                }
            }
            matmul(num_keys, SIZE, weights, BLOCK / 2, inputs->paired_grads + at, SIZE, PANEL,
                   BLOCK / 2, grad_values + k0 * SIZE, SIZE, 1);
            matmul(num_keys, SIZE, grad_scores, BLOCK / 2, inputs->paired_queries + at, SIZE, PANEL,
                   BLOCK / 2, grad_keys + k0 * SIZE, SIZE, 1);
            transpose_block(grad_scores, num_keys, grad_scores_by_query);
            matmul(n, SIZE, grad_scores_by_query, BLOCK / 2,
                   inputs->paired_keys + (offsets[source] + k0) * HEAD_PAIRS, SIZE, PANEL,
                   BLOCK / 2, grad_queries + q0 * SIZE, SIZE, 1);
        }
    }
}

/* Gradients of query, key and value from the gradient of out; the other arguments as in
 * `flash_attention`. Returns 1 if memory runs out. */
int flash_attention_backward(const bf16_t *query, const bf16_t *key, const bf16_t *value,
                             const bf16_t *out, const float *logsumexp, const bf16_t *grad_out,
                             bf16_t *grad_query, bf16_t *grad_key, bf16_t *grad_value,
                             const packed_layout_t *layout, long threads)
{
    const long sequences = layout->sequences, heads = layout->heads * layout->groups;
    const long stride = heads * SIZE, key_stride = layout->heads * SIZE;
    const long tokens = total_tokens(layout), prefix = layout->prefix;
    /* The prefix's gradients are accumulated in this many partial sums, whose memory is at most
     * that of all sequences. The number does not depend on the threads, so neither does the result.
     */
    const long partials = prefix && sequences ? min(sequences, tokens / prefix) : 0,
               units = partials ? partials : sequences;
    long *offsets = malloc(sizeof(long) * (2 * sequences + 2)), *order = offsets + sequences + 1;
    if (!offsets) return 1;
    const long padded = panel_offsets(layout, offsets),
               head_pairs = padded * HEAD_PAIRS; /* bf16 pairs of one head */
    long longest = 0;
    for (long i = 0; i <= sequences;
         i++) { /* insertion sort: long sequences first, the prefix last */
        long j = i;
        longest = layout->lengths[i] > longest ? layout->lengths[i] : longest;
        for (; j > 0 && (!order[j - 1] || layout->lengths[order[j - 1]] < layout->lengths[i]); j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
    bf16x2_t *paired_keys = alloc(4 * layout->heads * head_pairs),
             *transposed_queries = alloc(4 * heads * head_pairs);
    bf16x2_t *paired_queries = alloc(4 * heads * head_pairs);
    bf16x2_t *transposed_grads = alloc(4 * heads * head_pairs),
             *paired_grads = alloc(4 * heads * head_pairs);
    float *key_acc = alloc(8 * heads * head_pairs), *value_acc = alloc(8 * heads * head_pairs),
          *dots = alloc(4 * heads * tokens);
    float *prefix_acc = alloc(8 * partials * heads * prefix * SIZE),
          *query_acc = alloc(4 * threads * longest * SIZE);
    void *buffers[] = {
        paired_keys, transposed_queries, paired_queries, transposed_grads, paired_grads,
        key_acc,     value_acc,          dots,           prefix_acc,       query_acc,
        offsets};
    int failed = 0;
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) failed |= !buffers[i];
    if (!failed) {
#pragma omp parallel num_threads((int)threads)
        {
            /* Pack all inputs, and compute the dot products of outputs and their gradients. */
#pragma omp for schedule(dynamic)
            for (long task = 0; task < (sequences + 1) * heads; task++) {
                long i = order[task / heads], head = task % heads, h = head / layout->groups,
                     n = layout->lengths[i];
                long at = head * head_pairs + offsets[i] * HEAD_PAIRS;
                const bf16_t *q = query + layout->starts[i] * stride + head * SIZE,
                             *g = grad_out + layout->starts[i] * stride + head * SIZE;
                const bf16_t *o = out + layout->starts[i] * stride + head * SIZE,
                             *k = key + layout->starts[i] * key_stride + h * SIZE;
                pack_transposed(q, stride, n, SIZE, transposed_queries + at);
                pack_pairs(q, stride, n, SIZE, paired_queries + at, SIZE);
                pack_transposed(g, stride, n, SIZE, transposed_grads + at);
                pack_pairs(g, stride, n, SIZE, paired_grads + at, SIZE);
                if (head % layout->groups == 0)
                    pack_pairs(k, key_stride, n, SIZE,
                               paired_keys + h * head_pairs + offsets[i] * HEAD_PAIRS, SIZE);
                for (long j = 0; j < n; j++) {
                    __m512 sum = _mm512_setzero_ps();
                    for (long d = j * stride; d < j * stride + SIZE; d += VECTOR)
                        sum = _mm512_fmadd_ps(load_bf16(g + d), load_bf16(o + d), sum);
                    dots[head * tokens + layout->starts[i] + j] = _mm512_reduce_add_ps(sum);
                }
            }
            /* Gradients per query head, in float32; those of queries are final and rounded at once.
             */
#pragma omp for schedule(dynamic)
            for (long task = 0; task < (units + 1) * heads;
                 task++) { /* some sequences of one head; the prefix last */
                long head = task % heads, h = head / layout->groups, first = task / heads,
                     step = units ? units : 1;
                head_inputs_t inputs = {key + h * SIZE,
                                        value + h * SIZE,
                                        paired_keys + h * head_pairs,
                                        transposed_queries + head * head_pairs,
                                        paired_queries + head * head_pairs,
                                        transposed_grads + head * head_pairs,
                                        paired_grads + head * head_pairs,
                                        logsumexp + head * tokens,
                                        dots + head * tokens};
                float *prefix_keys = prefix_acc + 2 * (first * heads + head) * prefix * SIZE,
                      *prefix_values = prefix_keys + prefix * SIZE;
                if (first < partials) memset(prefix_keys, 0, 8 * prefix * SIZE);
                for (long r = first < units ? first : sequences;
                     r <= (first < units ? sequences - 1 : sequences); r += step) {
                    long i = order[r], at = 2 * (head * head_pairs + offsets[i] * HEAD_PAIRS);
                    float *acc = query_acc + thread_index() * longest * SIZE;
                    memset(acc, 0, 4 * layout->lengths[i] * SIZE);
                    memset(key_acc + at, 0, 4 * layout->lengths[i] * SIZE);
                    memset(value_acc + at, 0, 4 * layout->lengths[i] * SIZE);
                    if (i && partials)
                        add_gradients(layout, offsets, i, 0, &inputs, acc, prefix_keys,
                                      prefix_values);
                    add_gradients(layout, offsets, i, i, &inputs, acc, key_acc + at,
                                  value_acc + at);
                    for (long j = 0; j < layout->lengths[i]; j++)
                        for (long d = 0; d < SIZE; d += VECTOR)
                            store_bf16(grad_query + (layout->starts[i] + j) * stride + head * SIZE +
                                           d,
                                       _mm512_load_ps(acc + j * SIZE + d));
                }
            }
            /* Gradients of keys and values: the sum over the query heads of each key head, and for
             * the prefix over the partials. */
#pragma omp for schedule(dynamic)
            for (long task = 0; task < (sequences + 1) * layout->heads; task++) {
                long i = task / layout->heads, h = task % layout->heads;
                for (long j = 0; j < layout->lengths[i] * SIZE; j += VECTOR) {
                    __m512 grad_k = _mm512_setzero_ps(), grad_v = _mm512_setzero_ps();
                    for (long head = h * layout->groups; head < (h + 1) * layout->groups; head++) {
                        long at = 2 * (head * head_pairs + offsets[i] * HEAD_PAIRS) + j;
                        grad_k = _mm512_add_ps(grad_k, _mm512_load_ps(key_acc + at));
                        grad_v = _mm512_add_ps(grad_v, _mm512_load_ps(value_acc + at));
                        for (long partial = 0; !i && partial < partials; partial++) {
                            const float *more =
                                prefix_acc + 2 * (partial * heads + head) * prefix * SIZE + j;
                            grad_k = _mm512_add_ps(grad_k, _mm512_loadu_ps(more));
                            grad_v = _mm512_add_ps(grad_v, _mm512_loadu_ps(more + prefix * SIZE));
                        }
                    }
                    long to = (layout->starts[i] + j / SIZE) * key_stride + h * SIZE + j % SIZE;
                    store_bf16(grad_key + to, grad_k);
                    store_bf16(grad_value + to, grad_v);
                }
            }
        }
    }
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]);
    return failed;
}

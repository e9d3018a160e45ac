/* Backward pass of attention.c, which includes this file after its layout helpers. */

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

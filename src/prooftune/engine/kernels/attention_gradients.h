/* Gradients of attention between the queries of one head of a sequence, and its keys or those of
 * the prefix. Scores are computed again a block at a time, as in the forward pass (attention.c). */

enum {
    QUERY_BLOCK = 2 * BLOCK, /* queries computed at a time for BLOCK keys */
};

/* Arrays of a thread, for one head of one sequence: its keys, packed inputs, the dot product of
 * each output and its gradient, the forward pass's logsumexp, and gradients in float32
 * [tokens][SIZE]. The `sum_` arrays take those of keys and values of all query heads. */
typedef struct {
    real_t *keys;
    pair_t *transposed_queries, *paired_queries, *transposed_grads, *paired_grads, *paired_keys;
    float *dots, *logsumexp, *grad_queries, *grad_keys, *grad_values, *sum_keys, *sum_values;
} workspace_t;

/* Gives the workspace its arrays within one block of memory, which is returned; NULL: none left. */
static void *alloc_workspace(workspace_t *workspace, long longest)
{
    const size_t rows = (size_t)round_up_to_panel(longest), packed = rows * HEAD_PAIRS;
    pair_t **const packed_arrays[] = {&workspace->transposed_queries, &workspace->paired_queries,
                                      &workspace->transposed_grads, &workspace->paired_grads,
                                      &workspace->paired_keys};
    float **const sums[] = {&workspace->grad_queries, &workspace->grad_keys,
                            &workspace->grad_values, &workspace->sum_keys, &workspace->sum_values};
    const size_t count = sizeof sums / sizeof *sums;
    pair_t *memory = alloc(4 * ((count + 1) * packed + count * rows * SIZE + 2 * rows));
    if (!memory) return NULL;
    for (size_t i = 0; i < count; i++) {
        *packed_arrays[i] = memory + i * packed;
        *sums[i] = (float *)(memory + count * packed) + i * rows * SIZE;
    }
    workspace->dots = (float *)(memory + count * (packed + rows * SIZE));
    workspace->logsumexp = workspace->dots + rows;
    workspace->keys = (real_t *)(workspace->logsumexp + rows);
    return memory;
}

/* Adds the contribution of a sequence's queries and the keys of `source` (the sequence itself, or
 * the prefix: 0) to the gradients of both [tokens][SIZE]; `keys` [tokens][SIZE] and
 * `values` are those of the source's head, `paired_keys` its packed keys. Scores are transposed
 * here, [keys][queries], so that two of the three matmuls with them use them as they are. */
static void add_gradients(const packed_layout_t *layout, long sequence, long source,
                          const real_t *keys, const real_t *values, const pair_t *paired_keys,
                          const workspace_t *workspace, float *grad_keys, float *grad_values)
{
    float scores[BLOCK * QUERY_BLOCK] __attribute__((aligned(64))),
        grad_weights[BLOCK * QUERY_BLOCK] __attribute__((aligned(64)));
    real_t weights[BLOCK * QUERY_BLOCK] __attribute__((aligned(64))),
        grad_scores[BLOCK * QUERY_BLOCK] __attribute__((aligned(64)));
    pair_t grad_scores_by_query[QUERY_BLOCK * BLOCK / PAIR] __attribute__((aligned(64)));
    const long stride = layout->heads * SIZE, length = layout->lengths[sequence],
               offset = source == sequence ? 0 : layout->prefix;
    const float *dots = workspace->dots, *logsumexp = workspace->logsumexp;
    const vec_t factor = splat(log2_scaling(layout)), scaling = splat(layout->scaling);
    for (long k0 = 0; k0 < layout->lengths[source]; k0 += BLOCK) {
        long num_keys = min(layout->lengths[source] - k0, BLOCK), last = length;
        if (layout->window) last = min(last, k0 + num_keys - 1 + layout->window - offset);
        for (long q0 = source == sequence ? k0 : 0; q0 < last; q0 += QUERY_BLOCK) {
            const long n = min(last - q0, QUERY_BLOCK), width = round_up_to_vector(n),
                       at = q0 * HEAD_PAIRS;
            matmul_into(num_keys, width, keys + k0 * SIZE, HEAD_PAIRS,
                        workspace->transposed_queries + at, PANEL, PANEL * HEAD_PAIRS, HEAD_PAIRS,
                        scores, QUERY_BLOCK);
            matmul_into(num_keys, width, values + k0 * stride, stride / PAIR,
                        workspace->transposed_grads + at, PANEL, PANEL * HEAD_PAIRS, HEAD_PAIRS,
                        grad_weights, QUERY_BLOCK);
            for (long i = 0; i < num_keys; i++) {
                long low = k0 + i - offset - q0,
                     end = layout->window ? min(low + layout->window, n) : n;
                for (long j = 0; j < width; j += VECTOR) {
                    mask_t visible = range_mask(j, low, end);
                    vec_t x = load(scores + i * QUERY_BLOCK + j),
                          grad = load(grad_weights + i * QUERY_BLOCK + j);
                    x = exp2_vec(multiply_subtract(x, factor, load(logsumexp + q0 + j)));
                    x = keep(visible, x);
                    grad = (grad - load(dots + q0 + j)) * scaling;
                    store_real(weights + i * QUERY_BLOCK + j, x);
                    store_real(grad_scores + i * QUERY_BLOCK + j, grad * x);
                }
            }
            add_matmul(num_keys, SIZE, weights, QUERY_BLOCK / PAIR, workspace->paired_grads + at,
                       SIZE, PANEL, (n + PAIR - 1) / PAIR, grad_values + k0 * SIZE, SIZE);
            add_matmul(num_keys, SIZE, grad_scores, QUERY_BLOCK / PAIR,
                       workspace->paired_queries + at, SIZE, PANEL, (n + PAIR - 1) / PAIR,
                       grad_keys + k0 * SIZE, SIZE);
            for (long j = 0; j < n; j += BLOCK)
                transpose_block(grad_scores + j, QUERY_BLOCK, num_keys,
                                grad_scores_by_query + j * BLOCK / PAIR);
            add_matmul(n, SIZE, grad_scores_by_query, BLOCK / PAIR, paired_keys + k0 * HEAD_PAIRS,
                       SIZE, PANEL, (num_keys + PAIR - 1) / PAIR,
                       workspace->grad_queries + q0 * SIZE, SIZE);
        }
    }
}

/* sums += more, [n]; n is a multiple of 16. */
static void add_to(float *sums, const float *more, long n)
{
    for (long i = 0; i < n; i += VECTOR) store(sums + i, load(sums + i) + load(more + i));
}

/* Rounds [n][SIZE] to rows of `to`. */
static void store_rows(const float *from, long n, real_t *to, long stride)
{
    for (long i = 0; i < n; i++)
        for (long d = 0; d < SIZE; d += VECTOR)
            store_real(to + i * stride + d, load(from + i * SIZE + d));
}

/* `store_rows` of the gradients of queries or keys from `token` on, and back through RoPE. */
static void store_rotated_rows(const packed_layout_t *layout, const float *from, long token, long n,
                               real_t *to, long stride)
{
    store_rows(from, n, to, stride);
    if (layout->cosines)
        for (long i = 0; i < n; i++)
            rotate(to + i * stride, layout->cosines + (token + i) * SIZE,
                   layout->sines + (token + i) * SIZE, to + i * stride, SIZE, 1);
}

/* Packs the queries and output gradients of one head of a sequence, from their first rows on,
 * copies `logsumexp`, and computes the dot products of outputs and their gradients. */
static void pack_inputs(const packed_layout_t *layout, const real_t *query, const real_t *out,
                        const real_t *grad_out, const float *logsumexp, long stride, long token,
                        long n, const workspace_t *workspace)
{
    real_t rows[PANEL * SIZE] __attribute__((aligned(64)));
    for (long first = 0; first < n; first += PANEL) {
        const long count = min(n - first, PANEL), at = first * HEAD_PAIRS;
        load_rows(layout, query + first * stride, stride, token + first, count, rows);
        pack_transposed(rows, SIZE, count, SIZE, workspace->transposed_queries + at);
        pack_pairs(rows, SIZE, count, SIZE, workspace->paired_queries + at, SIZE);
    }
    pack_transposed(grad_out, stride, n, SIZE, workspace->transposed_grads);
    pack_pairs(grad_out, stride, n, SIZE, workspace->paired_grads, SIZE);
    memcpy(workspace->logsumexp, logsumexp, 4 * n);
    for (long i = 0; i < n; i++) {
        vec_t sum = splat(0);
        for (long d = i * stride; d < i * stride + SIZE; d += VECTOR)
            sum = multiply_add(load_real(grad_out + d), load_real(out + d), sum);
        workspace->dots[i] = reduce_add(sum);
    }
    for (long i = n; i < round_up_to_panel(n); i++) /* read, and multiplied by 0 */
        workspace->logsumexp[i] = workspace->dots[i] = 0;
}

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

/* Scores of a block of keys and queries, [keys][queries], so that two of the three matmuls with
 * them use them as they are. */
typedef struct {
    float scores[BLOCK * QUERY_BLOCK] __attribute__((aligned(64))),
        grad_weights[BLOCK * QUERY_BLOCK] __attribute__((aligned(64)));
    real_t weights[BLOCK * QUERY_BLOCK] __attribute__((aligned(64))),
        grad_scores[BLOCK * QUERY_BLOCK] __attribute__((aligned(64)));
    pair_t grad_scores_by_query[QUERY_BLOCK * BLOCK / PAIR] __attribute__((aligned(64)));
} score_block_t;

/* out [keys][queries] = a b, for the queries from `low` on, a multiple of BLOCK / 2, up to `width`;
 * b is packed in panels. */
static void matmul_from(long keys, long low, long width, const void *a, long a_stride,
                        const pair_t *b, float *out)
{
    /* The part of a panel that is left of it. */
    const long within = low % PANEL, part = within ? PANEL - within : 0;
    if (part)
        matmul_into(keys, min(part, width - low), a, a_stride,
                    b + low / PANEL * PANEL * HEAD_PAIRS + within, PANEL, PANEL * HEAD_PAIRS,
                    HEAD_PAIRS, out + low, QUERY_BLOCK);
    if (low + part < width)
        matmul_into(keys, width - low - part, a, a_stride, b + (low + part) * HEAD_PAIRS, PANEL,
                    PANEL * HEAD_PAIRS, HEAD_PAIRS, out + low + part, QUERY_BLOCK);
}

/* Weights and the gradients of scores of key i, for the queries from `from` on up to `width`; those
 * that see it are the ones from `low` on and before `end`. `dots` and `logsumexp` are those of the
 * queries. */
static inline void score_gradients(score_block_t *block, long i, long from, long width, long low,
                                   long end, const float *dots, const float *logsumexp,
                                   vec_t factor, vec_t scaling)
{
    for (long j = from; j < width; j += VECTOR) {
        mask_t visible = range_mask(j, low, end);
        vec_t x = load(block->scores + i * QUERY_BLOCK + j),
              grad = load(block->grad_weights + i * QUERY_BLOCK + j);
        x = exp2_vec(multiply_subtract(x, factor, load(logsumexp + j)));
        x = keep(visible, x);
        grad = (grad - load(dots + j)) * scaling;
        store_real(block->weights + i * QUERY_BLOCK + j, x);
        store_real(block->grad_scores + i * QUERY_BLOCK + j, grad * x);
    }
}

/* Gradients [tokens][SIZE] between a sequence's queries and the keys of `source`: the sequence
 * itself, whose keys and values get theirs, or the prefix (0), whose gradients are added to, as
 * those of the queries are; `keys` [tokens][SIZE] and
 * `values` are those of the source's head, `paired_keys` its packed keys. */
static void add_gradients(const packed_layout_t *layout, long sequence, long source,
                          const real_t *keys, const real_t *values, const pair_t *paired_keys,
                          const workspace_t *workspace, float *grad_keys, float *grad_values)
{
    score_block_t block;
    const long stride = layout->heads * SIZE, length = layout->lengths[sequence],
               offset = source == sequence ? 0 : layout->prefix;
    const vec_t factor = splat(log2_scaling(layout)), scaling = splat(layout->scaling);
    for (long k0 = 0; k0 < layout->lengths[source]; k0 += BLOCK) {
        long num_keys = min(layout->lengths[source] - k0, BLOCK), last = length;
        if (layout->window) last = min(last, k0 + num_keys - 1 + layout->window - offset);
        for (long q0 = source == sequence ? k0 : 0; q0 < last; q0 += QUERY_BLOCK) {
            const long n = min(last - q0, QUERY_BLOCK), width = round_up_to_vector(n),
                       at = q0 * HEAD_PAIRS;
            /* On the diagonal, the first half of the queries does not see the second half of the
             * keys. */
            const int diagonal = source == sequence && q0 == k0;
            const long step = diagonal ? BLOCK / 2 : BLOCK;
            for (long first = 0; first < num_keys; first += step) {
                const long rows = min(num_keys - first, step), from = diagonal ? first : 0,
                           pairs = (n - from + PAIR - 1) / PAIR, to = (k0 + first) * SIZE,
                           queries = at + from / PAIR * SIZE;
                matmul_from(rows, from, width, keys + to, HEAD_PAIRS,
                            workspace->transposed_queries + at, block.scores + first * QUERY_BLOCK);
                matmul_from(rows, from, width, values + (k0 + first) * stride, stride / PAIR,
                            workspace->transposed_grads + at,
                            block.grad_weights + first * QUERY_BLOCK);
                for (long i = first; i < first + rows; i++) {
                    const long low = k0 + i - offset - q0;
                    score_gradients(&block, i, from, width, low,
                                    layout->window ? min(low + layout->window, n) : n,
                                    workspace->dots + q0, workspace->logsumexp + q0, factor,
                                    scaling);
                }
                /* Each key of the sequence itself is first seen by the queries of its diagonal. */
                (diagonal ? matmul_into : add_matmul)(
                    rows, SIZE, block.weights + first * QUERY_BLOCK + from, QUERY_BLOCK / PAIR,
                    workspace->paired_grads + queries, SIZE, PANEL, pairs, grad_values + to, SIZE);
                (diagonal ? matmul_into : add_matmul)(
                    rows, SIZE, block.grad_scores + first * QUERY_BLOCK + from, QUERY_BLOCK / PAIR,
                    workspace->paired_queries + queries, SIZE, PANEL, pairs, grad_keys + to, SIZE);
            }
            for (long j = 0; j < n; j += BLOCK)
                transpose_block(block.grad_scores + j, QUERY_BLOCK, num_keys,
                                block.grad_scores_by_query + j * BLOCK / PAIR);
            for (long first = 0, rows; first < n; first += rows) {
                rows = diagonal && !first ? min(n, BLOCK / 2) : n - first;
                const long seen = diagonal ? min(first + rows, num_keys) : num_keys;
                add_matmul(rows, SIZE, block.grad_scores_by_query + first * BLOCK / PAIR,
                           BLOCK / PAIR, paired_keys + k0 * HEAD_PAIRS, SIZE, PANEL,
                           (seen + PAIR - 1) / PAIR, workspace->grad_queries + (q0 + first) * SIZE,
                           SIZE);
            }
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

/* Backward pass of attention.c, which includes this file after its layout helpers.
 *
 * A task is some sequences of one key head, or of one of its query heads where there are too few
 * sequences for all threads. What is computed for one head of a sequence stays in arrays of the
 * thread, which fit the L2 cache for sequences of some hundred tokens. Sums have the same order for
 * every number of threads. */

enum {
    QUERY_BLOCK = 2 * BLOCK, /* queries computed at a time for BLOCK keys */
};

/* Arrays of a thread, for one head of one sequence: packed inputs, the dot product of each output
 * and its gradient, the forward pass's logsumexp, and gradients in float32 [tokens][SIZE]. The
 * `sum_` arrays take those of keys and values of all query heads. */
typedef struct {
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
    pair_t *memory = alloc(4 * (count * (packed + rows * SIZE) + 2 * rows));
    if (!memory) return NULL;
    for (size_t i = 0; i < count; i++) {
        *packed_arrays[i] = memory + i * packed;
        *sums[i] = (float *)(memory + count * packed) + i * rows * SIZE;
    }
    workspace->dots = (float *)(memory + count * (packed + rows * SIZE));
    workspace->logsumexp = workspace->dots + rows;
    return memory;
}

/* Adds the contribution of a sequence's queries and the keys of `source` (the sequence itself, or
 * the prefix: 0) to the gradients of both [tokens][SIZE]; `keys` and `values` are those of the
 * source's head, `paired_keys` its packed keys. Scores are transposed here, [keys][queries], so
 * that two of the three matmuls with them use them as they are. */
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
            matmul_into(num_keys, width, keys + k0 * stride, stride / PAIR,
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

/* Packs the queries and output gradients of one head of a sequence, from their first rows on,
 * copies `logsumexp`, and computes the dot products of outputs and their gradients. */
static void pack_inputs(const real_t *query, const real_t *out, const real_t *grad_out,
                        const float *logsumexp, long stride, long n, const workspace_t *workspace)
{
    pack_transposed(query, stride, n, SIZE, workspace->transposed_queries);
    pack_pairs(query, stride, n, SIZE, workspace->paired_queries, SIZE);
    pack_transposed(grad_out, stride, n, SIZE, workspace->transposed_grads);
    pack_pairs(grad_out, stride, n, SIZE, workspace->paired_grads, SIZE);
    const size_t padding = 4 * (round_up_to_panel(n) - n); /* read, and multiplied by 0 */
    memcpy(workspace->logsumexp, logsumexp, 4 * n);
    memset(workspace->logsumexp + n, 0, padding);
    memset(workspace->dots + n, 0, padding);
    for (long i = 0; i < n; i++) {
        vec_t sum = splat(0);
        for (long d = i * stride; d < i * stride + SIZE; d += VECTOR)
            sum = multiply_add(load_real(grad_out + d), load_real(out + d), sum);
        workspace->dots[i] = reduce_add(sum);
    }
}

/* Gradients of query, key and value from the gradient of out; the other arguments as in
 * `flash_attention`. Returns 1 if memory runs out. */
int flash_attention_backward(const real_t *query, const real_t *key, const real_t *value,
                             const real_t *out, const float *logsumexp, const real_t *grad_out,
                             real_t *grad_query, real_t *grad_key, real_t *grad_value,
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
    /* Tasks of one query head each need the key gradients of all heads in memory. */
    const int split = layout->groups > 1 && (units + 1) * layout->heads < 4 * threads;
    const long task_heads = split ? 1 : layout->groups, columns = heads / task_heads,
               step = units ? units : 1;
    const size_t prefix_size = 2 * (size_t)prefix * SIZE; /* gradients of the keys and the values */
    long *order = malloc(sizeof(long) * (sequences + 1)), longest = 0;
    /* Of the prefix: packed keys, and per query head its own gradients, then those of each partial.
     */
    pair_t *prefix_keys = alloc(4 * layout->heads * round_up_to_panel(prefix) * HEAD_PAIRS);
    float *prefix_sums = alloc(4 * (partials + 1) * heads * prefix_size),
          *head_sums = alloc(split ? 8 * (size_t)heads * tokens * SIZE : 0);
    int failed = !order || !prefix_keys || !prefix_sums || !head_sums;
    for (long i = 0; i <= sequences && !failed;
         i++) { /* insertion sort: long sequences first, the prefix last */
        long j = i;
        longest = layout->lengths[i] > longest ? layout->lengths[i] : longest;
        for (; j > 0 && (!order[j - 1] || layout->lengths[order[j - 1]] < layout->lengths[i]); j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
    if (!failed) {
#pragma omp parallel num_threads((int)threads)
        {
            workspace_t workspace;
            void *memory = alloc_workspace(&workspace, longest);
            if (!memory)
#pragma omp atomic write
                failed = 1;
#pragma omp for schedule(static)
            for (long h = 0; h < layout->heads; h++)
                pack_pairs(key + h * SIZE, key_stride, prefix, SIZE,
                           prefix_keys + h * round_up_to_panel(prefix) * HEAD_PAIRS, SIZE);
#pragma omp for schedule(dynamic)
            for (long task = 0; task < (units + 1) * columns; task++) { /* the prefix last */
                const long unit = task / columns, first_head = task % columns * task_heads,
                           h = first_head / layout->groups;
                const pair_t *packed_prefix =
                    prefix_keys + h * round_up_to_panel(prefix) * HEAD_PAIRS;
                if (!memory) continue;
                if (unit < partials)
                    memset(prefix_sums + ((unit + 1) * heads + first_head) * prefix_size, 0,
                           4 * task_heads * prefix_size);
                for (long r = unit < units ? unit : sequences;
                     r < (unit < units ? sequences : sequences + 1); r += step) {
                    const long i = order[r], n = layout->lengths[i], start = layout->starts[i],
                               from = start * key_stride + h * SIZE;
                    pack_pairs(key + from, key_stride, n, SIZE, workspace.paired_keys, SIZE);
                    memset(workspace.sum_keys, 0, 4 * n * SIZE);
                    memset(workspace.sum_values, 0, 4 * n * SIZE);
                    for (long head = first_head; head < first_head + task_heads; head++) {
                        const long at = start * stride + head * SIZE;
                        float *own = !i      ? prefix_sums + head * prefix_size
                                     : split ? head_sums + 2 * (head * tokens + start) * SIZE
                                             : NULL,
                              *own_keys = own ? own : workspace.grad_keys,
                              *own_values = own ? own + n * SIZE : workspace.grad_values,
                              *partial = prefix_sums + ((unit + 1) * heads + head) * prefix_size;
                        pack_inputs(query + at, out + at, grad_out + at,
                                    logsumexp + head * tokens + start, stride, n, &workspace);
                        memset(workspace.grad_queries, 0, 4 * n * SIZE);
                        memset(own_keys, 0, 4 * n * SIZE);
                        memset(own_values, 0, 4 * n * SIZE);
                        if (i && partials)
                            add_gradients(layout, i, 0, key + h * SIZE, value + h * SIZE,
                                          packed_prefix, &workspace, partial,
                                          partial + prefix * SIZE);
                        add_gradients(layout, i, i, key + from, value + from, workspace.paired_keys,
                                      &workspace, own_keys, own_values);
                        store_rows(workspace.grad_queries, n, grad_query + at, stride);
                        if (!own) {
                            add_to(workspace.sum_keys, own_keys, n * SIZE);
                            add_to(workspace.sum_values, own_values, n * SIZE);
                        }
                    }
                    if (i && !split) {
                        store_rows(workspace.sum_keys, n, grad_key + from, key_stride);
                        store_rows(workspace.sum_values, n, grad_value + from, key_stride);
                    }
                }
            }
            /* The rest of the gradients of keys and values: sums over the query heads of a key
             * head, and for the prefix over the partials. */
#pragma omp for schedule(dynamic)
            for (long task = 0; task < (split ? sequences + 1 : 1) * layout->heads; task++) {
                const long i = task / layout->heads, h = task % layout->heads,
                           n = layout->lengths[i];
                const long to = layout->starts[i] * key_stride + h * SIZE;
                if (!memory) continue;
                memset(workspace.sum_keys, 0, 4 * n * SIZE);
                memset(workspace.sum_values, 0, 4 * n * SIZE);
                for (long head = h * layout->groups; head < (h + 1) * layout->groups; head++)
                    for (long partial = 0; partial <= (i ? 0 : partials); partial++) {
                        const float *more =
                            i ? head_sums + 2 * (head * tokens + layout->starts[i]) * SIZE
                              : prefix_sums + (partial * heads + head) * prefix_size;
                        add_to(workspace.sum_keys, more, n * SIZE);
                        add_to(workspace.sum_values, more + n * SIZE, n * SIZE);
                    }
                store_rows(workspace.sum_keys, n, grad_key + to, key_stride);
                store_rows(workspace.sum_values, n, grad_value + to, key_stride);
            }
            free(memory);
        }
    }
    free(order), free(prefix_keys), free(prefix_sums), free(head_sums);
    return failed;
}

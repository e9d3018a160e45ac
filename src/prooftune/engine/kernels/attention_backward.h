/* Backward pass of attention.c, which includes this file after its layout helpers.
 *
 * A task is some sequences of one key head, or of one of its query heads where there are too few
 * sequences for all threads. What is computed for one head of a sequence stays in arrays of the
 * thread, which fit the L2 cache for sequences of some hundred tokens. Sums have the same order for
 * every number of threads. */
#include "attention_gradients.h"

/* One backward pass: its arguments, how it is divided into tasks, and sums that tasks share. */
typedef struct {
    const packed_layout_t *layout;
    const real_t *query, *key, *value, *out, *grad_out;
    const float *logsumexp;
    real_t *grad_query, *grad_key, *grad_value;
    long heads,          /* query heads */
        partials,        /* partial sums of the prefix's gradients */
        task_heads;      /* query heads of a task: all of a key head, or one */
    pair_t *prefix_keys; /* packed, then as rows */
    float *prefix_sums,  /* gradients of the prefix's keys and values per query head: from the
                            prefix's queries, then from those of each partial */
        *head_sums;      /* of the sequences' keys and values per query head, if a task has one */
} pass_t;

static float *prefix_sum(const pass_t *pass, long partial, long head)
{
    return pass->prefix_sums + 2 * (partial * pass->heads + head) * pass->layout->prefix * SIZE;
}

static float *head_sum(const pass_t *pass, long head, long sequence)
{
    const packed_layout_t *layout = pass->layout;
    return pass->head_sums + 2 * (head * total_tokens(layout) + layout->starts[sequence]) * SIZE;
}

static pair_t *packed_prefix(const pass_t *pass, long key_head)
{
    return pass->prefix_keys + 2 * key_head * round_up_to_panel(pass->layout->prefix) * HEAD_PAIRS;
}

static real_t *prefix_rows(const pass_t *pass, long key_head)
{
    return (real_t *)(packed_prefix(pass, key_head) +
                      round_up_to_panel(pass->layout->prefix) * HEAD_PAIRS);
}

/* Gradients of one query head of sequence i, whose queries' part of the prefix's gradients goes to
 * partial sum `partial`. */
static void head_gradients(const pass_t *pass, const workspace_t *workspace, long i, long head,
                           long partial)
{
    const packed_layout_t *layout = pass->layout;
    const long h = head / layout->groups, n = layout->lengths[i], start = layout->starts[i],
               stride = pass->heads * SIZE, at = start * stride + head * SIZE;
    const real_t *value = pass->value + h * SIZE;
    float *sums = !i                                  ? prefix_sum(pass, 0, head)
                  : pass->task_heads < layout->groups ? head_sum(pass, head, i)
                                                      : NULL,
          *keys = sums ? sums : workspace->grad_keys,
          *values = sums ? sums + n * SIZE : workspace->grad_values;
    pack_inputs(layout, pass->query + at, pass->out + at, pass->grad_out + at,
                pass->logsumexp + head * total_tokens(layout) + start, stride, start, n, workspace);
    memset(workspace->grad_queries, 0, 4 * n * SIZE);
    if (i && pass->partials) {
        float *prefix_keys = prefix_sum(pass, partial, head);
        add_gradients(layout, i, 0, prefix_rows(pass, h), value, packed_prefix(pass, h), workspace,
                      prefix_keys, prefix_keys + layout->prefix * SIZE);
    }
    add_gradients(layout, i, i, workspace->keys, value + start * layout->heads * SIZE,
                  workspace->paired_keys, workspace, keys, values);
    store_rotated_rows(layout, workspace->grad_queries, start, n, pass->grad_query + at, stride);
    if (!sums) {
        add_to(workspace->sum_keys, keys, n * SIZE);
        add_to(workspace->sum_values, values, n * SIZE);
    }
}

/* The keys of one head of sequence i as rows [tokens][SIZE], and these packed. */
static void pack_rows(const pass_t *pass, long i, long key_head, real_t *rows, pair_t *packed)
{
    const packed_layout_t *layout = pass->layout;
    const long stride = layout->heads * SIZE, n = layout->lengths[i], start = layout->starts[i];
    load_rows(layout, pass->key + start * stride + key_head * SIZE, stride, start, n, rows);
    pack_pairs(rows, SIZE, n, SIZE, packed, SIZE);
}

static void clear_key_sums(const workspace_t *workspace, long n)
{
    memset(workspace->sum_keys, 0, 4 * n * SIZE);
    memset(workspace->sum_values, 0, 4 * n * SIZE);
}

static void store_key_sums(const pass_t *pass, const workspace_t *workspace, long i, long key_head)
{
    const long stride = pass->layout->heads * SIZE, n = pass->layout->lengths[i],
               to = pass->layout->starts[i] * stride + key_head * SIZE;
    store_rotated_rows(pass->layout, workspace->sum_keys, pass->layout->starts[i], n,
                       pass->grad_key + to, stride);
    store_rows(workspace->sum_values, n, pass->grad_value + to, stride);
}

/* Gradients of sequence i of the query heads from `first_head` on that make a task. */
static void task_gradients(const pass_t *pass, const workspace_t *workspace, long i,
                           long first_head, long partial)
{
    const packed_layout_t *layout = pass->layout;
    pack_rows(pass, i, first_head / layout->groups, workspace->keys, workspace->paired_keys);
    clear_key_sums(workspace, layout->lengths[i]);
    for (long head = first_head; head < first_head + pass->task_heads; head++)
        head_gradients(pass, workspace, i, head, partial);
    if (i && pass->task_heads == layout->groups)
        store_key_sums(pass, workspace, i, first_head / layout->groups);
}

/* Gradients of the keys and values of one key head of sequence i that tasks have left in
 * `prefix_sums` (i = 0) or `head_sums`. */
static void sum_gradients(const pass_t *pass, const workspace_t *workspace, long i, long key_head)
{
    const packed_layout_t *layout = pass->layout;
    const long n = layout->lengths[i];
    clear_key_sums(workspace, n);
    for (long head = key_head * layout->groups; head < (key_head + 1) * layout->groups; head++)
        for (long partial = 0; partial <= (i ? 0 : pass->partials); partial++) {
            const float *more = i ? head_sum(pass, head, i) : prefix_sum(pass, partial, head);
            add_to(workspace->sum_keys, more, n * SIZE);
            add_to(workspace->sum_values, more + n * SIZE, n * SIZE);
        }
    store_key_sums(pass, workspace, i, key_head);
}

/* Sorts the sequences: long ones first, the prefix last. Returns the greatest length. */
static long sort_sequences(const packed_layout_t *layout, long *order)
{
    const long *lengths = layout->lengths;
    for (long i = 0; i <= layout->sequences; i++) {
        long j = i;
        for (; j > 0 && (!order[j - 1] || lengths[order[j - 1]] < lengths[i]); j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
    return lengths[0] > lengths[order[0]] ? lengths[0] : lengths[order[0]];
}

/* Computes the pass by `units` of sequences, and the prefix. Returns 1 if memory runs out. */
static int run_tasks(const pass_t *pass, long units, const long *order, long longest, int threads)
{
    const packed_layout_t *layout = pass->layout;
    const long sequences = layout->sequences, columns = pass->heads / pass->task_heads,
               prefix = layout->prefix;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        workspace_t workspace;
        void *memory = alloc_workspace(&workspace, longest);
        if (!memory)
#pragma omp atomic write
            failed = 1;
#pragma omp for schedule(static)
        for (long h = 0; h < layout->heads; h++)
            pack_rows(pass, 0, h, prefix_rows(pass, h), packed_prefix(pass, h));
#pragma omp for schedule(dynamic)
        for (long task = 0; task < (units + 1) * columns; task++) {
            const long unit = task / columns, first_head = task % columns * pass->task_heads;
            if (!memory) continue;
            if (unit < pass->partials)
                memset(prefix_sum(pass, unit + 1, first_head), 0,
                       8 * pass->task_heads * prefix * SIZE);
            if (unit == units) task_gradients(pass, &workspace, 0, first_head, 0);
            else
                for (long r = unit; r < sequences; r += units)
                    task_gradients(pass, &workspace, order[r], first_head, unit + 1);
        }
#pragma omp for schedule(dynamic)
        for (long task = 0; task < (pass->head_sums ? sequences + 1 : 1) * layout->heads; task++)
            if (memory) sum_gradients(pass, &workspace, task / layout->heads, task % layout->heads);
        free(memory);
    }
    return failed;
}

/* Gradients of query, key and value from the gradient of out; the other arguments as in
 * `flash_attention`. Returns 1 if memory runs out. */
int flash_attention_backward(const real_t *query, const real_t *key, const real_t *value,
                             const real_t *out, const float *logsumexp, const real_t *grad_out,
                             real_t *grad_query, real_t *grad_key, real_t *grad_value,
                             const packed_layout_t *layout, long threads)
{
    const long sequences = layout->sequences, prefix = layout->prefix,
               heads = layout->heads * layout->groups, tokens = total_tokens(layout);
    /* The memory of the prefix's partial sums is at most that of all sequences. Their number does
     * not depend on the threads, so neither does the result. */
    const long partials = prefix && sequences ? min(sequences, tokens / prefix) : 0,
               units = partials ? partials : sequences;
    /* Tasks of one query head each need the key gradients of all heads in memory. */
    const int split = layout->groups > 1 && (units + 1) * layout->heads < 4 * threads;
    pass_t pass = {layout,
                   query,
                   key,
                   value,
                   out,
                   grad_out,
                   logsumexp,
                   grad_query,
                   grad_key,
                   grad_value,
                   heads,
                   partials,
                   split ? 1 : layout->groups};
    long *order = malloc(sizeof(long) * (sequences + 1));
    pass.prefix_keys = alloc(8 * layout->heads * round_up_to_panel(prefix) * HEAD_PAIRS);
    pass.prefix_sums = alloc(8 * (size_t)(partials + 1) * heads * prefix * SIZE);
    pass.head_sums = split ? alloc(8 * (size_t)heads * tokens * SIZE) : NULL;
    int failed = !order || !pass.prefix_keys || !pass.prefix_sums || (split && !pass.head_sums);
    if (!failed)
        failed = run_tasks(&pass, units, order, sort_sequences(layout, order), (int)threads);
    free(order), free(pass.prefix_keys), free(pass.prefix_sums), free(pass.head_sums);
    return failed;
}

/* Shared helpers of the kernels: vectors of bfloat16 arrays, or of float32 arrays with -DFLOAT32,
 * and matmul micro-kernels over packed operands. All sums are float32. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAY_BE_UNUSED __attribute__((unused))

#ifdef FLOAT32
enum {
    VECTOR = 8,    /* values of a vector: a register of AVX2, two of NEON */
    PAIR = 1,      /* values of a row that one multiply-add of a matmul takes */
    TILE_ROWS = 6, /* rows of a matmul computed at a time; with two vectors of columns, all
                      accumulators stay in AVX2's 16 registers */
    TALL_ROWS = 12 /* the same with one vector of columns */
};
#else
enum {
    VECTOR = 16, /* float32 values, or bfloat16 pairs, in a register of AVX512 */
    PAIR = 2,
    TILE_ROWS = 8,
    TALL_ROWS = 16
};
#endif

enum {
    PANEL = 2 * VECTOR, /* columns of a matmul computed at a time */
    BLOCK = 32, /* queries, and keys, of one attention block; everything computed for a block stays
                   in the L1 cache */
};

static inline long round_up_to_panel(long n)
{
    return (n + PANEL - 1) / PANEL * PANEL;
}
static inline long round_up_to_vector(long n)
{
    return (n + VECTOR - 1) / VECTOR * VECTOR;
}
static inline long min(long a, long b)
{
    return a < b ? a : b;
}

static inline void *alloc(size_t bytes)
{
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

#ifdef FLOAT32
#include "float32.h"
#else
#include "bfloat16.h"
#endif
#include "matmul.h"

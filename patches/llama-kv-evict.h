#pragma once

// scope-cpp: per-cell attention statistics and KV cell eviction for llama.cpp
//
// Everything here acts on the attention KV cache of one context and is off until llama_kv_evict_init().
// Arrays over (layer, KV head) are [n_layer][n_head_kv][...], layers in the order of the KV cache. Layers without KV heads
// are left out. Where layers have different numbers of heads, the arrays are as large as the largest numbers of KV heads
// and of query heads in a KV group, and a layer with fewer has doubles: KV head ih of an array is head ih % own of the
// layer, and within a KV group query head ig is ig % own of the group. What is read of a double is what is read of its
// original, and what is done to it must be what is done to its original.
// Calls are not thread-safe: make them from the thread that calls llama_decode(), between decodes.

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

// increased whenever a signature or the meaning of an argument changes
#define LLAMA_KV_EVICT_ABI 9

enum llama_kv_evict_status {
    LLAMA_KV_EVICT_OK           =   0,
    // the model or the context can't be served
    LLAMA_KV_EVICT_NO_CACHE     =  -1, // encoder: there is no KV cache
    LLAMA_KV_EVICT_RECURRENT    =  -2, // recurrent state, no KV cells
    LLAMA_KV_EVICT_ROUTER       =  -3, // a layer looks in the whole text for the token that switches an adapter on
    LLAMA_KV_EVICT_SWA          =  -4, // all attention is to a window
    LLAMA_KV_EVICT_MLA          =  -5, // latent attention: no V cache
    LLAMA_KV_EVICT_SPARSE       =  -6, // an indexer or a second cache mirrors the cells
    LLAMA_KV_EVICT_STREAMS      =  -7, // one stream per sequence: needs kv_unified
    LLAMA_KV_EVICT_ALIBI        =  -9, // the bias depends on the label of a cell
    LLAMA_KV_EVICT_BIAS         = -10, // KQ bias
    LLAMA_KV_EVICT_HEADS        = -11, // the size of heads differs between layers
    LLAMA_KV_EVICT_HEAD_BYTES   = -12, // a head's row is not a multiple of 4 bytes in this KV type
    LLAMA_KV_EVICT_UNHOOKED     = -13, // a layer with a cache attends by a path without the hook
    // a call can't be served; nothing was changed
    LLAMA_KV_EVICT_NOT_INIT     = -20,
    LLAMA_KV_EVICT_ARGUMENT     = -21,
    LLAMA_KV_EVICT_QUERIES      = -22, // fewer queries are at hand than asked for
    LLAMA_KV_EVICT_SHARED       = -23, // a cell belongs to another sequence too
    LLAMA_KV_EVICT_STATE        = -24, // not a state of this model, context or build
    LLAMA_KV_EVICT_ALLOC        = -25,
    LLAMA_KV_EVICT_SLOTS        = -27, // all slots for recorded queries are taken
    // the backend failed in the middle: the sequence must be cleared
    LLAMA_KV_EVICT_COMPUTE      = -26,
};

LLAMA_API int32_t      llama_kv_evict_abi     (void);
LLAMA_API const char * llama_kv_evict_strerror(int32_t status);

// check the context, then record the last n_window queries of each sequence that has a slot from now on; 0 = stop and
// free. n_slots sequences can have one at the same time; 0 = all that the context may hold
LLAMA_API int32_t llama_kv_evict_init(struct llama_context * ctx, int32_t n_window, int32_t n_slots);

// a sequence takes a slot here, or with its first token that is decoded while one is free, and keeps it until release(),
// which forgets its queries and which rows are dead. without a slot nothing is recorded: the sequence can't be scored
LLAMA_API int32_t llama_kv_evict_bind   (struct llama_context * ctx, llama_seq_id seq);
LLAMA_API void    llama_kv_evict_release(struct llama_context * ctx, llama_seq_id seq);

// what llama.cpp itself holds. these nine need no llama_kv_evict_init(); counts are 0 where the cache can't be served
LLAMA_API int32_t llama_kv_evict_n_layer  (const struct llama_context * ctx);
LLAMA_API int32_t llama_kv_evict_n_head   (const struct llama_context * ctx); // query heads, as many as arrays have
LLAMA_API int32_t llama_kv_evict_n_head_kv(const struct llama_context * ctx); // KV heads, likewise
LLAMA_API int32_t llama_kv_evict_own_heads(const struct llama_context * ctx, int32_t * out); // [n_layer][2], query and KV heads of its own
LLAMA_API int32_t llama_kv_evict_layer_ids(const struct llama_context * ctx, int32_t * out); // of the model, [n_layer]
LLAMA_API int32_t llama_kv_evict_n_cells  (const struct llama_context * ctx); // allocated
LLAMA_API int32_t llama_kv_evict_n_used   (const struct llama_context * ctx);
LLAMA_API size_t  llama_kv_evict_n_bytes  (const struct llama_context * ctx); // buffers of the memory, of any kind
LLAMA_API int32_t llama_kv_evict_head_size(const struct llama_context * ctx, bool values); // values in a row of K, or of V

// bytes that the context holds beside the weights, by kind: out[LLAMA_KV_EVICT_N_MEMORY][2], in main memory and in that of
// devices. of a model without memory (no_alloc) what it would hold. needs no llama_kv_evict_init()
enum llama_kv_evict_memory_kind {
    LLAMA_KV_EVICT_MEMORY_CELLS,   // K and V of the cells that are chosen
    LLAMA_KV_EVICT_MEMORY_BESIDE,  // window caches and recurrent states, which llama.cpp bounds itself; other memories as a whole
    LLAMA_KV_EVICT_MEMORY_COMPUTE, // intermediate results of llama_decode()
    LLAMA_KV_EVICT_MEMORY_OUTPUT,  // logits
    LLAMA_KV_EVICT_MEMORY_QUERIES, // recorded queries, and the sums of their weights
    LLAMA_KV_EVICT_MEMORY_SCRATCH, // intermediate results of the calls below
    LLAMA_KV_EVICT_N_MEMORY,
};
LLAMA_API void llama_kv_evict_memory(const struct llama_context * ctx, size_t * out);

// what the calls below will be given at most
struct llama_kv_evict_needs {
    int32_t n_scores;  // queries, of scores()
    bool    by_head;
    bool    dead;      // set_dead()
    int32_t n_queries; // of queries()
    int32_t n_asked;   // of ahead_set()
    int32_t n_move;    // of apply()
    bool    keys;      // rows()
    bool    values;
    bool    likeness;
};

// allocate the memory for these needs now, in a full cache: it does not grow any more
LLAMA_API int32_t llama_kv_evict_reserve(struct llama_context * ctx, const struct llama_kv_evict_needs * needs);

// what there is beside the cells that are chosen: a sum of LLAMA_KV_EVICT_WINDOWS and LLAMA_KV_EVICT_STATES
enum llama_kv_evict_beside {
    LLAMA_KV_EVICT_WINDOWS = 1, // a cache of the layers that attend to a window
    LLAMA_KV_EVICT_STATES  = 2, // states of recurrent layers
};
LLAMA_API int32_t llama_kv_evict_beside(const struct llama_context * ctx);

// contexts that this thread makes from now on are to be bounded: a window cache is then as large as the windows and a batch
// need, however few cells are beside it. otherwise it has no more cells than these, as in stock llama.cpp
LLAMA_API void llama_kv_evict_make_bounded(bool bounded);

// whether a sequence can be cut, or copied, to end before pos: its windows are still there, and its recurrent states are
// those of just that position. needs no llama_kv_evict_init()
LLAMA_API bool llama_kv_evict_can_end(const struct llama_context * ctx, llama_seq_id seq, llama_pos pos);

// the sequence's cells in the order of their positions; shared (may be NULL): 1 = belongs to another sequence too
// returns how many there are; writes at most n_max of them
LLAMA_API int32_t llama_kv_evict_cells(const struct llama_context * ctx, llama_seq_id seq,
        llama_pos * pos, int32_t * cells, int8_t * shared, int32_t n_max);

// how many of the sequence's most recent queries are recorded, without a gap, and still see a cell in every layer
LLAMA_API int32_t llama_kv_evict_n_queries(const struct llama_context * ctx, llama_seq_id seq);

// softmax weights that the last n_query queries give to these cells, summed over the queries; each query sees what the
// causal mask shows it. by_head: out[n_layer][n_head][n_cells], for each query head; otherwise
// out[n_layer][n_head_kv][n_cells], summed over the heads of a KV group
//
// where later layers attend to the cells of an earlier one (Gemma 3n), their queries count for it: their weights are
// added to its own, those of a head to those of the head with its number
LLAMA_API int32_t llama_kv_evict_scores(struct llama_context * ctx, llama_seq_id seq, int32_t n_query,
        const int32_t * cells, int32_t n_cells, bool by_head, float * out);

// the last n_query recorded queries as they would be at position pos (RoPE), times the scale of the attention: their
// products with K rows are the logits (before a soft cap). of a layer that others read too, its own. out[n_layer][n_head][n_query][head_size]
LLAMA_API int32_t llama_kv_evict_queries(struct llama_context * ctx, llama_seq_id seq, int32_t n_query, llama_pos pos, float * out);

// the rows of K, or of V, in these cells of the sequence, as 32-bit floats: out[n_layer][n_head_kv][n_cells][head_size].
// K is as it lies in the cache: after RoPE, and both after the rotation of quantized caches, which is orthonormal
LLAMA_API int32_t llama_kv_evict_rows(struct llama_context * ctx, llama_seq_id seq, bool values,
        const int32_t * cells, int32_t n_cells, float * out);

// set to 0 what the cells, the windows and the recurrent states hold that no sequence has. attention gives such cells a
// weight of 0, and a new sequence begins with such a state times 0: a NaN would come through both. needs no
// llama_kv_evict_init(), nor a cache that can be bounded
LLAMA_API int32_t llama_kv_evict_zero_free(struct llama_context * ctx);

// how alike each of the last n_new of these cells of the sequence is to the one before it, in the order given, that it is
// most alike to: (cos of the K rows + value_weight * cos of the V rows) / (1 + value_weight), -1 where there is none.
// dead rows are not looked at. layers[n_layer]: 1 = look at this layer, NULL = at all; -1 in the others.
// out[n_layer][n_head_kv][n_new]
LLAMA_API int32_t llama_kv_evict_likeness(struct llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, int32_t n_new, const int8_t * layers, float value_weight, float * out);

// the same of new cells, and what queries of the prompt would find in them, without a row of K or V that leaves its device:
// for caches of which a part is on a device. queries(), turned behind the prompt, are asked again about each new cell.
// set(): keep n_query of them beside the cells: queries[n_layer][n_head][n_query][head_size] as float16, and the logarithms of
// the sums of exponentials of their products with the prompt's cells, and with those of the output so far, -inf for none:
// prompt, output[n_layer][n_head][n_query]. 0 = forget them. get() reads the logarithms
LLAMA_API int32_t llama_kv_evict_ahead_set(struct llama_context * ctx, llama_seq_id seq, int32_t n_query,
        const uint16_t * queries, const float * prompt, const float * output);
LLAMA_API int32_t llama_kv_evict_ahead_get(struct llama_context * ctx, llama_seq_id seq, float * prompt, float * output);

// go through cells of the prompt, in these layers (as for likeness()); others[n_layer][n_head_kv][n_cells]: 1 = leave the row out
LLAMA_API int32_t llama_kv_evict_ahead_prompt(struct llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, const int8_t * others, const int8_t * layers);

// weigh the last n_new of these cells, 64 at most, which the output has from now on. weights[n_layer][n_head_kv][n_new], by_head
// [n_layer][n_head][n_new]: the most that a query of the head, or of its KV group, gives to the cell, as a share of what it gives
// to the output plus a share of what it gives to all; 0 in other layers. like: as likeness(). each may be NULL
LLAMA_API int32_t llama_kv_evict_ahead(struct llama_context * ctx, llama_seq_id seq, const int32_t * cells, int32_t n_cells,
        int32_t n_new, const int8_t * layers, bool by_head, float value_weight, float * weights, float * like);

// first, for each layer and KV head, copy the K and V rows of cell src[i] over those of cell dst[i], i < n_move, all
// reads before all writes (src[i] == dst[i] does nothing); then take the cells rm[0..n_rm) from the sequence.
// src, dst: [n_layer][n_head_kv][n_move], the same of a double as of its original. positions of cells don't change
LLAMA_API int32_t llama_kv_evict_apply(struct llama_context * ctx, llama_seq_id seq,
        const int32_t * src, const int32_t * dst, int32_t n_move, const int32_t * rm, int32_t n_rm);

// dead rows. layers that keep fewer rows than others leave some of their rows dead: nothing attends to them, in
// llama_decode() and in scores, and they weigh nothing. a cell that is freed, or that a token comes to lie in, is alive
// in every layer. dead[n_layer][n_cells]: 1 = the rows of all heads of the layer in that cell, which must be the
// sequence's alone; cells that are not named stay as they are
LLAMA_API int32_t llama_kv_evict_set_dead(struct llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, const int8_t * dead);
LLAMA_API int32_t llama_kv_evict_get_dead(struct llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, int8_t * dead);

// the sequence's cells, where they lie, which rows are dead, its windows and recurrent states, and the recorded queries: after
// set(), decoding goes on bit by bit as it would have. get() forgets what has left the windows: see can_end()
LLAMA_API size_t  llama_kv_evict_state_size(struct llama_context * ctx, llama_seq_id seq);
LLAMA_API int32_t llama_kv_evict_state_get (struct llama_context * ctx, llama_seq_id seq,       uint8_t * dst, size_t size);
LLAMA_API int32_t llama_kv_evict_state_set (struct llama_context * ctx, llama_seq_id seq, const uint8_t * src, size_t size);

// forget the recorded queries of a sequence and which rows are dead (after its cells were replaced by other means)
LLAMA_API void llama_kv_evict_forget(struct llama_context * ctx, llama_seq_id seq);

// end llama_decode() with status 2 once *flag is not 0, on a CPU in the middle of a graph. any thread may set the flag,
// which must outlive the context
LLAMA_API void llama_kv_evict_abort_on(struct llama_context * ctx, const volatile int32_t * flag);

// llama_tokenize() on a stack that is large enough for the text, in any thread. returns INT32_MIN where the vocabulary
// can't express the text, instead of throwing, and INT32_MIN + 1 where there is no memory for the stack
LLAMA_API int32_t llama_kv_evict_tokenize(const struct llama_vocab * vocab, const char * text, int32_t text_len,
        llama_token * tokens, int32_t n_tokens_max, bool add_special, bool parse_special);

#ifdef __cplusplus
}
#endif

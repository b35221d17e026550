#pragma once

#include "llama-kv-evict.h"

#include "ggml-cpp.h"
#include "llama-graph.h"
#include "llama-kv-cache.h"

#include <map>
#include <memory>
#include <vector>

struct llama_context;

class llama_memory_recurrent;

// what is computed at once: it decides the scratch memory, however large the cache is
static constexpr int64_t n_block_weights  = 4*1024*1024; // of attention, in scores()
static constexpr int64_t n_block_scores_max = 64;         // queries, in scores(): graphs have room for their nodes
static constexpr int32_t n_block_queries  = 16;
static constexpr int32_t n_block_rows     = 64;
static constexpr int64_t n_block_likeness = 1024; // cells, and new ones that they are compared to
static constexpr int32_t n_block_new      = 32;

// on devices: cells of the prompt, new ones at most, and blocks of cells in one graph
static constexpr int32_t n_block_prompt   = 256;
static constexpr int32_t n_new_ahead      = 64;
static constexpr int64_t n_block_ahead    = 8;

// tokens of a batch whose weights are added up in the graph of llama_decode() at most: room for their nodes is reserved
static constexpr uint32_t n_sum_max = 16;

// a small graph on a scheduler of its own, kept while its shape stays the same
// (the graph of llama_decode(), its allocation and its reuse are not touched)
//
// each device that layers lie on takes all that a graph is given in one transfer, and gives what it has computed of its
// layers in one. in main memory the latter is read where it is
struct llama_kv_evict_graph {
    // of one backend
    struct place {
        ggml_backend_t backend;
        bool           is_host;
        ggml_tensor  * in  = nullptr; // all inputs, one after the other
        ggml_tensor  * out = nullptr; // what is computed of each layer, one after the other; null in main memory

        int64_t n_outs = 0; // of its layers so far

        std::vector<ggml_tensor *> inps; // views of in, null where there is nothing
        std::vector<float>         data; // of out
    };

    // an input is handed over in main memory
    struct input {
        ggml_type type;
        int64_t   ne[4];
        size_t    offset; // in what is given
    };

    ggml_backend_sched_ptr sched;
    ggml_context_ptr       ctx;
    ggml_cgraph          * gf = nullptr;

    int64_t n0 = -1; // the shape that the graph was built for
    int64_t n1 = -1;
    int64_t n2 = -1;

    std::vector<place>    places;
    std::vector<uint32_t> place_of; // of each layer of the cache
    std::vector<input>    inputs;
    std::vector<uint8_t>  given;

    struct result {
        uint32_t      place;
        ggml_tensor * tensor; // in main memory what was computed, else where it lies in the place's out

        std::vector<float> data; // where neither is so
    };
    std::vector<result> outs; // one per layer

    template <typename T>
    T * give(size_t i) { return (T *) (given.data() + inputs[i].offset); }

    ggml_tensor * inp(size_t i, uint32_t ikv) const { return places[place_of[ikv]].inps[i]; }

    size_t give_size(size_t i) const;

    // nodes that a scheduler would take for a part of the layer before, which may lie elsewhere
    std::vector<std::pair<ggml_tensor *, uint32_t>> first_nodes; // and their places

    ggml_tensor * first(ggml_tensor * node, uint32_t ikv) {
        first_nodes.push_back({ node, place_of[ikv] });
        return node;
    }

    std::vector<size_t> sizes; // of the buffers, by backend, where nothing is allocated
};

// sum the blocks of n_out columns that dimension 1 consists of
ggml_tensor * sum_blocks(ggml_context * ctx, ggml_tensor * cur, int64_t n_out);

// the nodes that it takes at most, for n blocks or fewer
uint32_t sum_blocks_n_nodes(uint32_t n);

// the rows of K, or of V where it is not transposed, in some cells: [n_embd_head, n_cells, n_head_kv]
ggml_tensor * build_rows(ggml_context * ctx, ggml_tensor * t, int64_t n_embd_head, int64_t n_head_kv, ggml_tensor * own);

// the rows of a cache tensor, head by head, as 32-bit words: no backend copies quantized rows that are not contiguous,
// all of them get and set rows of F32
ggml_tensor * view_words(ggml_context * ctx, ggml_tensor * t, int64_t n_embd_head, int64_t n_head_kv);

// V as it lies without flash attention, each value of a head a row of its own
ggml_tensor * view_values(ggml_context * ctx, ggml_tensor * t, int64_t n_embd_head, int64_t n_head_kv);

// n_head_kv lists of indices, each list n times over
ggml_tensor * repeat_lists(ggml_context * ctx, ggml_tensor * t, int64_t n_head_kv, int64_t n, size_t offset);

// state of one context. the context owns it and finds it through its cparams
struct llama_kv_evict {
    // what the memory of a context consists of
    struct memory_parts {
        llama_kv_cache * kv = nullptr; // of the layers that attend to everything: its cells are chosen

        // beside it, null where there is none. llama.cpp bounds them itself
        llama_kv_cache         * window = nullptr; // of the layers that attend to a window
        llama_memory_recurrent * state  = nullptr; // of the recurrent layers

        // whether these hold what a sequence needs that ends before pos
        bool can_end(llama_seq_id seq, llama_pos pos) const;
    };

    // a layer of the cache that attends: only such have rows. its numbers of heads are its own
    struct cell_layer {
        uint32_t      il; // of the model
        uint32_t      n_head;
        uint32_t      n_head_kv;
        ggml_tensor * k;
        ggml_tensor * v;

        uint32_t n_gqa() const { return n_head/n_head_kv; }

        // the KV head of its own that one of the arrays is, and the query head of its own
        uint32_t own_kv(uint32_t ih) const { return ih % n_head_kv; }
        uint32_t own_q (uint32_t ih, uint32_t ig) const { return own_kv(ih)*n_gqa() + ig % n_gqa(); }
    };

    static std::vector<cell_layer> find_layers(const llama_context & lctx, const llama_kv_cache & kv);

    // what arrays have: the largest numbers of these layers
    static uint32_t most_heads_kv(const std::vector<cell_layer> & layers);
    static uint32_t most_gqa     (const std::vector<cell_layer> & layers);

    llama_kv_evict(llama_context & lctx, const memory_parts & parts, uint32_t n_window, uint32_t n_slots);

    // no kv, with the reason in status, where there is no cache whose cells could be chosen
    static memory_parts find_parts(const llama_context & lctx, int32_t & status);

    // the cache of a context whose cells can be chosen, nullptr with the reason in status otherwise
    static llama_kv_cache * find_cache(const llama_context & lctx, int32_t & status);

    // what can be known without a graph, and what the graph that was reserved has shown
    static int32_t check_cache(const llama_context & lctx, const llama_kv_cache & kv);
    int32_t        check_hooks() const;

    static int32_t init(llama_context & lctx, int32_t n_window, int32_t n_slots);
    static llama_kv_evict * get(const llama_context & lctx);

    bool alloc_records();

    // called while llama.cpp builds a graph
    void hook(const llm_graph_context & graph, ggml_tensor * q_cur, ggml_tensor * kq_b, ggml_tensor * sinks, float kq_scale, int il);

    // hide the layer's dead rows
    ggml_tensor * hook_mask(const llm_graph_context & graph, ggml_tensor * kq_mask, int il);

    // rows of the query store that a ubatch writes: its last n_query_rows() tokens
    uint32_t n_query_rows(const llama_ubatch & ubatch) const;
    void     set_query_rows(const llama_ubatch & ubatch, int64_t * rows, uint32_t n_rows);

    // without flash attention: the row of sums that a ubatch adds to; is_summed() tells what became of it
    // n_slots rows, one that stays zero, and one that takes what is not wanted, if there may be such
    uint32_t n_sum_rows() const { return n_slots + 1 + (n_slots < n_seq); }
    int32_t  sum_row(llama_seq_id seq) const { return has_slot(seq) ? slots[seq] : n_slots + 1; }
    void    hook_weights(const llm_graph_context & graph, ggml_tensor * kq, int il);
    bool    has_sum  (const llama_ubatch & ubatch) const;
    int32_t begin_sum(const llama_ubatch & ubatch, uint32_t n_kv);
    bool    is_summed(llama_seq_id seq, int32_t n_query) const;
    void    read_sums(llama_seq_id seq, const int32_t * ids, int32_t n_ids, float * out) const;
    void    write_sums(llama_seq_id seq, const int32_t * ids, int32_t n_ids, const float * src);

    uint32_t hook_n_nodes() const;
    size_t   n_readers   () const; // of all layers

    bool    has_seq(llama_seq_id seq) const { return seq >= 0 && (uint32_t) seq < n_seq; }
    int32_t n_queries(llama_seq_id seq) const;
    void    forget(llama_seq_id seq);

    // what is recorded of a sequence lies in its slot, of which there may be fewer than sequences
    bool    has_slot(llama_seq_id seq) const { return slots[seq] >= 0; }
    bool    bind   (llama_seq_id seq); // false if all are taken
    void    release(llama_seq_id seq);

    // the row of a query; the sequence has a slot
    uint32_t row_of(llama_seq_id seq, llama_pos pos) const { return slots[seq]*n_window + pos % n_window; }

    // the only sequence of the cell is seq
    bool owns(llama_seq_id seq, int32_t cell) const;

    // all of them are cells of the sequence, and no more than there are
    bool has_cells(llama_seq_id seq, const int32_t * ids, int32_t n_ids) const;

    int32_t scores(llama_seq_id seq, int32_t n_query, const int32_t * ids, int32_t n_ids, bool by_head, float * out);
    int32_t queries(llama_seq_id seq, int32_t n_query, llama_pos pos, float * out);
    int32_t likeness(llama_seq_id seq, const int32_t * ids, int32_t n_ids, int32_t n_new, const int8_t * looked_at, float value_weight, float * out);

    // on devices: queries that are asked again, and what they and the likeness say of new cells
    int32_t ahead_set   (llama_seq_id seq, int32_t n_query, const uint16_t * queries, const float * prompt, const float * output);
    int32_t ahead_get   (llama_seq_id seq, float * prompt, float * output) const;
    int32_t ahead_prompt(llama_seq_id seq, const int32_t * ids, int32_t n_ids, const int8_t * others, const int8_t * looked_at);
    int32_t ahead       (llama_seq_id seq, const int32_t * ids, int32_t n_ids, int32_t n_new, const int8_t * looked_at,
            bool by_head, float value_weight, float * weights, float * like);

    static int32_t zero_free(llama_context & lctx);
    static void    zero_free(llama_kv_cache & kv);
    static void    zero_free(llama_memory_recurrent & state);

    int32_t rows  (llama_seq_id seq, bool values, const int32_t * ids, int32_t n_ids, float * out);
    int32_t apply (llama_seq_id seq, const int32_t * src, const int32_t * dst, int32_t n_move, const int32_t * rm, int32_t n_rm);

    // rows that no query sees, by layer and cell; few contexts ever have any
    bool    has_dead() const { return !dead.empty(); }
    bool    is_dead (uint32_t ikv, uint32_t cell) const { return has_dead() && dead[(size_t) ikv*cells().size() + cell]; }
    void    mask_dead(uint32_t ikv, int64_t n_kv, float * mask) const;
    void    mask_dead(uint32_t ikv, const std::vector<int32_t> & own, float * mask) const;
    void    revive(uint32_t cell);
    void    renew(const llama_ubatch & ubatch);
    void    prune_dead(); // forget those of empty cells, and that there are any if there are none
    int32_t set_dead(llama_seq_id seq, const int32_t * ids, int32_t n_ids, const int8_t * values);
    int32_t get_dead(llama_seq_id seq, const int32_t * ids, int32_t n_ids, int8_t * values) const;

    llama_pos first_seen(llama_seq_id seq) const; // queries before it see nothing in some layer

    static void memory(const llama_context & lctx, size_t * out);
    int32_t reserve   (const llama_kv_evict_needs & needs);

    std::vector<uint32_t> saved_heads() const; // what a state tells of them beyond its header
    static std::vector<uint32_t> saved_cells(llama_kv_cache & cache, llama_seq_id seq);
    static bool read_cells(llama_io_read_i & io, llama_kv_cache & cache, llama_seq_id seq, const std::vector<uint32_t> & idxs, uint32_t head);

    void    clear(llama_seq_id seq);
    size_t  state_write(llama_seq_id seq, uint8_t * dst, size_t size);
    int32_t state_read (llama_seq_id seq, const uint8_t * src, size_t size);

    llama_kv_cells & cells() const { return kv.v_cells[0]; }
    size_t n_layer() const { return layers.size(); } // a size: products with it must not overflow

    llama_context  & lctx;
    llama_kv_cache & kv;

    const memory_parts parts;

    const uint32_t n_window;
    const uint32_t n_seq;
    const uint32_t n_slots;
    const uint32_t n_head_kv; // of arrays: a layer may have fewer of its own
    const uint32_t n_gqa;     // query heads in a KV group
    const uint32_t n_head;
    const uint32_t n_embd_head_k;
    const uint32_t n_embd_head_v;
    const bool     v_trans; // V lies transposed: flash attention is off

private:
    // a layer of the model that attends to the cells of a layer of the cache: that one itself, and in some models later ones
    struct reader {
        int32_t       il;
        ggml_tensor * q        = nullptr; // F32 [n_embd_head_k*own n_head, n_slots*n_window + 1], the last row takes what is not wanted
        ggml_tensor * sinks    = nullptr; // F32 [own n_head] or null: of the model, logits that take their share of each softmax
        float         kq_scale = 0.0f;
        bool          hooked   = false;
    };

    struct layer : cell_layer {
        std::vector<reader> readers; // the layer itself is the first
        ggml_tensor       * w = nullptr; // F32 [n_cells, own n_head_kv, n_sum_rows()] or null, a view

        layer(const cell_layer & own) : cell_layer(own), readers { { (int32_t) own.il } } {}
    };

    // what a row of sums holds
    struct sum {
        uint32_t n_query = 0; // 0 = nothing
        uint32_t n_kv    = 0;
        uint32_t n_cells = 0; // that the sequence had after the last query
        uint32_t read    = 0; // the next query begins anew
    };

    std::vector<layer>          layers;   // in the order of the cache
    std::map<int32_t, uint32_t> layer_of; // of each layer of the model that attends to the cells of one of them

    // the sums of layers whose cells lie in the same memory
    struct sums_of {
        ggml_tensor         * w; // F32 [n_cells, n_head_kv, layers, n_sum_rows()]
        std::vector<uint32_t> ikvs;
    };
    std::vector<sums_of> all_sums;

    std::vector<int32_t>   slots;   // of each sequence, -1 = none
    std::vector<llama_pos> pos_row; // position of the query in each row, -1 = none
    std::vector<sum>       sums;    // of each sequence

    std::vector<uint8_t> dead;    // [n_layer][n_cells], or empty
    std::vector<float>   lengths; // [K, V][n_layer][n_head_kv][n_cells] of the rows, NaN = unknown; or empty

    bool has_bias  = false;
    bool may_die   = false; // reserve() promised these calls
    bool may_match = false;

    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> ctxs_bufs;

    bool reserving = false; // graphs are built for their size, not to be computed

    llama_kv_evict_graph g_scores;
    bool                 gathers = false; // g_scores looks at the cells of one sequence only
    llama_kv_evict_graph g_moves;
    llama_kv_evict_graph g_rows[2]; // of K, and of V
    llama_kv_evict_graph g_queries;
    llama_kv_evict_graph g_likeness;

    // queries of a sequence that are asked again, in the memory of the cells
    struct asked {
        struct part {
            std::vector<uint32_t>   ikvs;
            ggml_context_ptr        ctx;
            ggml_backend_buffer_ptr buf;
            ggml_tensor           * all  = nullptr; // what follows, one after the other
            size_t                  logs = 0;       // where the logarithms begin
        };
        struct one {
            ggml_tensor * q      = nullptr; // F16 [n_embd_head_k, n_query*own n_gqa, own n_head_kv]
            ggml_tensor * prompt = nullptr; // F32 [1, n_query*own n_gqa, own n_head_kv], logarithms of sums over the prompt's cells
            ggml_tensor * output = nullptr; // likewise over those of the output
        };
        int64_t           n_query = 0;
        std::vector<part> parts;
        std::vector<one>  of_layer;
    };
    std::map<llama_seq_id, std::unique_ptr<asked>> all_asked;

    // what the graph that weighs new cells was built for, beside its shape
    struct ahead_kind {
        std::vector<uint32_t> wanted; // layers
        bool  by_head      = false;
        bool  compares     = false;
        bool  weighs       = false;
        float value_weight = 0.0f;

        bool operator==(const ahead_kind & other) const {
            return wanted == other.wanted && by_head == other.by_head && compares == other.compares && weighs == other.weighs && value_weight == other.value_weight;
        }
    };
    llama_kv_evict_graph  g_ahead[2]; // goes through the prompt, weighs new cells
    std::vector<uint32_t> ahead_layers[2];
    ahead_kind            ahead_how;
    bool                  ahead_dead = false;
    llama_seq_id          ahead_seq  = -1; // whose queries are in the graphs

    std::vector<uint32_t> likeness_layers; // of its graph
    ggml_tensor         * queries_rot = nullptr;

    void         graph_begin  (llama_kv_evict_graph & g, int64_t n0, int64_t n1, int64_t n2, size_t n_nodes = 0);
    ggml_backend_t backend_of (const layer & layer) const;
    void         graph_inputs (llama_kv_evict_graph & g, const std::vector<llama_kv_evict_graph::input> & inputs, int64_t n_out);
    void         graph_output (llama_kv_evict_graph & g, uint32_t ikv, ggml_tensor * cur);
    const float * graph_result(const llama_kv_evict_graph & g, size_t i) const;
    bool         graph_alloc  (llama_kv_evict_graph & g);
    bool         graph_reserve(llama_kv_evict_graph & g);
    bool         graph_compute(llama_kv_evict_graph & g);
    int64_t      n_block_scores() const; // queries
    bool         build_scores (int64_t n_kv, int64_t n_query, int64_t n_out, bool gather);
    ggml_tensor * build_layer_scores (ggml_context * ctx, const layer & layer, int64_t n_kv, int64_t n_query, int64_t n_out, ggml_tensor * rows, ggml_tensor * mask, ggml_tensor * own) const;
    ggml_tensor * build_reader_scores(ggml_context * ctx, const layer & layer, const reader & reader, ggml_tensor * k, int64_t n_query, int64_t n_out, ggml_tensor * rows, ggml_tensor * mask) const;
    ggml_tensor * build_layer_queries(ggml_context * ctx, uint32_t ikv, int64_t n_query, ggml_tensor * rows, ggml_tensor * shift, ggml_tensor * rot) const;
    bool         build_queries(int64_t n_query);
    bool         turn_queries (llama_seq_id seq, llama_pos own, int32_t n, llama_pos pos);
    std::vector<int32_t> own_cells(llama_seq_id seq, int64_t n_kv, bool can_gather) const;
    bool         build_likeness(int64_t first, int64_t n_old, int64_t n_new, bool gather, const std::vector<uint32_t> & wanted);
    void         set_likeness (const int32_t * own, const std::vector<float> & unit_k, const std::vector<float> & unit_v, float value_weight);
    int32_t      unit_rows    (llama_seq_id seq, bool values, const int32_t * ids, int32_t n_ids, std::vector<float> & out);
    float *      lengths_of   (bool values, uint32_t ikv, uint32_t ih);
    int32_t      find_lengths (llama_seq_id seq, const int32_t * ids, int32_t n_ids);
    void         forget_lengths(uint32_t cell);
    void         move_lengths (const int32_t * src, const int32_t * dst, int32_t n_move);
    std::vector<uint32_t> wanted_layers(const int8_t * looked_at) const;
    int64_t      n_ahead_blocks() const;
    uint32_t     n_ahead_nodes () const;
    std::unique_ptr<asked> make_asked(int64_t n_query) const;
    template <typename F>
    void         each_own_head(uint32_t ikv, const F & f) const;
    ggml_tensor * build_floats (llama_kv_evict_graph & g, uint32_t ikv, bool values, ggml_tensor * ids);
    ggml_tensor * build_columns(llama_kv_evict_graph & g, uint32_t ikv, int64_t first, int64_t n, ggml_tensor * ids);
    bool         build_ahead_prompt(const asked & mine, int64_t n, const std::vector<uint32_t> & wanted);
    bool         build_ahead  (const asked * mine, int64_t first, int64_t n_old, int64_t n_new, const ahead_kind & how);
    void         set_ahead    (const int32_t * ids, int32_t n_ids, const std::vector<int32_t> & own, int64_t first);
    void         take_ahead   (llama_seq_id seq, int kind);
    bool         reserve_ahead(int64_t n_query, bool compares);
    bool         is_host      () const; // all cells are in main memory
    bool         build_read   (bool values, int64_t n_ids);
    int32_t      read_rows    (bool values, const int32_t * ids, int32_t n, int32_t n_ids, float * out);
    void         read_columns (const int32_t * ids, int32_t n_ids, float * out) const;
    bool         build_moves  (int64_t n_move);
    int32_t      run_moves    (const int32_t * src, const int32_t * dst, int32_t n_move);
    void         set_mask     (llama_seq_id seq, const std::vector<int32_t> & own, llama_pos first, int64_t n_query);
    int32_t      check_moves  (llama_seq_id seq, const int32_t * src, const int32_t * dst, int32_t n_move) const;
    void         remove       (llama_seq_id seq, const int32_t * rm, int32_t n_rm);
};

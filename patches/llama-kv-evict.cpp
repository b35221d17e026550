#include "llama-kv-evict-impl.h"
#include "llama-kv-evict-hook.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-idx.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-recurrent.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

//
// which caches can be served
//

llama_kv_evict::memory_parts llama_kv_evict::find_parts(const llama_context & lctx, int32_t & status) {
    auto * mem = lctx.get_memory();

    status = LLAMA_KV_EVICT_OK;

    // the derived class has a third cache that mirrors the cells, so it must be asked first
    if (!mem) {
        status = LLAMA_KV_EVICT_NO_CACHE;
    } else if (dynamic_cast<llama_memory_hybrid_idx *>(mem)) {
        status = LLAMA_KV_EVICT_SPARSE;
    } else if (auto * both = dynamic_cast<llama_memory_hybrid *>(mem)) {
        return { both->get_mem_attn(), nullptr, both->get_mem_recr() };
    } else if (auto * all = dynamic_cast<llama_memory_hybrid_iswa *>(mem)) {
        return { all->get_mem_attn()->get_base(), all->get_mem_attn()->get_swa(), all->get_mem_recr() };
    } else if (auto * state = dynamic_cast<llama_memory_recurrent *>(mem)) {
        status = LLAMA_KV_EVICT_RECURRENT;
        return { nullptr, nullptr, state };
    } else if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(mem)) {
        return { iswa->get_base(), iswa->get_swa(), nullptr };
    } else if (auto * kv = dynamic_cast<llama_kv_cache *>(mem)) {
        return { kv, nullptr, nullptr };
    } else {
        status = LLAMA_KV_EVICT_SPARSE;
    }

    return {};
}

bool llama_kv_evict::memory_parts::can_end(llama_seq_id seq, llama_pos pos) const {
    if (pos <= 0) {
        return true;
    }
    if (state && state->seq_pos_max(seq) + 1 != pos) {
        return false;
    }
    if (!window || window->get_layer_ids().empty()) {
        return true;
    }

    // a window cache has all positions from its first to its last
    const llama_pos first = std::max(0, pos + 1 - (llama_pos) window->n_swa);
    const llama_pos pos_min = window->seq_pos_min(seq);

    return pos_min >= 0 && pos_min <= first && window->seq_pos_max(seq) + 1 >= pos;
}

llama_kv_cache * llama_kv_evict::find_cache(const llama_context & lctx, int32_t & status) {
    const auto parts = find_parts(lctx, status);

    if (!parts.kv) {
        return nullptr;
    }
    if (find_layers(lctx, *parts.kv).empty()) {
        status = parts.window && !parts.window->layers.empty() ? LLAMA_KV_EVICT_SWA : LLAMA_KV_EVICT_RECURRENT;
        return nullptr;
    }

    status = check_cache(lctx, *parts.kv);
    return status == LLAMA_KV_EVICT_OK ? parts.kv : nullptr;
}

int32_t llama_kv_evict::check_cache(const llama_context & lctx, const llama_kv_cache & kv) {
    const auto & hparams = lctx.get_model().hparams;

    if (kv.n_stream != 1) {
        return LLAMA_KV_EVICT_STREAMS;
    }
    if (kv.other) {
        return LLAMA_KV_EVICT_SPARSE;
    }
    if (kv.swa_type != LLAMA_SWA_TYPE_NONE) {
        return LLAMA_KV_EVICT_SWA;
    }
    if (hparams.is_mla() || !kv.layers[0].v) {
        return LLAMA_KV_EVICT_MLA;
    }
    if (hparams.router_layer >= 0) {
        return LLAMA_KV_EVICT_ROUTER;
    }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.0f) {
        return LLAMA_KV_EVICT_ALIBI;
    }

    const uint32_t il0 = kv.layers[0].il;

    for (const auto & layer : kv.layers) {
        if (hparams.n_embd_head_k(layer.il) != hparams.n_embd_head_k(il0) ||
            hparams.n_embd_head_v(layer.il) != hparams.n_embd_head_v(il0)) {
            return LLAMA_KV_EVICT_HEADS;
        }
    }

    // rows are moved as 32-bit words, those of a transposed V value by value
    const auto is_words = [](ggml_type type, uint32_t n_embd_head) { return ggml_row_size(type, n_embd_head) % 4 == 0; };

    if (!is_words(kv.type_k(), hparams.n_embd_head_k(il0)) || (!kv.v_trans && !is_words(kv.type_v(), hparams.n_embd_head_v(il0)))) {
        return LLAMA_KV_EVICT_HEAD_BYTES;
    }

    return LLAMA_KV_EVICT_OK;
}

std::vector<llama_kv_evict::cell_layer> llama_kv_evict::find_layers(const llama_context & lctx, const llama_kv_cache & kv) {
    const auto & hparams = lctx.get_model().hparams;

    // where a layer has none, the tensors of the cache are there, and empty
    std::vector<cell_layer> res;
    for (const auto & layer : kv.layers) {
        if (hparams.n_head(layer.il) > 0 && hparams.n_head_kv(layer.il) > 0) {
            res.push_back({ layer.il, hparams.n_head(layer.il), hparams.n_head_kv(layer.il), layer.k, layer.v });
        }
    }
    return res;
}

uint32_t llama_kv_evict::most_heads_kv(const std::vector<cell_layer> & layers) {
    uint32_t res = 0;
    for (const auto & layer : layers) {
        res = std::max(res, layer.n_head_kv);
    }
    return res;
}

uint32_t llama_kv_evict::most_gqa(const std::vector<cell_layer> & layers) {
    uint32_t res = 0;
    for (const auto & layer : layers) {
        res = std::max(res, layer.n_gqa());
    }
    return res;
}

int32_t llama_kv_evict::check_hooks() const {
    if (has_bias) {
        return LLAMA_KV_EVICT_BIAS;
    }
    for (const auto & layer : layers) {
        for (const auto & reader : layer.readers) {
            if (!reader.hooked) {
                return LLAMA_KV_EVICT_UNHOOKED;
            }
        }
    }
    return LLAMA_KV_EVICT_OK;
}

//
// life
//

llama_kv_evict::llama_kv_evict(llama_context & lctx, const memory_parts & parts, uint32_t n_window, uint32_t n_slots) :
    lctx(lctx), kv(*parts.kv), parts(parts), n_window(n_window),
    n_seq        (lctx.n_seq_max()),
    n_slots      (n_slots),
    n_head_kv    (most_heads_kv(find_layers(lctx, kv))),
    n_gqa        (most_gqa     (find_layers(lctx, kv))),
    n_head       (n_head_kv*n_gqa),
    n_embd_head_k(lctx.get_model().hparams.n_embd_head_k(kv.layers[0].il)),
    n_embd_head_v(lctx.get_model().hparams.n_embd_head_v(kv.layers[0].il)),
    v_trans      (kv.v_trans),
    slots(n_seq, -1), pos_row(n_slots*n_window, -1), sums(n_seq) {
    for (const auto & own : find_layers(lctx, kv)) {
        layer_of[own.il] = layers.size();
        layers.push_back(own);
    }
    const std::map<int32_t, int32_t> others(kv.map_layer_ids.begin(), kv.map_layer_ids.end());
    for (const auto & [il, ikv] : others) {
        const auto own = layer_of.find(kv.layers[ikv].il);
        if (own != layer_of.end() && il != own->first) {
            layers[own->second].readers.push_back({ il });
            layer_of[il] = own->second;
        }
    }
}

size_t llama_kv_evict::n_readers() const {
    return std::accumulate(layers.begin(), layers.end(), (size_t) 0, [](size_t n, const layer & cur) { return n + cur.readers.size(); });
}

llama_kv_evict * llama_kv_evict::get(const llama_context & lctx) {
    return lctx.kv_evict.get();
}

int32_t llama_kv_evict::init(llama_context & lctx, int32_t n_window, int32_t n_slots) {
    if (n_window < 0 || n_slots < 0 || (int64_t) n_window*lctx.n_seq_max() >= INT32_MAX) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    if (n_slots == 0 || n_slots > (int32_t) lctx.n_seq_max()) {
        n_slots = lctx.n_seq_max();
    }

    int32_t status = LLAMA_KV_EVICT_OK;

    std::shared_ptr<llama_kv_evict> next;

    if (n_window > 0) {
        if (!find_cache(lctx, status)) {
            return status;
        }
        next = std::make_shared<llama_kv_evict>(lctx, find_parts(lctx, status), n_window, n_slots);
        if (!next->alloc_records()) {
            return LLAMA_KV_EVICT_ALLOC;
        }
    }

    // the decode graph changes, so it is reserved anew; building it tells which layers call the hook
    const auto install = [&lctx](const std::shared_ptr<llama_kv_evict> & cur) {
        lctx.synchronize();
        lctx.cparams.kv_evict   = cur.get();
        lctx.sched_need_reserve = true;
        lctx.sched_reserve();
        lctx.kv_evict = cur;
    };

    try {
        install(next);
    } catch (...) {
        lctx.cparams.kv_evict   = lctx.kv_evict.get();
        lctx.sched_need_reserve = true;
        throw;
    }

    if (next && (status = next->check_hooks()) != LLAMA_KV_EVICT_OK) {
        lctx.kv_evict.reset();
        install(nullptr);
    }

    return status;
}

bool llama_kv_evict::alloc_records() {
    const bool no_alloc = lctx.get_model().hparams.no_alloc;

    std::map<ggml_backend_buffer_type_t, std::vector<uint32_t>> ikv_of_buft;
    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        ikv_of_buft[ggml_backend_buffer_get_type(layers[ikv].k->buffer)].push_back(ikv);
    }

    for (const auto & [buft, ikvs] : ikv_of_buft) {
        ggml_context_ptr ctx { ggml_init({ (n_readers() + n_layer() + 1)*ggml_tensor_overhead(), nullptr, true }) };
        if (!ctx) {
            return false;
        }

        // the sums of all these layers lie side by side: they are read in one transfer
        ggml_tensor * w = nullptr;
        if (v_trans) {
            w = ggml_new_tensor_4d(ctx.get(), GGML_TYPE_F32, kv.get_size(), n_head_kv, ikvs.size(), n_sum_rows());
            ggml_set_name(w, "kv_evict_w");
            all_sums.push_back({ w, ikvs });
        }

        for (size_t i = 0; i < ikvs.size(); ++i) {
            auto & layer = layers[ikvs[i]];
            for (auto & reader : layer.readers) {
                reader.q = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd_head_k*layer.n_head, n_slots*n_window + 1);
                ggml_format_name(reader.q, "kv_evict_q_l%d", reader.il);
            }
            if (w) {
                layer.w = ggml_view_3d(ctx.get(), w, w->ne[0], layer.n_head_kv, w->ne[3], w->nb[1], w->nb[3], i*w->nb[2]);
                ggml_format_name(layer.w, "kv_evict_w_l%d", layer.il);
            }
        }

        ggml_backend_buffer_ptr buf { no_alloc ?
            ggml_backend_buft_alloc_buffer(buft, 0) : ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft) };
        if (!buf) {
            return false;
        }
        if (no_alloc) {
            for (auto * t = ggml_get_first_tensor(ctx.get()); t; t = ggml_get_next_tensor(ctx.get(), t)) {
                t->buffer = buf.get();
            }
        }
        ggml_backend_buffer_clear(buf.get(), 0);

        ctxs_bufs.emplace_back(std::move(ctx), std::move(buf));
    }

    return true;
}

//
// recording queries
//

class llm_graph_input_kv_evict : public llm_graph_input_i {
public:
    llm_graph_input_kv_evict(llama_kv_evict & ke) : ke(ke) {}

    void set_input(const llama_ubatch * ubatch) override {
        ke.set_query_rows(*ubatch, (int64_t *) rows->data, rows->ne[0]);
        ke.renew(*ubatch);

        std::vector<float> mask(dead ? dead->ne[0] : 0, 0.0f);

        for (int64_t ikv = 0; dead && ikv < dead->ne[1]; ++ikv) {
            ke.mask_dead(ikv, mask.size(), mask.data());

            void * row = (char *) dead->data + ikv*dead->nb[1];
            if (dead->type == GGML_TYPE_F16) {
                ggml_fp32_to_fp16_row(mask.data(), (ggml_fp16_t *) row, mask.size());
            } else {
                std::copy(mask.begin(), mask.end(), (float *) row);
            }
        }
    }

    // the attention's own input tells whether n_kv is the same
    bool can_reuse(const llm_graph_params & params) override {
        return rows->ne[0] == ke.n_query_rows(params.ubatch) && (dead != nullptr) == ke.has_dead();
    }

    static llm_graph_input_kv_evict * find(const llm_graph_context & graph) {
        for (const auto & cur : graph.res->inputs) {
            if (auto * inp = dynamic_cast<llm_graph_input_kv_evict *>(cur.get())) {
                return inp;
            }
        }
        return nullptr;
    }

    llama_kv_evict & ke;

    ggml_tensor * rows = nullptr; // I64 [n_query_rows]
    ggml_tensor * dead = nullptr; // F32/F16 [n_kv, n_layer] or null, -inf where a row is dead
};

uint32_t llama_kv_evict::n_query_rows(const llama_ubatch & ubatch) const {
    // the shape must not depend on positions or on the order of sequences, so several sequences write all they have
    return ubatch.n_seqs_unq == 1 ? std::min(ubatch.n_tokens, n_window) : ubatch.n_tokens;
}

void llama_kv_evict::set_query_rows(const llama_ubatch & ubatch, int64_t * rows, uint32_t n_rows) {
    std::vector<uint32_t> n_seen(n_seq, 0);

    for (uint32_t i = 0; i < ubatch.n_seqs_unq; ++i) {
        const llama_seq_id seq = ubatch.seq_id_unq[i];
        bind(seq);
        if (!has_sum(ubatch)) {
            sums[seq] = {};
        }
    }

    for (uint32_t i = n_rows; i-- > 0; ) {
        const uint32_t it = ubatch.n_tokens - n_rows + i;

        const llama_seq_id seq = ubatch.seq_id[it][0];
        const llama_pos    pos = ubatch.pos[it];

        // of a sequence's tokens the last n_window are wanted; a token of several sequences is nobody's query
        rows[i] = n_slots*n_window;
        if (ubatch.n_seq_id[it] == 1 && has_seq(seq) && has_slot(seq) && n_seen[seq]++ < n_window) {
            rows[i] = row_of(seq, pos);
            pos_row[rows[i]] = pos;
        }
    }
}

void llama_kv_evict::hook(const llm_graph_context & graph, ggml_tensor * q_cur, ggml_tensor * kq_b, ggml_tensor * sinks, float kq_scale, int il) {
    const auto it = layer_of.find(il);
    if (it == layer_of.end()) {
        return;
    }

    auto & layer  = layers[it->second];
    auto & reader = *std::find_if(layer.readers.begin(), layer.readers.end(), [il](const struct reader & cur) { return cur.il == il; });

    // Grok's logits are scaled behind the product, where it caps them
    reader.kq_scale = graph.arch == LLM_ARCH_GROK ? kq_scale*graph.hparams.f_attn_out_scale : kq_scale;
    reader.sinks    = sinks;
    reader.hooked   = q_cur->ne[0] == n_embd_head_k && q_cur->ne[1] == layer.n_head && q_cur->ne[2] == graph.ubatch.n_tokens;

    has_bias |= kq_b != nullptr;

    if (!reader.hooked) {
        return;
    }

    auto * inp = llm_graph_input_kv_evict::find(graph);
    if (!inp) {
        auto cur = std::make_unique<llm_graph_input_kv_evict>(*this);
        cur->rows = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I64, n_query_rows(graph.ubatch));
        ggml_set_input(cur->rows);
        graph.cb(cur->rows, "kv_evict_rows", -1);
        inp = static_cast<llm_graph_input_kv_evict *>(graph.res->add_input(std::move(cur)));
    }

    if (q_cur->nb[1] != n_embd_head_k*sizeof(float)) {
        q_cur = ggml_cont(graph.ctx0, q_cur);
    }

    const int64_t n_rows = inp->rows->ne[0];

    ggml_tensor * q = ggml_view_2d(graph.ctx0, q_cur, n_embd_head_k*layer.n_head, n_rows, q_cur->nb[2],
            (q_cur->ne[2] - n_rows)*q_cur->nb[2]);

    ggml_build_forward_expand(graph.gf, ggml_set_rows(graph.ctx0, reader.q, q, inp->rows));
}

uint32_t llama_kv_evict::hook_n_nodes() const {
    // of each layer: what records the queries (3 nodes) and hides dead rows (2), and around the sums of weights (6)
    return n_readers()*(11 + (v_trans ? sum_blocks_n_nodes(n_gqa*std::min(n_window, n_sum_max)) : 0)) + 16;
}

uint32_t llama_kv_evict_hook_n_nodes(const llama_cparams & cparams) {
    return cparams.kv_evict ? cparams.kv_evict->hook_n_nodes() : 0;
}

// contexts that this thread makes are to be bounded
static thread_local bool makes_bounded = false;

uint32_t llama_kv_evict_hook_n_window_max(uint32_t size_base) {
    return makes_bounded ? UINT32_MAX : size_base;
}

void llama_kv_evict_hook(const llm_graph_context & graph, ggml_tensor * q_cur, ggml_tensor * kq_b, ggml_tensor * sinks, float kq_scale, int il) {
    if (graph.cparams.kv_evict) {
        graph.cparams.kv_evict->hook(graph, q_cur, kq_b, sinks, kq_scale, il);
    }
}

ggml_tensor * llama_kv_evict::hook_mask(const llm_graph_context & graph, ggml_tensor * kq_mask, int il) {
    const auto it  = layer_of.find(il);
    auto     * inp = llm_graph_input_kv_evict::find(graph);
    if (!has_dead() || it == layer_of.end() || !inp) {
        return kq_mask;
    }

    if (!inp->dead) {
        inp->dead = ggml_new_tensor_2d(graph.ctx0, kq_mask->type, kq_mask->ne[0], n_layer());
        ggml_set_input(inp->dead);
        graph.cb(inp->dead, "kv_evict_dead", -1);
    }

    ggml_tensor * row = ggml_view_1d(graph.ctx0, inp->dead, inp->dead->ne[0], it->second*inp->dead->nb[1]);

    return ggml_add(graph.ctx0, kq_mask, row);
}

ggml_tensor * llama_kv_evict_hook_mask(const llm_graph_context & graph, ggml_tensor * kq_mask, int il) {
    return graph.cparams.kv_evict ? graph.cparams.kv_evict->hook_mask(graph, kq_mask, il) : kq_mask;
}

int32_t llama_kv_evict::n_queries(llama_seq_id seq) const {
    if (!has_slot(seq)) {
        return 0;
    }

    const llama_pos pos_max = cells().seq_pos_max(seq);
    const llama_pos pos_min = first_seen(seq);

    int32_t n = 0;
    while (n < (int32_t) n_window && pos_max >= 0 && pos_max - n >= pos_min && pos_row[row_of(seq, pos_max - n)] == pos_max - n) {
        ++n;
    }
    return n;
}

void llama_kv_evict::forget(llama_seq_id seq) {
    if (has_slot(seq)) {
        std::fill_n(pos_row.begin() + slots[seq]*n_window, n_window, -1);
    }
    sums[seq] = {};

    for (const auto & [_, i] : cells().seq_pos_get(seq)) {
        revive(i);
        forget_lengths(i);
    }
    prune_dead();
}

bool llama_kv_evict::bind(llama_seq_id seq) {
    for (int32_t slot = 0; !has_slot(seq) && slot < (int32_t) n_slots; ++slot) {
        if (std::find(slots.begin(), slots.end(), slot) == slots.end()) {
            slots[seq] = slot;
        }
    }
    return has_slot(seq);
}

void llama_kv_evict::release(llama_seq_id seq) {
    forget(seq);
    slots[seq] = -1;
}

bool llama_kv_evict::has_cells(llama_seq_id seq, const int32_t * ids, int32_t n_ids) const {
    const auto & cur = cells();

    return n_ids >= 0 && (uint32_t) n_ids <= cur.size() && std::all_of(ids, ids + n_ids, [&](int32_t id) {
        return id >= 0 && (uint32_t) id < cur.size() && !cur.is_empty(id) && cur.seq_has(id, seq);
    });
}

bool llama_kv_evict::owns(llama_seq_id seq, int32_t cell) const {
    const auto & cur = cells();

    return !cur.is_empty(cell) && cur.seq_has(cell, seq) && cur.seq_count(cell) == 1;
}

//
// C API
//

int32_t llama_kv_evict_abi(void) {
    return LLAMA_KV_EVICT_ABI;
}

const char * llama_kv_evict_strerror(int32_t status) {
    switch (status) {
        case LLAMA_KV_EVICT_OK:         return "ok";
        case LLAMA_KV_EVICT_NO_CACHE:   return "the model has no KV cache (an encoder)";
        case LLAMA_KV_EVICT_RECURRENT:  return "the model is recurrent: its state has a fixed size and no KV cells";
        case LLAMA_KV_EVICT_ROUTER:     return "one layer looks in the whole text for the token that switches an adapter on";
        case LLAMA_KV_EVICT_SWA:        return "all layers of the model attend to a window only, which llama.cpp bounds itself";
        case LLAMA_KV_EVICT_MLA:        return "the model uses latent attention (MLA), whose cache has no V";
        case LLAMA_KV_EVICT_SPARSE:     return "a second cache or an indexer of the model mirrors the KV cells";
        case LLAMA_KV_EVICT_STREAMS:    return "the cache has one stream per sequence: create the context with kv_unified";
        case LLAMA_KV_EVICT_ALIBI:      return "the model uses ALiBi, whose bias needs the true position of each cell";
        case LLAMA_KV_EVICT_BIAS:       return "the model adds a bias to its attention weights";
        case LLAMA_KV_EVICT_HEADS:      return "the size of heads differs between the model's layers";
        case LLAMA_KV_EVICT_HEAD_BYTES: return "a head's row is not a multiple of 4 bytes in this KV type: use f16";
        case LLAMA_KV_EVICT_UNHOOKED:   return "a layer of the model attends by a path that is not hooked";
        case LLAMA_KV_EVICT_NOT_INIT:   return "llama_kv_evict_init was not called";
        case LLAMA_KV_EVICT_ARGUMENT:   return "an argument is out of range";
        case LLAMA_KV_EVICT_QUERIES:    return "fewer queries are recorded than asked for";
        case LLAMA_KV_EVICT_SHARED:     return "a cell belongs to another sequence too";
        case LLAMA_KV_EVICT_STATE:      return "not a state of this model, context or build";
        case LLAMA_KV_EVICT_ALLOC:      return "out of memory";
        case LLAMA_KV_EVICT_SLOTS:      return "the queries of as many sequences as there is room for are recorded already";
        case LLAMA_KV_EVICT_COMPUTE:    return "the backend failed to compute";
    }
    return "unknown status";
}

// no C++ exception may cross into C
template <typename F>
static int32_t guarded(F && fn) {
    try {
        return fn();
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("llama_kv_evict: %s\n", err.what());
    }
    return LLAMA_KV_EVICT_ALLOC;
}

template <typename F>
static int32_t with_state(const llama_context * ctx, llama_seq_id seq, F && fn) {
    auto * ke = llama_kv_evict::get(*ctx);
    if (!ke) {
        return LLAMA_KV_EVICT_NOT_INIT;
    }
    if (!ke->has_seq(seq)) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    return guarded([&]() { return fn(*ke); });
}

int32_t llama_kv_evict_init(llama_context * ctx, int32_t n_window, int32_t n_slots) {
    return guarded([&]() { return llama_kv_evict::init(*ctx, n_window, n_slots); });
}

int32_t llama_kv_evict_bind(llama_context * ctx, llama_seq_id seq) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.bind(seq) ? LLAMA_KV_EVICT_OK : LLAMA_KV_EVICT_SLOTS; });
}

void llama_kv_evict_release(llama_context * ctx, llama_seq_id seq) {
    with_state(ctx, seq, [&](llama_kv_evict & ke) { ke.release(seq); return 0; });
}

static llama_kv_cache * cache_of(const llama_context * ctx) {
    int32_t status;
    return llama_kv_evict::find_cache(*ctx, status);
}

static std::vector<llama_kv_evict::cell_layer> layers_of(const llama_context * ctx) {
    const auto * kv = cache_of(ctx);
    return kv ? llama_kv_evict::find_layers(*ctx, *kv) : std::vector<llama_kv_evict::cell_layer>();
}

int32_t llama_kv_evict_n_layer(const llama_context * ctx) {
    return layers_of(ctx).size();
}

int32_t llama_kv_evict_layer_ids(const llama_context * ctx, int32_t * out) {
    const auto layers = layers_of(ctx);
    for (const auto & layer : layers) {
        *out++ = layer.il;
    }
    return layers.size();
}

int32_t llama_kv_evict_own_heads(const llama_context * ctx, int32_t * out) {
    const auto layers = layers_of(ctx);
    for (const auto & layer : layers) {
        *out++ = layer.n_head;
        *out++ = layer.n_head_kv;
    }
    return layers.size();
}

int32_t llama_kv_evict_n_head(const llama_context * ctx) {
    const auto layers = layers_of(ctx);
    return llama_kv_evict::most_heads_kv(layers)*llama_kv_evict::most_gqa(layers);
}

int32_t llama_kv_evict_n_head_kv(const llama_context * ctx) {
    return llama_kv_evict::most_heads_kv(layers_of(ctx));
}

int32_t llama_kv_evict_n_cells(const llama_context * ctx) {
    const auto * kv = cache_of(ctx);
    return kv ? kv->get_size() : 0;
}

int32_t llama_kv_evict_n_used(const llama_context * ctx) {
    const auto * kv = cache_of(ctx);
    return kv ? kv->get_cells(0).get_used() : 0;
}

size_t llama_kv_evict_n_bytes(const llama_context * ctx) {
    size_t res = 0;
    if (const auto * mem = ctx->get_memory()) {
        for (const auto & [_, size] : mem->memory_breakdown()) {
            res += size;
        }
    }
    return res;
}

int32_t llama_kv_evict_beside(const llama_context * ctx) {
    int32_t status;
    const auto parts = llama_kv_evict::find_parts(*ctx, status);

    const bool has_window = parts.window && !parts.window->get_layer_ids().empty();

    return (has_window ? LLAMA_KV_EVICT_WINDOWS : 0) + (parts.state ? LLAMA_KV_EVICT_STATES : 0);
}

void llama_kv_evict_make_bounded(bool bounded) {
    makes_bounded = bounded;
}

bool llama_kv_evict_can_end(const llama_context * ctx, llama_seq_id seq, llama_pos pos) {
    int32_t status;
    const auto parts = llama_kv_evict::find_parts(*ctx, status);

    // of other memories llama.cpp knows itself
    return !parts.kv || (seq >= 0 && (uint32_t) seq < ctx->n_seq_max() && parts.can_end(seq, pos));
}

int32_t llama_kv_evict_head_size(const llama_context * ctx, bool values) {
    const auto * kv = cache_of(ctx);
    if (!kv) {
        return 0;
    }

    const auto & hparams = ctx->get_model().hparams;
    const auto   il      = kv->get_layer_ids()[0];

    return values ? hparams.n_embd_head_v(il) : hparams.n_embd_head_k(il);
}

void llama_kv_evict_memory(const llama_context * ctx, size_t * out) {
    llama_kv_evict::memory(*ctx, out);
}

int32_t llama_kv_evict_reserve(llama_context * ctx, const llama_kv_evict_needs * needs) {
    return with_state(ctx, 0, [&](llama_kv_evict & ke) { return ke.reserve(*needs); });
}

int32_t llama_kv_evict_zero_free(llama_context * ctx) {
    return guarded([&]() { return llama_kv_evict::zero_free(*ctx); });
}

int32_t llama_kv_evict_cells(const llama_context * ctx, llama_seq_id seq,
        llama_pos * pos, int32_t * cells, int8_t * shared, int32_t n_max) {
    const auto * kv = cache_of(ctx);
    if (!kv || seq < 0 || seq >= LLAMA_MAX_SEQ) {
        return 0;
    }

    const auto & cur = kv->get_cells(seq);

    int32_t n = 0;
    for (const auto & [p, i] : cur.seq_pos_get(seq)) {
        if (n < n_max) {
            pos  [n] = p;
            cells[n] = i;
            if (shared) {
                shared[n] = cur.seq_count(i) > 1;
            }
        }
        ++n;
    }
    return n;
}

int32_t llama_kv_evict_n_queries(const llama_context * ctx, llama_seq_id seq) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.n_queries(seq); });
}

int32_t llama_kv_evict_scores(llama_context * ctx, llama_seq_id seq, int32_t n_query,
        const int32_t * cells, int32_t n_cells, bool by_head, float * out) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.scores(seq, n_query, cells, n_cells, by_head, out); });
}

int32_t llama_kv_evict_queries(llama_context * ctx, llama_seq_id seq, int32_t n_query, llama_pos pos, float * out) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.queries(seq, n_query, pos, out); });
}

int32_t llama_kv_evict_rows(llama_context * ctx, llama_seq_id seq, bool values,
        const int32_t * cells, int32_t n_cells, float * out) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.rows(seq, values, cells, n_cells, out); });
}

int32_t llama_kv_evict_likeness(llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, int32_t n_new, const int8_t * layers, float value_weight, float * out) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.likeness(seq, cells, n_cells, n_new, layers, value_weight, out); });
}

int32_t llama_kv_evict_ahead_set(llama_context * ctx, llama_seq_id seq, int32_t n_query,
        const uint16_t * queries, const float * prompt, const float * output) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.ahead_set(seq, n_query, queries, prompt, output); });
}

int32_t llama_kv_evict_ahead_get(llama_context * ctx, llama_seq_id seq, float * prompt, float * output) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.ahead_get(seq, prompt, output); });
}

int32_t llama_kv_evict_ahead_prompt(llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, const int8_t * others, const int8_t * layers) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.ahead_prompt(seq, cells, n_cells, others, layers); });
}

int32_t llama_kv_evict_ahead(llama_context * ctx, llama_seq_id seq, const int32_t * cells, int32_t n_cells,
        int32_t n_new, const int8_t * layers, bool by_head, float value_weight, float * weights, float * like) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) {
        return ke.ahead(seq, cells, n_cells, n_new, layers, by_head, value_weight, weights, like);
    });
}

int32_t llama_kv_evict_apply(llama_context * ctx, llama_seq_id seq,
        const int32_t * src, const int32_t * dst, int32_t n_move, const int32_t * rm, int32_t n_rm) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.apply(seq, src, dst, n_move, rm, n_rm); });
}

int32_t llama_kv_evict_set_dead(llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, const int8_t * dead) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.set_dead(seq, cells, n_cells, dead); });
}

int32_t llama_kv_evict_get_dead(llama_context * ctx, llama_seq_id seq,
        const int32_t * cells, int32_t n_cells, int8_t * dead) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.get_dead(seq, cells, n_cells, dead); });
}

size_t llama_kv_evict_state_size(llama_context * ctx, llama_seq_id seq) {
    size_t res = 0;
    with_state(ctx, seq, [&](llama_kv_evict & ke) { res = ke.state_write(seq, nullptr, 0); return 0; });
    return res;
}

int32_t llama_kv_evict_state_get(llama_context * ctx, llama_seq_id seq, uint8_t * dst, size_t size) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) {
        const size_t size_state = ke.state_write(seq, nullptr, 0);
        if (size < size_state) {
            return (int32_t) LLAMA_KV_EVICT_ARGUMENT;
        }
        ke.state_write(seq, dst, size_state);
        return (int32_t) LLAMA_KV_EVICT_OK;
    });
}

int32_t llama_kv_evict_state_set(llama_context * ctx, llama_seq_id seq, const uint8_t * src, size_t size) {
    return with_state(ctx, seq, [&](llama_kv_evict & ke) { return ke.state_read(seq, src, size); });
}

void llama_kv_evict_forget(llama_context * ctx, llama_seq_id seq) {
    with_state(ctx, seq, [&](llama_kv_evict & ke) { ke.forget(seq); return 0; });
}

static bool is_set(void * flag) {
    return *(const volatile int32_t *) flag != 0;
}

void llama_kv_evict_abort_on(llama_context * ctx, const volatile int32_t * flag) {
    llama_set_abort_callback(ctx, flag ? is_set : nullptr, (void *) flag);
}

#include "llama-kv-evict-impl.h"

#include "llama-context.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

//
// graphs of their own
//

// nodes and leaves of a layer in the largest of the graphs, but for its sums
static constexpr uint32_t n_layer_nodes = 32;

// ggml aborts where a graph has no room for a node, or a scheduler none for a node or a leaf. so there is room for
// what the builders can come to: layer by layer, and inputs
void llama_kv_evict::graph_begin(llama_kv_evict_graph & g, int64_t n0, int64_t n1, int64_t n2, size_t n_nodes) {
    if (n_nodes == 0) {
        n_nodes = n_readers()*(n_layer_nodes + sum_blocks_n_nodes(n_gqa*n_block_scores_max)) + 64;
    }

    if (!g.sched) {
        g.sched.reset(ggml_backend_sched_new(lctx.backend_ptrs.data(), lctx.backend_buft.data(), lctx.backend_ptrs.size(), n_nodes, false, false));
    }

    g.ctx.reset(ggml_init({ n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false), nullptr, true }));
    g.gf = ggml_new_graph_custom(g.ctx.get(), n_nodes, false);
    g.n0 = n0;
    g.n1 = n1;
    g.n2 = n2;
    g.places.clear();
    g.place_of.clear();
    g.inputs.clear();
    g.first_nodes.clear();
    g.outs.clear();
}

// offsets that every backend takes a view at
static constexpr size_t alignment = 256;

size_t llama_kv_evict_graph::give_size(size_t i) const {
    const auto & inp = inputs[i];
    return ggml_type_size(inp.type)*inp.ne[0]*inp.ne[1]*inp.ne[2]*inp.ne[3];
}

// of the layer's cells. llama.cpp's last backend is the CPU
ggml_backend_t llama_kv_evict::backend_of(const layer & layer) const {
    auto * buft = ggml_backend_buffer_get_type(layer.k->buffer);

    for (auto * cur : lctx.backend_ptrs) {
        if (!ggml_backend_buft_is_host(buft) && ggml_backend_supports_buft(cur, buft)) {
            return cur;
        }
    }
    return lctx.backend_ptrs.back();
}

// what the graph is given, in the memory of each backend that layers lie on, and room for n_out values of each layer
void llama_kv_evict::graph_inputs(llama_kv_evict_graph & g, const std::vector<llama_kv_evict_graph::input> & inputs, int64_t n_out) {
    auto * ctx = g.ctx.get();

    g.inputs = inputs;

    size_t size = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
        g.inputs[i].offset = size;
        size += GGML_PAD(g.give_size(i), alignment);
    }
    g.given.assign(size, 0);

    for (const auto & layer : layers) {
        const bool is_host = ggml_backend_buft_is_host(ggml_backend_buffer_get_type(layer.k->buffer));
        auto     * backend = backend_of(layer);

        auto it = std::find_if(g.places.begin(), g.places.end(), [backend](const auto & place) { return place.backend == backend; });
        if (it == g.places.end()) {
            g.places.push_back({ backend, is_host });
            it = g.places.end() - 1;
        }
        g.place_of.push_back(it - g.places.begin());
    }

    for (size_t ip = 0; ip < g.places.size(); ++ip) {
        auto & place = g.places[ip];

        place.in = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, size/sizeof(float));
        ggml_set_input(place.in);
        for (size_t j = 0; j < g.inputs.size(); ++j) {
            if (g.give_size(j) == 0) {
                place.inps.push_back(nullptr);
                continue;
            }
            const auto & inp  = g.inputs[j];
            auto       * view = ggml_view_1d(ctx, place.in, 1, inp.offset);
            view->type = inp.type;
            for (size_t i = 0, nb = ggml_type_size(inp.type); i < 4; nb *= inp.ne[i++]) {
                view->ne[i] = inp.ne[i];
                view->nb[i] = nb;
            }
            place.inps.push_back(view);
        }

        if (!place.is_host && n_out > 0) {
            const int64_t n = std::count(g.place_of.begin(), g.place_of.end(), ip);
            place.out = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_out, n);
            place.data.resize(n_out*n);
            ggml_set_input (place.out);
            ggml_set_output(place.out);
        }
    }
}

void llama_kv_evict::graph_output(llama_kv_evict_graph & g, uint32_t ikv, ggml_tensor * cur) {
    auto & place = g.places[g.place_of[ikv]];

    if (place.out) {
        cur = ggml_cpy(g.ctx.get(), cur, ggml_view_1d(g.ctx.get(), place.out, ggml_nelements(cur), place.n_outs++*place.out->nb[1]));
    } else {
        ggml_set_output(cur);
    }
    ggml_build_forward_expand(g.gf, cur);
    g.outs.push_back({ g.place_of[ikv], cur, {} });
}

// what was computed of the layer that graph_output() was called for as the i-th
const float * llama_kv_evict::graph_result(const llama_kv_evict_graph & g, size_t i) const {
    const auto & out   = g.outs[i];
    const auto & place = g.places[out.place];

    if (place.out) {
        return place.data.data() + out.tensor->view_offs/sizeof(float);
    }
    return out.data.empty() ? (const float *) out.tensor->data : out.data.data();
}

bool llama_kv_evict::graph_alloc(llama_kv_evict_graph & g) {
    ggml_backend_sched_reset(g.sched.get());

    for (const auto & place : g.places) {
        for (auto * t : { place.in, place.out }) {
            if (t) {
                ggml_backend_sched_set_tensor_backend(g.sched.get(), t, place.backend);
            }
        }
    }

    for (const auto & [node, ip] : g.first_nodes) {
        if (ggml_backend_supports_op(g.places[ip].backend, node)) {
            ggml_backend_sched_set_tensor_backend(g.sched.get(), node, g.places[ip].backend);
        }
    }

    const bool ok = reserving ? graph_reserve(g) : ggml_backend_sched_alloc_graph(g.sched.get(), g.gf);

    if (reserving || !ok) {
        g.n0 = -1;
    }
    if (!ok) {
        // it would take the graph for allocated when it is asked again, and follow buffers that are not there
        g.sched.reset();
    }
    return ok;
}

bool llama_kv_evict::graph_compute(llama_kv_evict_graph & g) {
    for (const auto & [backend, set_n_threads] : lctx.set_n_threads_fns) {
        set_n_threads(backend, lctx.cparams.n_threads);
    }

    for (const auto & place : g.places) {
        if (!place.in->buffer) {
            continue; // none of its layers is looked at
        }
        ggml_backend_tensor_set(place.in, g.given.data(), 0, g.given.size());
    }

    // what the caller may abort is llama_decode(): rows that were moved by half would be lost
    auto * const callback = lctx.abort_callback;
    void * const data     = lctx.abort_callback_data;
    if (callback) {
        lctx.set_abort_callback(nullptr, nullptr);
    }
    const auto status = ggml_backend_sched_graph_compute(g.sched.get(), g.gf);
    if (callback) {
        lctx.set_abort_callback(callback, data);
    }

    for (auto & place : g.places) {
        if (place.out && place.n_outs > 0 && status == GGML_STATUS_SUCCESS) {
            ggml_backend_tensor_get(place.out, place.data.data(), 0, place.n_outs*place.out->nb[1]);
        }
    }
    for (auto & out : g.outs) {
        // where the cells are in main memory, a scheduler may still compute elsewhere
        if (!g.places[out.place].out && !ggml_backend_buffer_is_host(out.tensor->view_src ? out.tensor->view_src->buffer : out.tensor->buffer)) {
            out.data.resize(ggml_nelements(out.tensor));
            ggml_backend_tensor_get(out.tensor, out.data.data(), 0, ggml_nbytes(out.tensor));
        }
    }

    return status == GGML_STATUS_SUCCESS;
}

//
// scores
//

// by halving: views and additions run everywhere without a copy
ggml_tensor * sum_blocks(ggml_context * ctx, ggml_tensor * cur, int64_t n_out) {
    ggml_tensor * rest = nullptr;

    for (int64_t n = cur->ne[1]/n_out; n > 1; n /= 2) {
        const auto view = [&](int64_t n_block, int64_t i0) {
            return ggml_view_3d(ctx, cur, cur->ne[0], n_block*n_out, cur->ne[2], cur->nb[1], cur->nb[2], i0*n_out*cur->nb[1]);
        };
        if (n % 2 == 1) {
            rest = rest ? ggml_add(ctx, rest, view(1, n - 1)) : ggml_cont(ctx, view(1, n - 1));
        }
        cur = ggml_add(ctx, view(n/2, 0), view(n/2, n/2));
    }

    return rest ? ggml_add(ctx, cur, rest) : cur;
}

uint32_t sum_blocks_n_nodes(uint32_t n) {
    uint32_t res = 1;
    for (; n > 1; n /= 2) {
        res += 5;
    }
    return res;
}

// the cells to compute with: those of the sequence where they are few of the first n_kv and can be gathered, padded by
// the first of them; else all n_kv
std::vector<int32_t> llama_kv_evict::own_cells(llama_seq_id seq, int64_t n_kv, bool can_gather) const {
    const auto & cur = cells().seq_pos_get(seq);

    const int64_t n_own = GGML_PAD((int64_t) cur.size(), 256);

    std::vector<int32_t> res;
    if (can_gather && n_own > 0 && 2*n_own <= n_kv) {
        for (const auto & [_, i] : cur) {
            res.push_back(i);
        }
        res.resize(n_own, res[0]);
    } else {
        res.resize(n_kv);
        std::iota(res.begin(), res.end(), 0);
    }

    return res;
}

// get_rows converts to F32; back in their own type they are multiplied, and rounded, as where they lie
ggml_tensor * build_rows(ggml_context * ctx, ggml_tensor * t, int64_t n_embd_head, int64_t n_head_kv, ggml_tensor * own) {
    ggml_tensor * cur = ggml_get_rows(ctx, ggml_view_2d(ctx, t, t->ne[0], t->ne[1], t->nb[1], 0), own);

    if (t->type != GGML_TYPE_F32) {
        cur = ggml_cast(ctx, cur, t->type);
    }

    return ggml_view_3d(ctx, cur, n_embd_head, own->ne[0], n_head_kv, cur->nb[1], ggml_row_size(cur->type, n_embd_head), 0);
}

// the first n rows of a cache tensor, those of each head one after the other: [n_embd_head, n, n_head_kv], contiguous
static ggml_tensor * build_close(ggml_context * ctx, ggml_tensor * t, int64_t n, int64_t n_embd_head, int64_t n_head_kv) {
    ggml_tensor * words = view_words(ctx, t, n_embd_head, n_head_kv);

    words = ggml_cont(ctx, ggml_view_3d(ctx, words, words->ne[0], n, n_head_kv, words->nb[1], words->nb[2], 0));

    ggml_tensor * res = ggml_view_3d(ctx, words, words->ne[0], n, n_head_kv, words->nb[1], words->nb[2], 0);
    res->type  = t->type;
    res->ne[0] = n_embd_head;
    res->nb[0] = ggml_type_size(t->type);

    return res;
}

ggml_tensor * llama_kv_evict::build_layer_scores(
        ggml_context * ctx, const layer & layer, int64_t n_kv, int64_t n_query, int64_t n_out, ggml_tensor * rows, ggml_tensor * mask, ggml_tensor * own) const {
    ggml_tensor * k = layer.k;

    // [n_embd_head, n_kv, n_head_kv]
    k = own ? build_rows(ctx, k, n_embd_head_k, layer.n_head_kv, own)
            : ggml_view_3d(ctx, k, n_embd_head_k, n_kv, layer.n_head_kv, k->nb[1], ggml_row_size(k->type, n_embd_head_k), 0);

    // a backend that multiplies no rows with those of other heads between them would leave it to the CPU, and send it all of K
    auto * product = ggml_mul_mat(ctx, k, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, n_embd_head_k, n_query*layer.n_gqa(), layer.n_head_kv));
    if (!ggml_backend_supports_op(backend_of(layer), product)) {
        k = build_close(ctx, own ? k->view_src : layer.k, n_kv, n_embd_head_k, layer.n_head_kv);
    }

    ggml_tensor * sum = nullptr;
    for (const auto & reader : layer.readers) {
        auto * cur = build_reader_scores(ctx, layer, reader, k, n_query, n_out, rows, mask);
        sum = sum ? ggml_add(ctx, sum, cur) : cur;
    }
    return sum;
}

ggml_tensor * llama_kv_evict::build_reader_scores(
        ggml_context * ctx, const layer & layer, const reader & reader, ggml_tensor * k, int64_t n_query, int64_t n_out, ggml_tensor * rows, ggml_tensor * mask) const {
    const auto & hparams = lctx.get_model().hparams;

    const int64_t n_kv      = k->ne[1];
    const int64_t n_head_kv = layer.n_head_kv;
    const int64_t n_gqa     = layer.n_gqa();

    // [n_embd_head, n_gqa*n_query, n_head_kv]: one matrix product per KV head serves its whole group
    ggml_tensor * q = ggml_get_rows(ctx, reader.q, rows);
    q = ggml_reshape_4d(ctx, q, n_embd_head_k, n_gqa, n_head_kv, n_query);
    q = ggml_cont      (ctx, ggml_permute(ctx, q, 0, 1, 3, 2));
    q = ggml_reshape_3d(ctx, q, n_embd_head_k, n_gqa*n_query, n_head_kv);

    ggml_tensor * kq = ggml_mul_mat(ctx, k, q);
    ggml_prec_set_acc(kq, GGML_PREC_F32);

    float scale = reader.kq_scale;

    if (hparams.attn_soft_cap || lctx.get_model().arch == LLM_ARCH_GROK) {
        const float cap = hparams.f_attn_logit_softcapping;

        kq    = ggml_scale(ctx, ggml_tanh(ctx, ggml_scale(ctx, kq, scale/cap)), cap);
        scale = 1.0f;
    }

    if (auto * sinks = reader.sinks) {
        // one more cell whose logit is the sink of each head
        sinks = ggml_reshape_4d(ctx, ggml_scale(ctx, sinks, 1.0f/scale), 1, n_gqa, 1, n_head_kv);
        sinks = ggml_repeat_4d (ctx, sinks, 1, n_gqa, n_query, n_head_kv);
        kq    = ggml_concat    (ctx, kq, ggml_reshape_3d(ctx, sinks, 1, n_gqa*n_query, n_head_kv), 0);
        mask  = ggml_pad       (ctx, mask, 1, 0, 0, 0);
    }

    kq = ggml_soft_max_ext(ctx, kq, mask, scale, 0.0f);

    if (reader.sinks) {
        kq = ggml_cont(ctx, ggml_view_3d(ctx, kq, n_kv, kq->ne[1], kq->ne[2], kq->nb[1], kq->nb[2], 0));
    }

    return sum_blocks(ctx, kq, n_out);
}

int64_t llama_kv_evict::n_block_scores() const {
    int64_t n_most = 1;
    for (const auto & layer : layers) {
        n_most = std::max<int64_t>(n_most, layer.n_head);
    }
    return std::clamp<int64_t>(n_block_weights/((int64_t) kv.get_size()*n_most), 1, n_block_scores_max);
}

bool llama_kv_evict::build_scores(int64_t n_kv, int64_t n_query, int64_t n_out, bool gather) {
    auto & g = g_scores;

    graph_begin(g, n_kv, n_query, n_out);

    auto * ctx = g.ctx.get();

    // row of each query, mask, dead rows, own cells
    std::vector<llama_kv_evict_graph::input> inputs = {
        { GGML_TYPE_I32, { n_query, 1, 1, 1 }, 0 },
        { GGML_TYPE_F32, { n_kv, 1, n_query, 1 }, 0 },
        { GGML_TYPE_F32, { n_kv, has_dead() ? (int64_t) n_layer() : 0, 1, 1 }, 0 },
        { GGML_TYPE_I32, { gather ? n_kv : 0, 1, 1, 1 }, 0 },
    };
    graph_inputs(g, inputs, n_kv*n_head_kv*n_out);

    // the mask has a line for each query head of a group, which are fewer in some layers
    std::map<std::pair<uint32_t, int64_t>, ggml_tensor *> masks;
    const auto mask_of = [&](uint32_t ikv) {
        const int64_t n = layers[ikv].n_gqa();

        auto & res = masks[{ g.place_of[ikv], n }];
        if (!res) {
            res = g.inp(1, ikv);
            res = n > 1 ? ggml_repeat_4d(ctx, res, n_kv, n, n_query, 1) : res;
            res = ggml_reshape_2d(ctx, res, n_kv, n*n_query);
        }
        return res;
    };

    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        const auto & layer = layers[ikv];

        auto * dead = g.inp(2, ikv);
        auto * seen = mask_of(ikv);
        seen = has_dead() ? ggml_add(ctx, seen, ggml_view_1d(ctx, dead, n_kv, ikv*dead->nb[1])) : seen;

        auto * own = gather ? g.inp(3, ikv) : nullptr;

        graph_output(g, ikv, build_layer_scores(ctx, layer, n_kv, n_query, n_out == 1 ? 1 : layer.n_gqa(), g.inp(0, ikv), seen, own));
    }

    return graph_alloc(g);
}

// of n_query queries, from position first on
void llama_kv_evict::set_mask(llama_seq_id seq, const std::vector<int32_t> & own, llama_pos first, int64_t n_query) {
    const auto & cur = cells();

    const int64_t n_kv = own.size();

    auto  * rows = g_scores.give<int32_t>(0);
    float * data = g_scores.give<float>(1);

    for (int64_t iq = 0; iq < n_query; ++iq, data += n_kv) {
        const llama_pos pos = first + iq;

        for (int64_t i = 0; i < n_kv; ++i) {
            // a cell that comes again only fills up
            const bool again = i > 0 && own[i] == own[0];

            const bool seen = !again && !cur.is_empty(own[i]) && cur.seq_has(own[i], seq) && cur.pos_get(own[i]) <= pos;

            data[i] = seen ? 0.0f : -INFINITY;
        }

        rows[iq] = row_of(seq, pos);
    }

    for (uint32_t ikv = 0; has_dead() && ikv < n_layer(); ++ikv) {
        mask_dead(ikv, own, g_scores.give<float>(2) + ikv*n_kv);
    }
    if (g_scores.give_size(3) > 0) {
        std::copy(own.begin(), own.end(), g_scores.give<int32_t>(3));
    }
}

int32_t llama_kv_evict::scores(llama_seq_id seq, int32_t n_query, const int32_t * ids, int32_t n_ids, bool by_head, float * out) {
    if (n_query < 1 || n_ids < 0 || (uint32_t) n_ids > cells().size()) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    if (n_query > n_queries(seq)) {
        return LLAMA_KV_EVICT_QUERIES;
    }

    // padded as llama.cpp pads it, so that the graph stays the same while the cache grows
    const int64_t n_kv = std::min<int64_t>(kv.get_size(), GGML_PAD(cells().used_max_p1(), 256));

    for (int32_t i = 0; i < n_ids; ++i) {
        if (ids[i] < 0 || ids[i] >= n_kv) {
            return LLAMA_KV_EVICT_ARGUMENT;
        }
    }

    lctx.synchronize();

    const std::vector<int32_t> own = own_cells(seq, n_kv, true);

    const bool gather = (int64_t) own.size() < n_kv;

    const bool summed = !by_head && is_summed(seq, n_query);
    sums[seq].read = true;
    if (summed) {
        read_sums(seq, ids, n_ids, out);
        return LLAMA_KV_EVICT_OK;
    }

    const int64_t n_out = by_head ? n_gqa : 1;

    const int64_t n_own = own.size();

    // where each cell stands; those of others weigh nothing
    std::vector<int32_t> at(n_kv, -1);
    for (int64_t i = n_own; i-- > 0; ) {
        at[own[i]] = i;
    }

    std::fill_n(out, n_layer()*n_out*n_head_kv*n_ids, 0.0f);

    const int64_t   n_block = n_block_scores();
    const llama_pos pos_max = cells().seq_pos_max(seq);

    for (int64_t i0 = 0; i0 < n_query; i0 += n_block) {
        const int64_t n = std::min(n_block, n_query - i0);

        const bool same = g_scores.n0 == n_own && g_scores.n1 == n && g_scores.n2 == n_out
                && (g_scores.give_size(2) > 0) == has_dead() && gathers == gather;
        if (!same && !build_scores(n_own, n, n_out, gather)) {
            return LLAMA_KV_EVICT_ALLOC;
        }
        gathers = gather;
        set_mask(seq, own, pos_max - n_query + 1 + i0, n);
        if (!graph_compute(g_scores)) {
            return LLAMA_KV_EVICT_COMPUTE;
        }

        float * sum = out;
        for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
            const auto & layer = layers[ikv];

            const float * data = graph_result(g_scores, ikv);
            for (int64_t ih = 0; ih < n_out*n_head_kv; ++ih) {
                const int64_t own_ih = n_out == 1 ? layer.own_kv(ih) : layer.own_q(ih/n_out, ih % n_out);
                for (int32_t i = 0; i < n_ids; ++i) {
                    *sum++ += at[ids[i]] < 0 ? 0.0f : data[own_ih*n_own + at[ids[i]]];
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

//
// moves
//

ggml_tensor * view_words(ggml_context * ctx, ggml_tensor * t, int64_t n_embd_head, int64_t n_head_kv) {
    const size_t size_head = ggml_row_size(t->type, n_embd_head);

    ggml_tensor * res = ggml_view_1d(ctx, t, t->ne[0], 0);

    res->type  = GGML_TYPE_F32;
    res->ne[0] = size_head/sizeof(float);
    res->ne[1] = t->ne[1];
    res->ne[2] = n_head_kv;
    res->nb[0] = sizeof(float);
    res->nb[1] = t->nb[1];
    res->nb[2] = size_head;
    res->nb[3] = t->nb[2];

    return res;
}

// V as it lies without flash attention: the values of a head's row are n_cells apart, so each is a row of its own.
// floats hold every value of these types, so that get_rows and set_rows, which convert, are exact
ggml_tensor * view_values(ggml_context * ctx, ggml_tensor * t, int64_t n_embd_head, int64_t n_head_kv) {
    const int64_t n_cells = t->ne[1];
    const size_t  size    = ggml_type_size(t->type);

    return ggml_view_4d(ctx, t, 1, n_cells, n_embd_head, n_head_kv, size, n_cells*size, n_embd_head*n_cells*size, 0);
}

// a list of indices for each of n_head_kv heads, each list n times over. as words: not all backends repeat integers
ggml_tensor * repeat_lists(ggml_context * ctx, ggml_tensor * t, int64_t n_head_kv, int64_t n, size_t offset) {
    ggml_tensor * words = ggml_view_3d(ctx, t, t->ne[0], 1, n_head_kv, t->nb[1], t->nb[1], offset);
    words->type = GGML_TYPE_F32;

    words = ggml_repeat_4d(ctx, words, t->ne[0], n, n_head_kv, 1);

    ggml_tensor * res = ggml_view_3d(ctx, words, t->ne[0], n, n_head_kv, words->nb[1], words->nb[2], 0);
    res->type = t->type;

    return res;
}

bool llama_kv_evict::build_moves(int64_t n_move) {
    auto & g = g_moves;

    graph_begin(g, n_move, 0, 0);

    auto * ctx = g.ctx.get();

    graph_inputs(g, {
        { GGML_TYPE_I32, { n_move, n_head_kv, (int64_t) n_layer(), 1 }, 0 },
        { GGML_TYPE_I64, { n_move, n_head_kv, (int64_t) n_layer(), 1 }, 0 },
    }, 0);

    // the lists of doubles follow those of a layer's own heads, which alone are carried out
    const auto move = [&](ggml_tensor * t, int64_t n_embd_head, uint32_t ikv) {
        const int64_t n = layers[ikv].n_head_kv;

        auto * words = view_words(ctx, t, n_embd_head, n);
        auto * src   = g.inp(0, ikv);
        auto * dst   = g.inp(1, ikv);

        auto * isrc = ggml_view_2d(ctx, src, n_move, n, src->nb[1], ikv*src->nb[2]);
        auto * idst = ggml_view_2d(ctx, dst, n_move, n, dst->nb[1], ikv*dst->nb[2]);

        ggml_build_forward_expand(g.gf, ggml_set_rows(ctx, words, g.first(ggml_get_rows(ctx, words, isrc), ikv), idst));
    };

    const auto move_transposed = [&](ggml_tensor * t, int64_t n_embd_head, uint32_t ikv) {
        const int64_t n = layers[ikv].n_head_kv;

        auto * values = view_values(ctx, t, n_embd_head, n);
        auto * src    = g.inp(0, ikv);
        auto * dst    = g.inp(1, ikv);

        auto * isrc = repeat_lists(ctx, src, n, n_embd_head, ikv*src->nb[2]);
        auto * idst = ggml_view_3d(ctx, dst, n_move, 1, n, dst->nb[1], dst->nb[1], ikv*dst->nb[2]);

        g.first(isrc->view_src, ikv);

        ggml_build_forward_expand(g.gf, ggml_set_rows(ctx, values, g.first(ggml_get_rows(ctx, values, isrc), ikv), idst));
    };

    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        move(layers[ikv].k, n_embd_head_k, ikv);
        if (v_trans) {
            move_transposed(layers[ikv].v, n_embd_head_v, ikv);
        } else {
            move(layers[ikv].v, n_embd_head_v, ikv);
        }
    }

    return graph_alloc(g);
}

int32_t llama_kv_evict::run_moves(const int32_t * src, const int32_t * dst, int32_t n_move) {
    if (g_moves.n0 != n_move && !build_moves(n_move)) {
        return LLAMA_KV_EVICT_ALLOC;
    }

    const size_t n = n_layer()*n_head_kv*n_move;

    std::copy_n(src, n, g_moves.give<int32_t>(0));
    std::copy_n(dst, n, g_moves.give<int64_t>(1));

    return graph_compute(g_moves) ? LLAMA_KV_EVICT_OK : LLAMA_KV_EVICT_COMPUTE;
}

int32_t llama_kv_evict::check_moves(llama_seq_id seq, const int32_t * src, const int32_t * dst, int32_t n_move) const {
    const auto & cur = cells();

    std::vector<int64_t> writer(cur.size(), -1); // the (layer, KV head) that last named the cell as a target
    std::vector<bool>    moved (cur.size(), false);

    for (int64_t i = 0; i < (int64_t) n_layer()*n_head_kv*n_move; ++i) {
        if (src[i] < 0 || dst[i] < 0 || src[i] >= (int32_t) cur.size() || dst[i] >= (int32_t) cur.size()) {
            return LLAMA_KV_EVICT_ARGUMENT;
        }
        if (cur.is_empty(src[i]) || cur.is_empty(dst[i]) || !cur.seq_has(src[i], seq) || !cur.seq_has(dst[i], seq)) {
            return LLAMA_KV_EVICT_ARGUMENT;
        }
        const bool moves = src[i] != dst[i];
        if (moves && !owns(seq, dst[i])) {
            return LLAMA_KV_EVICT_SHARED;
        }
        // a pair that does nothing still writes: it must not undo another one
        if (writer[dst[i]] == i/n_move && (moves || moved[dst[i]])) {
            return LLAMA_KV_EVICT_ARGUMENT;
        }
        writer[dst[i]] = i/n_move;
        moved [dst[i]] = moves;
    }

    for (size_t ikv = 0; ikv < n_layer(); ++ikv) {
        for (uint32_t ih = layers[ikv].n_head_kv; ih < n_head_kv; ++ih) {
            const size_t i   = (ikv*n_head_kv + ih)*n_move;
            const size_t own = (ikv*n_head_kv + layers[ikv].own_kv(ih))*n_move;

            if (!std::equal(src + i, src + i + n_move, src + own) || !std::equal(dst + i, dst + i + n_move, dst + own)) {
                return LLAMA_KV_EVICT_ARGUMENT;
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

void llama_kv_evict::remove(llama_seq_id seq, const int32_t * rm, int32_t n_rm) {
    for (int32_t i = 0; i < n_rm; ++i) {
        // searching starts at the first free cell, as after llama_memory_seq_rm()
        if (cells().seq_rm(rm[i], seq) && (uint32_t) rm[i] < kv.v_heads[0]) {
            kv.v_heads[0] = rm[i];
        }
    }
    prune_dead();
}

int32_t llama_kv_evict::apply(llama_seq_id seq, const int32_t * src, const int32_t * dst, int32_t n_move, const int32_t * rm, int32_t n_rm) {
    if (n_move < 0 || n_move > (int64_t) cells().size() || !has_cells(seq, rm, n_rm)) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }

    if (n_move > 0) {
        const int32_t status = check_moves(seq, src, dst, n_move);
        if (status != LLAMA_KV_EVICT_OK) {
            return status;
        }
    }

    std::vector<bool> removed(cells().size(), false);

    for (int32_t i = 0; i < n_rm; ++i) {
        if (removed[rm[i]]) {
            return LLAMA_KV_EVICT_ARGUMENT;
        }
        removed[rm[i]] = true;
    }

    if (n_move > 0) {
        lctx.synchronize();
        const int32_t status = run_moves(src, dst, n_move);
        if (status != LLAMA_KV_EVICT_OK) {
            return status;
        }
        move_lengths(src, dst, n_move);
        sums[seq] = {};
    }

    remove(seq, rm, n_rm);

    return LLAMA_KV_EVICT_OK;
}

#include "llama-kv-evict-impl.h"

#include "llama-context.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

// weighing new cells where they lie: queries of the prompt are kept beside the cells, and so is what competed for them so
// far; what comes back are a few numbers for each new cell. rows of K and V stay on their device

// in place of the logarithm of nothing: no product comes near it, and it is finite, so that 0 times it is 0
static constexpr float lowest = -1e30f;

// of probabilities, below which their logarithms do not matter
static constexpr float least = 1e-30f;

// nodes and leaves of a layer at most: what weighs, and what compares a block of cells
static constexpr uint32_t n_weigh_nodes = 64;
static constexpr uint32_t n_block_nodes = 32;

// offsets that every backend takes a view at
static constexpr size_t alignment = 256;

// blocks of cells that new ones are compared to in one graph
int64_t llama_kv_evict::n_ahead_blocks() const {
    return std::clamp<int64_t>((kv.get_size() + n_block_likeness - 1)/n_block_likeness, 1, n_block_ahead);
}

uint32_t llama_kv_evict::n_ahead_nodes() const {
    return n_layer()*(n_weigh_nodes + n_block_nodes*n_ahead_blocks()) + 64;
}

// memory for n_query queries, in that of the cells of each layer
std::unique_ptr<llama_kv_evict::asked> llama_kv_evict::make_asked(int64_t n_query) const {
    const bool no_alloc = lctx.get_model().hparams.no_alloc;

    auto res = std::make_unique<asked>();
    res->n_query = n_query;
    res->of_layer.resize(n_layer());

    std::map<ggml_backend_buffer_type_t, std::vector<uint32_t>> ikv_of_buft;
    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        ikv_of_buft[ggml_backend_buffer_get_type(layers[ikv].k->buffer)].push_back(ikv);
    }

    for (const auto & [buft, ikvs] : ikv_of_buft) {
        res->parts.emplace_back();
        auto & part = res->parts.back();

        part.ikvs = ikvs;
        part.ctx.reset(ggml_init({ (3*n_layer() + 1)*ggml_tensor_overhead(), nullptr, true }));

        // all queries, then all logarithms of the prompt, then all of the output
        std::vector<size_t> offsets;
        size_t size = 0;
        for (int kind = 0; kind < 3; ++kind) {
            part.logs = kind == 1 ? size : part.logs;
            for (const uint32_t ikv : ikvs) {
                const size_t n = n_query*layers[ikv].n_head;
                offsets.push_back(size);
                size += GGML_PAD(kind == 0 ? n*n_embd_head_k*sizeof(ggml_fp16_t) : n*sizeof(float), alignment);
            }
        }
        part.all = ggml_new_tensor_1d(part.ctx.get(), GGML_TYPE_F32, size/sizeof(float));
        ggml_set_name(part.all, "kv_evict_asked");

        part.buf.reset(no_alloc ? ggml_backend_buft_alloc_buffer(buft, 0) : ggml_backend_alloc_ctx_tensors_from_buft(part.ctx.get(), buft));
        if (!part.buf) {
            return nullptr;
        }
        if (no_alloc) {
            part.all->buffer = part.buf.get();
        }

        for (size_t i = 0; i < ikvs.size(); ++i) {
            const auto  & layer = layers[ikvs[i]];
            auto        & one   = res->of_layer[ikvs[i]];
            const int64_t n     = n_query*layer.n_gqa();

            const auto view = [&](ggml_type type, int64_t ne0, int kind) {
                auto * cur = ggml_view_1d(part.ctx.get(), part.all, 1, offsets[kind*ikvs.size() + i]);
                cur->type = type;
                const int64_t ne[4] = { ne0, n, layer.n_head_kv, 1 };
                for (size_t d = 0, nb = ggml_type_size(type); d < 4; nb *= ne[d++]) {
                    cur->ne[d] = ne[d];
                    cur->nb[d] = nb;
                }
                return cur;
            };
            one.q      = view(GGML_TYPE_F16, n_embd_head_k, 0);
            one.prompt = view(GGML_TYPE_F32, 1, 1);
            one.output = view(GGML_TYPE_F32, 1, 2);
        }
    }

    return res;
}

// call f(query head of the arrays, its offset in those of the layer), in heads of n numbers
template <typename F>
void llama_kv_evict::each_own_head(uint32_t ikv, const F & f) const {
    const auto & layer = layers[ikv];
    for (uint32_t ih = 0; ih < layer.n_head_kv; ++ih) {
        for (uint32_t ig = 0; ig < layer.n_gqa(); ++ig) {
            f(ih*n_gqa + ig, ih*layer.n_gqa() + ig);
        }
    }
}

int32_t llama_kv_evict::ahead_set(llama_seq_id seq, int32_t n_query, const uint16_t * queries, const float * prompt, const float * output) {
    if (n_query < 0) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }

    auto & mine = all_asked[seq];

    if (!mine || mine->n_query != n_query) {
        if (ahead_seq == seq) {
            g_ahead[0].n0 = g_ahead[1].n0 = -1;
        }
        mine.reset();
        if (n_query > 0 && !(mine = make_asked(n_query))) {
            return LLAMA_KV_EVICT_ALLOC;
        }
    }
    if (n_query == 0) {
        all_asked.erase(seq);
        return LLAMA_KV_EVICT_OK;
    }

    std::vector<uint8_t> data;
    for (const auto & part : mine->parts) {
        data.assign(ggml_nbytes(part.all), 0);

        for (const uint32_t ikv : part.ikvs) {
            const auto & one = mine->of_layer[ikv];

            each_own_head(ikv, [&](uint32_t head, uint32_t own) {
                const size_t src = (ikv*n_head + head)*(size_t) n_query;
                const size_t dst = (size_t) own*n_query;

                std::copy_n(queries + src*n_embd_head_k, n_query*n_embd_head_k, (uint16_t *) (data.data() + one.q->view_offs) + dst*n_embd_head_k);

                for (const auto & [from, to] : { std::pair(prompt, one.prompt), std::pair(output, one.output) }) {
                    std::transform(from + src, from + src + n_query, (float *) (data.data() + to->view_offs) + dst, [](float x) { return std::max(x, lowest); });
                }
            });
        }
        ggml_backend_tensor_set(part.all, data.data(), 0, data.size());
    }

    return LLAMA_KV_EVICT_OK;
}

int32_t llama_kv_evict::ahead_get(llama_seq_id seq, float * prompt, float * output) const {
    const auto it = all_asked.find(seq);
    if (it == all_asked.end()) {
        return LLAMA_KV_EVICT_QUERIES;
    }
    const auto  & mine    = *it->second;
    const int64_t n_query = mine.n_query;

    std::vector<uint8_t> data;
    for (const auto & part : mine.parts) {
        data.resize(ggml_nbytes(part.all) - part.logs);
        ggml_backend_tensor_get(part.all, data.data(), part.logs, data.size());

        for (const uint32_t ikv : part.ikvs) {
            const auto & layer = layers[ikv];
            const auto & one   = mine.of_layer[ikv];

            for (const auto & [from, to] : { std::pair(one.prompt, prompt), std::pair(one.output, output) }) {
                const auto * src = (const float *) (data.data() + from->view_offs - part.logs);
                for (uint32_t head = 0; head < n_head; ++head) {
                    const size_t own = layer.own_q(head/n_gqa, head % n_gqa);
                    std::transform(src + own*n_query, src + (own + 1)*n_query, to + (ikv*n_head + head)*n_query,
                            [](float x) { return x < lowest/2 ? -std::numeric_limits<float>::infinity() : x; });
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// rows of the layer's own heads in the cells of a list, as floats: [n_embd_head, n, n_head_kv]
ggml_tensor * llama_kv_evict::build_floats(llama_kv_evict_graph & g, uint32_t ikv, bool values, ggml_tensor * ids) {
    auto * ctx = g.ctx.get();

    ggml_tensor * t = values ? layers[ikv].v : layers[ikv].k;

    const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;
    const int64_t n_own       = layers[ikv].n_head_kv;
    const int64_t n           = ids->ne[0];

    if (values && v_trans) {
        auto * all = repeat_lists(ctx, ids, 1, n_embd_head*n_own, 0);
        g.first(all->view_src, ikv);

        ggml_tensor * cur = g.first(ggml_get_rows(ctx, view_values(ctx, t, n_embd_head*n_own, 1), all), ikv);
        return ggml_cont(ctx, ggml_transpose(ctx, ggml_reshape_3d(ctx, cur, n, n_embd_head, n_own)));
    }

    ggml_tensor * cur = g.first(ggml_get_rows(ctx, ggml_view_2d(ctx, t, t->ne[0], t->ne[1], t->nb[1], 0), ids), ikv);
    cur = ggml_view_3d(ctx, cur, n_embd_head, n_own, n, n_embd_head*sizeof(float), cur->nb[1], 0);
    return ggml_cont(ctx, ggml_permute(ctx, cur, 0, 2, 1, 3));
}

// V where it lies transposed, of n cells from first on; ids: within these, those that are looked at
ggml_tensor * llama_kv_evict::build_columns(llama_kv_evict_graph & g, uint32_t ikv, int64_t first, int64_t n, ggml_tensor * ids) {
    auto * ctx = g.ctx.get();
    auto * t   = layers[ikv].v;

    const int64_t n_own = layers[ikv].n_head_kv;
    const size_t  size  = ggml_type_size(t->type);
    const size_t  line  = cells().size()*size;

    ggml_tensor * cur = ggml_view_3d(ctx, t, n, n_embd_head_v, n_own, line, n_embd_head_v*line, first*size);
    cur = g.first(ggml_cast(ctx, ggml_transpose(ctx, cur), GGML_TYPE_F32), ikv);

    auto * all = repeat_lists(ctx, ids, 1, n_own, 0);
    g.first(all->view_src, ikv);
    return ggml_get_rows(ctx, cur, all);
}

// the largest of each of the rows that cur consists of, each of n numbers: 1D
static ggml_tensor * build_largest(ggml_context * ctx, ggml_tensor * cur, int64_t n) {
    const int64_t n_rows = ggml_nelements(cur)/n;

    ggml_tensor * at  = ggml_argmax(ctx, ggml_reshape_2d(ctx, cur, n, n_rows));
    ggml_tensor * res = ggml_get_rows(ctx, ggml_reshape_3d(ctx, cur, 1, n, n_rows), ggml_reshape_2d(ctx, at, 1, n_rows));
    return ggml_reshape_1d(ctx, res, n_rows);
}

// of logits x and their softmax p: the logarithm of the sum of their exponentials, which is x - log p of each of them
static ggml_tensor * build_total(ggml_context * ctx, ggml_tensor * x, ggml_tensor * p) {
    ggml_tensor * log_p = ggml_log(ctx, ggml_clamp(ctx, p, least, 1.0f));
    // not in place of p, which others read
    return ggml_sum_rows(ctx, ggml_mul(ctx, p, ggml_sub(ctx, x, log_p)));
}

static ggml_tensor * build_products(llama_kv_evict_graph & g, ggml_tensor * keys, ggml_tensor * q, uint32_t ikv) {
    auto * ctx = g.ctx.get();

    ggml_tensor * cur = ggml_mul_mat(ctx, keys, g.first(ggml_cast(ctx, q, GGML_TYPE_F32), ikv));
    ggml_prec_set_acc(cur, GGML_PREC_F32);
    return cur;
}

// n cells of the prompt: [n, queries of a group, n_head_kv] products, which are summed up over the cells
bool llama_kv_evict::build_ahead_prompt(const asked & mine, int64_t n, const std::vector<uint32_t> & wanted) {
    auto & g = g_ahead[0];

    graph_begin(g, n, wanted.size(), mine.n_query, n_ahead_nodes());

    auto * ctx = g.ctx.get();

    // cells, and the rows that are left out
    graph_inputs(g, {
        { GGML_TYPE_I32, { n, 1, 1, 1 }, 0 },
        { GGML_TYPE_F32, { n, 1, n_head_kv, (int64_t) wanted.size() }, 0 },
    }, 0);

    for (size_t iw = 0; iw < wanted.size(); ++iw) {
        const uint32_t ikv = wanted[iw];
        const auto   & one = mine.of_layer[ikv];

        auto * mask = g.inp(1, ikv);
        mask = ggml_view_3d(ctx, mask, n, 1, layers[ikv].n_head_kv, mask->nb[1], mask->nb[2], iw*mask->nb[3]);

        ggml_tensor * x = build_products(g, build_floats(g, ikv, false, g.inp(0, ikv)), one.q, ikv);
        x = ggml_concat(ctx, ggml_add(ctx, x, mask), one.prompt, 0);

        ggml_build_forward_expand(g.gf, ggml_cpy(ctx, build_total(ctx, x, ggml_soft_max(ctx, x)), one.prompt));
    }
    ahead_layers[0] = wanted;

    return graph_alloc(g);
}

int32_t llama_kv_evict::ahead_prompt(llama_seq_id seq, const int32_t * ids, int32_t n_ids, const int8_t * others, const int8_t * looked_at) {
    if (!has_cells(seq, ids, n_ids)) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    const auto it = all_asked.find(seq);
    if (it == all_asked.end()) {
        return LLAMA_KV_EVICT_QUERIES;
    }
    const auto wanted = wanted_layers(looked_at);
    if (wanted.empty()) {
        return LLAMA_KV_EVICT_OK;
    }

    lctx.synchronize();

    auto & g = g_ahead[0];

    for (int32_t i0 = 0; i0 < n_ids; i0 += n_block_prompt) {
        const int32_t n = std::min(n_block_prompt, n_ids - i0);

        const bool same = g.n0 == n_block_prompt && ahead_layers[0] == wanted && ahead_seq == seq;
        if (!same && !build_ahead_prompt(*it->second, n_block_prompt, wanted)) {
            return LLAMA_KV_EVICT_ALLOC;
        }
        take_ahead(seq, 0);

        // padded by the first of them
        std::fill_n(std::copy_n(ids + i0, n, g.give<int32_t>(0)), n_block_prompt - n, ids[i0]);

        float * mask = g.give<float>(1);
        for (const uint32_t ikv : wanted) {
            for (uint32_t ih = 0; ih < n_head_kv; ++ih, mask += n_block_prompt) {
                const int8_t * row = others + ((size_t) ikv*n_head_kv + ih)*n_ids + i0;
                for (int32_t i = 0; i < n_block_prompt; ++i) {
                    mask[i] = i >= n || row[i] ? lowest : 0.0f;
                }
            }
        }
        if (!graph_compute(g)) {
            return LLAMA_KV_EVICT_COMPUTE;
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// the graph of the other kind may be that of another sequence
void llama_kv_evict::take_ahead(llama_seq_id seq, int kind) {
    if (ahead_seq != seq) {
        g_ahead[1 - kind].n0 = -1;
        ahead_seq = seq;
    }
}

std::vector<uint32_t> llama_kv_evict::wanted_layers(const int8_t * looked_at) const {
    std::vector<uint32_t> res;
    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        if (!looked_at || looked_at[ikv]) {
            res.push_back(ikv);
        }
    }
    return res;
}

// mine: the queries, or null; how: what is asked for
bool llama_kv_evict::build_ahead(const asked * mine, int64_t first, int64_t n_old, int64_t n_new, const ahead_kind & how) {
    auto & g = g_ahead[1];

    graph_begin(g, first, n_old, n_new, n_ahead_nodes());

    auto * ctx = g.ctx.get();

    const int64_t n_weights = mine ? n_new*n_head_kv*(how.by_head ? n_gqa : 1) : 0;
    const int64_t n_blocks  = how.compares ? (n_old + n_block_likeness - 1)/n_block_likeness : 0;

    // new cells; cells that they are compared to, where these stand in a block, which are before a new one, and dead rows
    graph_inputs(g, {
        { GGML_TYPE_I32, { n_new, 1, 1, 1 }, 0 },
        { GGML_TYPE_I32, { how.compares ? n_old : 0, 1, 1, 1 }, 0 },
        { GGML_TYPE_I32, { how.compares && v_trans ? n_old : 0, 1, 1, 1 }, 0 },
        { GGML_TYPE_F32, { how.compares ? n_old : 0, n_new, 1, 1 }, 0 },
        { GGML_TYPE_F32, { how.compares && has_dead() ? n_old : 0, (int64_t) how.wanted.size(), 1, 1 }, 0 },
    }, n_weights + n_blocks*n_new*n_head_kv);

    for (size_t iw = 0; iw < how.wanted.size(); ++iw) {
        const uint32_t ikv = how.wanted[iw];

        std::vector<ggml_tensor *> found;

        ggml_tensor * keys = build_floats(g, ikv, false, g.inp(0, ikv));

        if (mine) {
            const auto & one = mine->of_layer[ikv];

            // [n_new, queries of a group, n_head_kv]: shares of each query among the output, and among all
            ggml_tensor * x = ggml_concat(ctx, build_products(g, keys, one.q, ikv), one.output, 0);
            ggml_tensor * y = ggml_concat(ctx, x, one.prompt, 0);
            ggml_tensor * p = ggml_soft_max(ctx, x);
            ggml_tensor * r = ggml_soft_max(ctx, y);

            ggml_tensor * w = ggml_add(ctx,
                    ggml_view_3d(ctx, p, n_new, p->ne[1], p->ne[2], p->nb[1], p->nb[2], 0),
                    ggml_view_3d(ctx, r, n_new, r->ne[1], r->ne[2], r->nb[1], r->nb[2], 0));
            w = ggml_cont(ctx, ggml_transpose(ctx, w));
            found.push_back(build_largest(ctx, w, how.by_head ? mine->n_query : w->ne[0]));

            ggml_build_forward_expand(g.gf, found.back());
            ggml_build_forward_expand(g.gf, ggml_cpy(ctx, build_total(ctx, x, p), one.output));
        }

        if (how.compares) {
            const float whole = 1.0f + how.value_weight;

            ggml_tensor * unit_k = ggml_scale(ctx, ggml_l2_norm(ctx, keys, 1e-12f), 1.0f/whole);
            ggml_tensor * unit_v = ggml_scale(ctx, ggml_l2_norm(ctx, build_floats(g, ikv, true, g.inp(0, ikv)), 1e-12f), how.value_weight/whole);

            for (int64_t i0 = 0; i0 < n_old; i0 += n_block_likeness) {
                const int64_t n = std::min(n_block_likeness, n_old - i0);

                const auto part = [&](int i) {
                    auto * t = g.inp(i, ikv);
                    return ggml_view_2d(ctx, t, n, t->ne[1], t->nb[1], i0*t->nb[0]);
                };
                auto * ids  = part(1);
                auto * mask = part(3);
                if (has_dead()) {
                    auto * dead = g.inp(4, ikv);
                    mask = ggml_add(ctx, mask, ggml_view_1d(ctx, dead, n, iw*dead->nb[1] + i0*dead->nb[0]));
                }

                auto * old_k = build_floats(g, ikv, false, ids);
                auto * old_v = v_trans ? build_columns(g, ikv, first + i0, n, part(2)) : build_floats(g, ikv, true, ids);

                ggml_tensor * cur = nullptr;
                for (const auto & [old, unit] : { std::pair(old_k, unit_k), std::pair(old_v, unit_v) }) {
                    auto * cos = ggml_mul_mat(ctx, ggml_l2_norm(ctx, old, 1e-12f), unit);
                    ggml_prec_set_acc(cos, GGML_PREC_F32);
                    cur = cur ? ggml_add(ctx, cur, cos) : cos;
                }
                found.push_back(build_largest(ctx, ggml_add(ctx, cur, mask), n));
            }
        }

        ggml_tensor * all = found[0];
        for (size_t i = 1; i < found.size(); ++i) {
            all = ggml_concat(ctx, all, found[i], 0);
        }
        graph_output(g, ikv, all);
    }
    ahead_layers[1] = how.wanted;
    ahead_how       = how;
    ahead_dead      = has_dead();

    return graph_alloc(g);
}

// cells n_own of own, from first on; at: where each cell of the list stands
void llama_kv_evict::set_ahead(const int32_t * ids, int32_t n_ids, const std::vector<int32_t> & own, int64_t first) {
    auto & g = g_ahead[1];

    const int64_t n_old = g.n1;
    const int64_t n_new = g.n2;

    std::copy_n(ids + n_ids - n_new, n_new, g.give<int32_t>(0));
    if (!ahead_how.compares) {
        return;
    }

    // the place of each cell in the list, behind all others where it has none; where one comes again it only fills up
    std::vector<int32_t> place(cells().size(), n_ids);
    for (int32_t i = 0; i < n_ids; ++i) {
        place[ids[i]] = i;
    }
    std::vector<int32_t> order(n_old);
    for (int64_t j = 0; j < n_old; ++j) {
        const bool again = first + j > 0 && own[first + j] == own[0];
        order[j] = again ? n_ids : place[own[first + j]];
    }

    // what is not looked at may be anything, and NaN even: another cell is read in its place
    auto * there = g.give<int32_t>(1);
    auto * local = g.give<int32_t>(2);
    for (int64_t i0 = 0; i0 < n_old; i0 += n_block_likeness) {
        const int64_t n = std::min(n_block_likeness, n_old - i0);

        const auto    begin = order.begin() + i0;
        const int64_t known = std::find_if(begin, begin + n, [n_ids](int32_t i) { return i < n_ids; }) - begin;

        for (int64_t j = 0; j < n; ++j) {
            const bool is_known = order[i0 + j] < n_ids;
            there[i0 + j] = is_known ? own[first + i0 + j] : ids[0];
            if (v_trans) {
                local[i0 + j] = is_known ? j : known % n;
            }
        }
    }

    float * mask = g.give<float>(3);
    for (int64_t i = 0; i < n_new; ++i) {
        for (int64_t j = 0; j < n_old; ++j) {
            *mask++ = order[j] < n_ids - n_new + i ? 0.0f : lowest;
        }
    }
    for (size_t iw = 0; ahead_dead && iw < ahead_how.wanted.size(); ++iw) {
        float * dead_of = g.give<float>(4) + iw*n_old;
        for (int64_t j = 0; j < n_old; ++j) {
            dead_of[j] = is_dead(ahead_how.wanted[iw], own[first + j]) ? lowest : 0.0f;
        }
    }
}

int32_t llama_kv_evict::ahead(llama_seq_id seq, const int32_t * ids, int32_t n_ids, int32_t n_new, const int8_t * looked_at,
        bool by_head, float value_weight, float * weights, float * like) {
    if (!has_cells(seq, ids, n_ids) || n_new < 1 || n_new > std::min(n_ids, n_new_ahead) || !(value_weight >= 0.0f && std::isfinite(value_weight))) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    const auto it = all_asked.find(seq);
    if (weights && it == all_asked.end()) {
        return LLAMA_KV_EVICT_QUERIES;
    }

    const int64_t n_out = by_head ? n_head : n_head_kv;

    if (weights) {
        std::fill_n(weights, n_layer()*n_out*n_new, 0.0f);
    }
    if (like) {
        std::fill_n(like, n_layer()*n_head_kv*n_new, -1.0f);
    }

    ahead_kind how { wanted_layers(looked_at), by_head, like != nullptr, weights != nullptr, value_weight };
    if (how.wanted.empty() || !(weights || like)) {
        return LLAMA_KV_EVICT_OK;
    }

    lctx.synchronize();

    // llama.cpp pads what it attends to alike, so that the graph stays the same while the cache grows
    const int64_t n_kv = std::min<int64_t>(kv.get_size(), GGML_PAD(cells().used_max_p1(), 256));

    // columns of a transposed V can't be gathered
    const std::vector<int32_t> own = own_cells(seq, n_kv, !v_trans);

    auto & g = g_ahead[1];

    const int64_t n_at_once = n_ahead_blocks()*n_block_likeness;
    const int64_t n_own     = like ? own.size() : 1;

    for (int64_t first = 0; first < n_own; first += n_at_once) {
        const int64_t n_old = std::min(n_at_once, n_own - first);

        // the queries are asked once
        how.weighs = weights && first == 0;

        const int64_t start = v_trans ? first : 0;

        const bool same = g.n0 == start && g.n1 == n_old && g.n2 == n_new && ahead_how == how && ahead_dead == has_dead() && ahead_seq == seq;
        if (!same && !build_ahead(how.weighs ? it->second.get() : nullptr, start, n_old, n_new, how)) {
            return LLAMA_KV_EVICT_ALLOC;
        }
        take_ahead(seq, 1);
        set_ahead(ids, n_ids, own, first);
        if (!graph_compute(g)) {
            return LLAMA_KV_EVICT_COMPUTE;
        }

        for (size_t iw = 0; iw < how.wanted.size(); ++iw) {
            const auto & layer = layers[how.wanted[iw]];

            const float * data = graph_result(g, iw);

            if (how.weighs) {
                const int64_t n_one = by_head ? layer.n_gqa() : 1; // of each new cell and own KV head

                float * dst = weights + how.wanted[iw]*n_out*n_new;
                for (int64_t ih = 0; ih < n_out; ++ih) {
                    const int64_t own_kv = layer.own_kv(by_head ? ih/n_gqa : ih);
                    const int64_t ig     = by_head ? ih % n_gqa % n_one : 0;
                    for (int64_t i = 0; i < n_new; ++i) {
                        *dst++ = data[(own_kv*n_new + i)*n_one + ig];
                    }
                }
                data += n_new*layer.n_head_kv*n_one;
            }
            for (int64_t i0 = 0; like && i0 < n_old; i0 += n_block_likeness, data += n_new*layer.n_head_kv) {
                for (int64_t ih = 0; ih < n_head_kv; ++ih) {
                    float * dst = like + (how.wanted[iw]*n_head_kv + ih)*n_new;
                    for (int64_t i = 0; i < n_new; ++i) {
                        const float cur = data[layer.own_kv(ih)*n_new + i];
                        dst[i] = cur > dst[i] || std::isnan(cur) ? cur : dst[i];
                    }
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

bool llama_kv_evict::reserve_ahead(int64_t n_query, bool compares) {
    const auto wanted = wanted_layers(nullptr);
    const auto mine   = n_query > 0 ? make_asked(n_query) : nullptr;

    if (n_query > 0 && !mine) {
        return false;
    }
    const int64_t n_old = std::min<int64_t>(kv.get_size(), n_ahead_blocks()*n_block_likeness);

    return (!mine || build_ahead_prompt(*mine, n_block_prompt, wanted))
        && build_ahead(mine.get(), 0, n_old, n_new_ahead, { wanted, false, compares, mine != nullptr, 0.5f });
}

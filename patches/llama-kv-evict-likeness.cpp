#include "llama-kv-evict-impl.h"

#include "llama-context.h"

#include <algorithm>
#include <cmath>
#include <vector>

// how alike the newest cells are to those before them: products of the rows as they lie in the cache with new ones of
// unit length, divided by the lengths of the former. these are kept here, on the host: they follow the rows when they
// are moved, and a token that comes to lie in a cell makes them unknown

// cells whose lengths are computed at once
static constexpr int32_t n_block_lengths = 64;

static float length_of(const float * row, int64_t n) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        sum += row[i]*row[i];
    }
    return std::max(std::sqrt(sum), 1e-12f);
}

// those of a head, by cell
float * llama_kv_evict::lengths_of(bool values, uint32_t ikv, uint32_t ih) {
    return lengths.data() + ((values*n_layer() + ikv)*n_head_kv + ih)*cells().size();
}

void llama_kv_evict::forget_lengths(uint32_t cell) {
    for (uint32_t i = 0; !lengths.empty() && i < 2*n_layer()*n_head_kv; ++i) {
        lengths[(size_t) i*cells().size() + cell] = NAN;
    }
}

void llama_kv_evict::move_lengths(const int32_t * src, const int32_t * dst, int32_t n_move) {
    if (lengths.empty()) {
        return;
    }
    std::vector<float> moved(n_move);

    for (uint32_t i = 0; i < 2*n_layer()*n_head_kv; ++i) {
        const size_t first = i % (n_layer()*n_head_kv) * n_move;

        float * cur = lengths.data() + (size_t) i*cells().size();
        for (int32_t j = 0; j < n_move; ++j) {
            moved[j] = cur[src[first + j]];
        }
        for (int32_t j = 0; j < n_move; ++j) {
            cur[dst[first + j]] = moved[j];
        }
    }
}

int32_t llama_kv_evict::find_lengths(llama_seq_id seq, const int32_t * ids, int32_t n_ids) {
    std::vector<int32_t> unknown;
    std::vector<float>   data;

    // a head may have moved a row of known length into the cell
    std::vector<uint8_t> is_unknown(n_ids);
    for (uint32_t i = 0; i < 2*n_layer()*n_head_kv; ++i) {
        const float * cur = lengths.data() + (size_t) i*cells().size();
        for (int32_t j = 0; j < n_ids; ++j) {
            is_unknown[j] |= std::isnan(cur[ids[j]]);
        }
    }
    for (int32_t j = 0; j < n_ids; ++j) {
        if (is_unknown[j]) {
            unknown.push_back(ids[j]);
        }
    }

    for (int32_t i0 = 0; i0 < (int32_t) unknown.size(); i0 += n_block_lengths) {
        const int32_t n = std::min<int32_t>(n_block_lengths, unknown.size() - i0);

        for (bool values : { false, true }) {
            const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;

            data.resize(n_layer()*n_head_kv*n*n_embd_head);

            const int32_t status = rows(seq, values, unknown.data() + i0, n, data.data());
            if (status != LLAMA_KV_EVICT_OK) {
                return status;
            }
            const float * row = data.data();
            for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
                for (uint32_t ih = 0; ih < n_head_kv; ++ih) {
                    for (int32_t i = 0; i < n; ++i, row += n_embd_head) {
                        lengths_of(values, ikv, ih)[unknown[i0 + i]] = length_of(row, n_embd_head);
                    }
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// of some layers, in their order
bool llama_kv_evict::build_likeness(int64_t first, int64_t n_old, int64_t n_new, bool gather, const std::vector<uint32_t> & wanted) {
    auto & g = g_likeness;

    graph_begin(g, first, n_old, n_new);

    auto * ctx = g.ctx.get();

    // unit rows of K and of V, and what the products of each cell are multiplied by
    const int64_t n = n_layer();
    graph_inputs(g, {
        { GGML_TYPE_F32, { n_embd_head_k, n_new, n_head_kv, n }, 0 },
        { GGML_TYPE_F32, { n_embd_head_v, n_new, n_head_kv, n }, 0 },
        { GGML_TYPE_F32, { n_old, 1, n_head_kv, n }, 0 },
        { GGML_TYPE_F32, { n_old, 1, n_head_kv, n }, 0 },
        { GGML_TYPE_I32, { gather ? n_old : 0, 1, 1, 1 }, 0 },
    }, n_old*n_new*n_head_kv);

    likeness_layers = wanted;

    for (const uint32_t ikv : wanted) {
        const int64_t n_own = layers[ikv].n_head_kv; // those of doubles follow

        const auto part = [&](bool values) {
            ggml_tensor * t    = values ? layers[ikv].v : layers[ikv].k;
            const int64_t n    = values ? n_embd_head_v : n_embd_head_k;
            const auto    of_layer = [&](ggml_tensor * inp) {
                return ggml_view_3d(ctx, inp, inp->ne[0], inp->ne[1], n_own, inp->nb[1], inp->nb[2], ikv*inp->nb[3]);
            };

            if (gather) {
                t = build_rows(ctx, t, n, n_own, g.inp(4, ikv));
            } else if (values && v_trans) {
                const size_t size = ggml_type_size(t->type);
                const size_t line = cells().size()*size;
                t = ggml_view_3d(ctx, t, n_old, n, n_own, line, n*line, first*size);
                // the CPU widens and transposes much faster than it transposes alone
                t = ggml_cast(ctx, ggml_transpose(ctx, t), GGML_TYPE_F32);
            } else {
                t = ggml_view_3d(ctx, t, n, n_old, n_own, t->nb[1], ggml_row_size(t->type, n), first*t->nb[1]);
            }

            ggml_tensor * cur = g.first(ggml_mul_mat(ctx, t, of_layer(g.inp(values, ikv))), ikv);
            ggml_prec_set_acc(cur, GGML_PREC_F32);

            return ggml_mul(ctx, cur, of_layer(g.inp(2 + values, ikv)));
        };

        ggml_tensor * cur = part(false);
        cur = ggml_add(ctx, cur, part(true));

        graph_output(g, ikv, cur);
    }

    return graph_alloc(g);
}

// of some cells, for n_add new ones: unit rows, padded to those of the graph, and factors
void llama_kv_evict::set_likeness(const int32_t * own, const std::vector<float> & unit_k, const std::vector<float> & unit_v, float value_weight) {
    auto & g = g_likeness;

    std::copy(unit_k.begin(), unit_k.end(), g.give<float>(0));
    std::copy(unit_v.begin(), unit_v.end(), g.give<float>(1));

    for (bool values : { false, true }) {
        const int64_t n_old = g.n1;
        const float   whole = (values ? value_weight : 1.0f)/(1.0f + value_weight);

        for (const uint32_t ikv : likeness_layers) {
            float * cur = g.give<float>(2 + values) + ikv*n_head_kv*n_old;
            for (uint32_t ih = 0; ih < n_head_kv; ++ih) {
                const float * len = lengths_of(values, ikv, ih);
                for (int64_t j = 0; j < n_old; ++j) {
                    *cur++ = std::isnan(len[own[j]]) ? 0.0f : whole/len[own[j]];
                }
            }
        }
    }
    if (g.give_size(4) > 0) {
        std::copy_n(own, g.n1, g.give<int32_t>(4));
    }
}

// new rows are read once: their lengths are kept on the way
int32_t llama_kv_evict::unit_rows(llama_seq_id seq, bool values, const int32_t * ids, int32_t n_ids, std::vector<float> & out) {
    const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;

    out.resize(n_layer()*n_head_kv*n_ids*n_embd_head);

    const int32_t status = rows(seq, values, ids, n_ids, out.data());
    if (status != LLAMA_KV_EVICT_OK) {
        return status;
    }

    float * row = out.data();
    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        for (uint32_t ih = 0; ih < n_head_kv; ++ih) {
            for (int32_t i = 0; i < n_ids; ++i, row += n_embd_head) {
                const float len = length_of(row, n_embd_head);
                lengths_of(values, ikv, ih)[ids[i]] = len;
                std::transform(row, row + n_embd_head, row, [len](float x) { return x/len; });
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// the highest of those products of a row whose cells stand before `end` in the order; in lanes, so that it is vectorized
static float highest(const float * products, const int32_t * order, int64_t n, int32_t end) {
    float most[8];
    std::fill_n(most, 8, -1.0f);

    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        for (int64_t k = 0; k < 8; ++k) {
            const float cur = order[j + k] < end ? products[j + k] : -1.0f;
            most[k] = cur > most[k] ? cur : most[k];
        }
    }
    for (; j < n; ++j) {
        most[0] = order[j] < end && products[j] > most[0] ? products[j] : most[0];
    }
    return *std::max_element(most, most + 8);
}

int32_t llama_kv_evict::likeness(llama_seq_id seq, const int32_t * ids, int32_t n_ids, int32_t n_new, const int8_t * looked_at, float value_weight, float * out) {
    if (!has_cells(seq, ids, n_ids) || n_new < 0 || n_new > n_ids || !(value_weight >= 0.0f && std::isfinite(value_weight))) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }

    lctx.synchronize();

    std::fill_n(out, n_layer()*n_head_kv*n_new, -1.0f);

    const std::vector<uint32_t> wanted = wanted_layers(looked_at);
    if (wanted.empty()) {
        return LLAMA_KV_EVICT_OK;
    }

    lengths.resize(2*n_layer()*n_head_kv*cells().size(), NAN);

    int32_t status = find_lengths(seq, ids, n_ids - n_new);
    if (status != LLAMA_KV_EVICT_OK) {
        return status;
    }

    // llama.cpp pads what it attends to alike, so that the graph stays the same while the cache grows
    const int64_t n_kv = std::min<int64_t>(kv.get_size(), GGML_PAD(cells().used_max_p1(), 256));

    // columns of a transposed V can't be gathered
    const std::vector<int32_t> own = own_cells(seq, n_kv, !v_trans);

    const bool    gather = (int64_t) own.size() < n_kv;
    const int64_t n_own  = own.size();

    std::vector<float> unit_k;
    std::vector<float> unit_v;
    for (int32_t i0 = n_ids - n_new; i0 < n_ids; i0 += n_block_new) {
        const int32_t n_i = std::min(n_block_new, n_ids - i0);

        // padded by the first of them
        std::vector<int32_t> add(GGML_PAD(n_i, 8), ids[i0]);
        std::copy_n(ids + i0, n_i, add.begin());

        for (bool values : { false, true }) {
            status = unit_rows(seq, values, add.data(), add.size(), values ? unit_v : unit_k);
            if (status != LLAMA_KV_EVICT_OK) {
                return status;
            }
        }

        for (int64_t first = 0; first < n_own; first += n_block_likeness) {
            const int64_t n_old = std::min(n_block_likeness, n_own - first);
            const int64_t n_add = add.size();

            const int64_t start = gather ? -2 : first; // the graph's first cell, if it has one

            const bool same = g_likeness.n0 == start && g_likeness.n1 == n_old && g_likeness.n2 == n_add && likeness_layers == wanted;
            if (!same && !build_likeness(start, n_old, n_add, gather, wanted)) {
                return LLAMA_KV_EVICT_ALLOC;
            }
            set_likeness(own.data() + first, unit_k, unit_v, value_weight);
            if (!graph_compute(g_likeness)) {
                return LLAMA_KV_EVICT_COMPUTE;
            }

            // where in the list each cell stands: only those before the new one count, and no dead row
            std::vector<int32_t> at(cells().size(), -1);
            for (int64_t j = n_old; j-- > 0; ) {
                at[own[first + j]] = j;
            }
            std::vector<int32_t> order(n_old);

            for (size_t iw = 0; iw < wanted.size(); ++iw) {
                const uint32_t ikv = wanted[iw];

                std::fill(order.begin(), order.end(), n_ids);
                for (int32_t j = 0; j < i0 + n_i; ++j) {
                    if (at[ids[j]] >= 0 && !is_dead(ikv, ids[j])) {
                        order[at[ids[j]]] = j;
                    }
                }
                const float * data = graph_result(g_likeness, iw);

                for (uint32_t ih = 0; ih < n_head_kv; ++ih) {
                    for (int32_t i = 0; i < n_i; ++i) {
                        const float most = highest(data + (layers[ikv].own_kv(ih)*n_add + i)*n_old, order.data(), n_old, i0 + i);

                        float & res = out[(ikv*n_head_kv + ih)*n_new + i0 - (n_ids - n_new) + i];
                        res = std::max(res, most);
                    }
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

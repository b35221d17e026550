#include "llama-kv-evict-impl.h"

#include "llama-context.h"
#include "llama-memory-recurrent.h"

#include <algorithm>
#include <vector>

// rows of K and V for the caller. they are read as they lie and converted here: fewer bytes than floats leave the device,
// and no backend has to know how to convert the type

static void to_floats(ggml_type type, const void * src, float * dst, int64_t n) {
    if (type == GGML_TYPE_F32) {
        std::copy_n((const float *) src, n, dst);
    } else {
        ggml_get_type_traits(type)->to_float(src, dst, n);
    }
}

bool llama_kv_evict::is_host() const {
    return std::all_of(layers.begin(), layers.end(), [](const layer & cur) {
        return ggml_backend_buft_is_host(ggml_backend_buffer_get_type(cur.v->buffer));
    });
}

bool llama_kv_evict::build_read(bool values, int64_t n_ids) {
    auto & g = g_rows[values];

    graph_begin(g, n_ids, 0, 0);

    auto * ctx = g.ctx.get();

    const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;

    // what one layer's rows are as words, or the values of columns
    const auto n_words = [&](const layer & cur) {
        return values && v_trans ? n_ids*n_embd_head*cur.n_head_kv : n_ids*ggml_row_size((values ? cur.v : cur.k)->type, n_embd_head)*cur.n_head_kv/sizeof(float);
    };
    size_t n_out = 0;
    for (const auto & layer : layers) {
        n_out = std::max<size_t>(n_out, n_words(layer));
    }
    graph_inputs(g, { { GGML_TYPE_I32, { n_ids, 1, 1, 1 }, 0 } }, n_out);

    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        const auto & layer = layers[ikv];

        auto * ids = g.inp(0, ikv);
        if (values && v_trans) {
            const int64_t n_values = n_embd_head*layer.n_head_kv;
            auto * all = repeat_lists(ctx, ids, 1, n_values, 0);
            g.first(all->view_src, ikv);
            graph_output(g, ikv, g.first(ggml_get_rows(ctx, view_values(ctx, layer.v, n_values, 1), all), ikv));
        } else {
            graph_output(g, ikv, g.first(ggml_get_rows(ctx, view_words(ctx, values ? layer.v : layer.k, n_embd_head*layer.n_head_kv, 1), ids), ikv));
        }
    }

    return graph_alloc(g);
}

// gathered on the device: each layer takes one transfer, however far apart its cells lie. they are n of n_ids, the first
// of which is out's
int32_t llama_kv_evict::read_rows(bool values, const int32_t * ids, int32_t n, int32_t n_ids, float * out) {
    auto & g = g_rows[values];

    if (g.n0 != n && !build_read(values, n)) {
        return LLAMA_KV_EVICT_ALLOC;
    }
    std::copy_n(ids, n, g.give<int32_t>(0));
    if (!graph_compute(g)) {
        return LLAMA_KV_EVICT_COMPUTE;
    }

    const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;

    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        const float   * data      = graph_result(g, ikv);
        const auto    & layer     = layers[ikv];
        const ggml_type type      = values ? layer.v->type : layer.k->type;
        const size_t    size_head = ggml_row_size(type, n_embd_head);

        for (int64_t ih = 0; ih < n_head_kv; ++ih) {
            for (int64_t i = 0; i < n; ++i) {
                float * dst = out + ((ikv*n_head_kv + ih)*n_ids + i)*n_embd_head;

                if (values && v_trans) {
                    const float * lines = data + layer.own_kv(ih)*n_embd_head*n + i;
                    for (int64_t iv = 0; iv < n_embd_head; ++iv) {
                        dst[iv] = lines[iv*n];
                    }
                } else {
                    to_floats(type, (const uint8_t *) data + (i*layer.n_head_kv + layer.own_kv(ih))*size_head, dst, n_embd_head);
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// V where it lies transposed, a line for each value: of cells side by side a piece of each line
void llama_kv_evict::read_columns(const int32_t * ids, int32_t n_ids, float * out) const {
    std::vector<uint8_t> data;
    std::vector<float>   lines;

    for (const auto & layer : layers) {
        const size_t  size     = ggml_type_size(layer.v->type);
        const int64_t n_values = n_embd_head_v*layer.n_head_kv;

        for (int64_t i0 = 0, i1; i0 < n_ids; i0 = i1) {
            for (i1 = i0 + 1; i1 < n_ids && ids[i1] == ids[i1 - 1] + 1; ++i1) {}
            const int64_t n = i1 - i0;

            data .resize(n_values*n*size);
            lines.resize(n_values*n);
            ggml_backend_tensor_get_2d(layer.v, data.data(), ids[i0]*size, n*size, n_values, cells().size()*size, n*size);
            to_floats(layer.v->type, data.data(), lines.data(), lines.size());

            for (int64_t iv = 0; iv < (int64_t) n_embd_head_v*n_head_kv; ++iv) {
                const int64_t ih   = iv/n_embd_head_v;
                const float * line = lines.data() + (layer.own_kv(ih)*n_embd_head_v + iv % n_embd_head_v)*n;
                for (int64_t i = 0; i < n; ++i) {
                    out[(ih*n_ids + i0 + i)*n_embd_head_v + iv % n_embd_head_v] = line[i];
                }
            }
        }
        out += (size_t) n_embd_head_v*n_head_kv*n_ids;
    }
}

int32_t llama_kv_evict::rows(llama_seq_id seq, bool values, const int32_t * ids, int32_t n_ids, float * out) {
    if (!has_cells(seq, ids, n_ids)) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }

    lctx.synchronize();

    // a device would take a transfer for each value
    if (values && v_trans && is_host()) {
        read_columns(ids, n_ids, out);
        return LLAMA_KV_EVICT_OK;
    }

    const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;

    for (int32_t i = 0; i < n_ids; i += n_block_rows) {
        const int32_t status = read_rows(values, ids + i, std::min(n_block_rows, n_ids - i), n_ids, out + i*n_embd_head);
        if (status != LLAMA_KV_EVICT_OK) {
            return status;
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// set n bytes to 0, a block at a time
static void zero(ggml_tensor * t, size_t offset, size_t n) {
    static const std::vector<uint8_t> zeros(1 << 20);

    for (size_t i = 0; i < n; i += zeros.size()) {
        ggml_backend_tensor_set(t, zeros.data(), offset + i, std::min(zeros.size(), n - i));
    }
}

// call f(i0, i1) for each run of cells that no sequence has
template <typename Cells, typename F>
static void for_each_free(size_t n, const Cells & is_empty, const F & f) {
    for (size_t i0 = 0, i1; i0 < n; i0 = i1) {
        i1 = i0 + 1;
        if (!is_empty(i0)) {
            continue;
        }
        for (; i1 < n && is_empty(i1); ++i1) {}

        f(i0, i1);
    }
}

void llama_kv_evict::zero_free(llama_kv_cache & kv) {
    const auto & cells = kv.v_cells[0];
    const size_t n     = cells.size();

    for_each_free(n, [&](size_t i) { return cells.is_empty(i); }, [&](size_t i0, size_t i1) {
        for (const auto & layer : kv.layers) {
            zero(layer.k, i0*layer.k->nb[1], (i1 - i0)*layer.k->nb[1]);
            if (!layer.v) {
                continue;
            }
            if (!kv.v_trans) {
                zero(layer.v, i0*layer.v->nb[1], (i1 - i0)*layer.v->nb[1]);
                continue;
            }
            const size_t size = ggml_type_size(layer.v->type);
            for (int64_t iv = 0; iv < layer.v->ne[0]; ++iv) {
                zero(layer.v, (iv*n + i0)*size, (i1 - i0)*size);
            }
        }
    });
}

// llama.cpp multiplies the state that a new sequence begins with by 0
void llama_kv_evict::zero_free(llama_memory_recurrent & state) {
    const auto is_empty = [&](size_t i) { return state.cells[i].is_empty(); };

    for_each_free(state.cells.size(), is_empty, [&](size_t i0, size_t i1) {
        for (const auto * layers : { &state.r_l, &state.s_l, &state.p_l }) {
            for (auto * t : *layers) {
                for (int64_t row = i0; t && row < t->ne[1]; row += state.size) {
                    zero(t, row*t->nb[1], (i1 - i0)*t->nb[1]);
                }
            }
        }
    });
}

int32_t llama_kv_evict::zero_free(llama_context & lctx) {
    int32_t status;
    const auto parts = find_parts(lctx, status);

    if (!parts.kv && !parts.state) {
        return status;
    }

    lctx.synchronize();

    for (auto * kv : { parts.kv, parts.window }) {
        if (kv) {
            zero_free(*kv);
        }
    }
    if (parts.state) {
        zero_free(*parts.state);
    }

    return LLAMA_KV_EVICT_OK;
}

#include "llama-kv-evict-impl.h"

#include "llama-context.h"

#include <algorithm>
#include <vector>

// rows of K and V for the caller. they are read as they lie and converted here: fewer bytes than floats leave the
// device, and no backend has to know how to convert the type

static void to_floats(ggml_type type, const void * src, float * dst, int64_t n) {
    if (type == GGML_TYPE_F32) {
        std::copy_n((const float *) src, n, dst);
    } else {
        ggml_get_type_traits(type)->to_float(src, dst, n);
    }
}

int32_t llama_kv_evict::rows(llama_seq_id seq, bool values, const int32_t * ids, int32_t n_ids, float * out) const {
    if (n_ids < 0) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }

    int32_t n_rows = 0; // that must be read to have all of them

    for (int32_t i = 0; i < n_ids; ++i) {
        if (ids[i] < 0 || ids[i] >= (int32_t) cells().size() || cells().is_empty(ids[i]) || !cells().seq_has(ids[i], seq)) {
            return LLAMA_KV_EVICT_ARGUMENT;
        }
        n_rows = std::max(n_rows, ids[i] + 1);
    }
    if (n_rows == 0) {
        return LLAMA_KV_EVICT_OK;
    }

    lctx.synchronize();

    const int64_t n_embd_head = values ? n_embd_head_v : n_embd_head_k;
    const bool    transposed  = values && v_trans;

    // a few rows are fetched one by one, many with all that lies between them
    const bool few = !transposed && n_ids < n_rows/8;

    std::vector<uint8_t> data;

    for (const auto & layer : kv.layers) {
        const ggml_tensor * t = values ? layer.v : layer.k;

        // transposed, a line has one value of all cells, otherwise the values of one cell
        const size_t size_head = ggml_row_size(t->type, n_embd_head);
        const size_t size_line = transposed ? ggml_row_size(t->type, cells().size()) : t->nb[1];
        const size_t size_elem = ggml_type_size(t->type);

        data.resize(transposed ? n_embd_head*n_head_kv*size_line : (few ? n_ids : n_rows)*size_line);
        for (int32_t i = 0; i < n_ids && few; ++i) {
            ggml_backend_tensor_get(t, data.data() + i*size_line, ids[i]*size_line, size_line);
        }
        if (!few) {
            ggml_backend_tensor_get(t, data.data(), 0, data.size());
        }

        for (int64_t ih = 0; ih < n_head_kv; ++ih) {
            for (int32_t i = 0; i < n_ids; ++i, out += n_embd_head) {
                if (!transposed) {
                    to_floats(t->type, data.data() + (few ? i : ids[i])*size_line + ih*size_head, out, n_embd_head);
                    continue;
                }
                for (int64_t j = 0; j < n_embd_head; ++j) {
                    to_floats(t->type, data.data() + (ih*n_embd_head + j)*size_line + ids[i]*size_elem, out + j, 1);
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

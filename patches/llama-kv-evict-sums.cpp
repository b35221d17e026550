#include "llama-kv-evict-impl.h"
#include "llama-kv-evict-hook.h"

#include "llama-context.h"

#include <algorithm>
#include <map>

// without flash attention the softmax weights are a tensor of the decode graph. their sum over the queries since the
// last scores() or apply() is kept there, in a row of cells for each sequence, so that scores() need not compute
// them a second time. where the sum is not the one that is asked for, the recorded queries serve

class llm_graph_input_sum_rows : public llm_graph_input_i {
public:
    llm_graph_input_sum_rows(llama_kv_evict & ke, uint32_t n_kv) : ke(ke), n_kv(n_kv) {}

    void set_input(const llama_ubatch * ubatch) override {
        const int32_t row_src = ke.begin_sum(*ubatch, n_kv);

        std::fill_n((int32_t *) src->data, src->ne[1], row_src);
        *(int64_t *) dst->data = ke.sum_row(ubatch->seq_id[0][0]);
    }

    // the attention's own inputs tell whether the sizes are the same
    bool can_reuse(const llm_graph_params & params) override {
        GGML_UNUSED(params);
        return true;
    }

    llama_kv_evict & ke;

    const uint32_t n_kv;

    ggml_tensor * src = nullptr; // I32 [1, n_head_kv], the row to add to
    ggml_tensor * dst = nullptr; // I64 [1]

    std::map<int32_t, ggml_tensor *> sums; // of each layer of the cache, while the graph is built
};

// the weights that the queries of a ubatch gave are the columns of one sequence, and few
bool llama_kv_evict::has_sum(const llama_ubatch & ubatch) const {
    return v_trans && ubatch.n_seqs_unq == 1 && ubatch.n_tokens <= std::min(n_window, n_sum_max);
}

int32_t llama_kv_evict::begin_sum(const llama_ubatch & ubatch, uint32_t n_kv) {
    const llama_seq_id seq = ubatch.seq_id[0][0];

    // without a slot nothing is kept
    if (!has_slot(seq)) {
        return n_slots;
    }

    auto & sum = sums[seq];

    const uint32_t n_cells = cells().seq_pos_get(seq).size();

    // nothing but the cells of these tokens was added since, and nothing was taken away
    const bool goes_on = sum.n_query > 0 && !sum.read && sum.n_kv == n_kv && sum.n_cells + ubatch.n_tokens == n_cells;

    sum.n_query = ubatch.n_tokens + (goes_on ? sum.n_query : 0);
    sum.n_kv    = n_kv;
    sum.n_cells = n_cells;
    sum.read    = false;

    return goes_on ? sum_row(seq) : n_slots;
}

// n_query of the newest queries are recorded, as n_queries() tells
bool llama_kv_evict::is_summed(llama_seq_id seq, int32_t n_query) const {
    return sums[seq].n_query == (uint32_t) n_query && sums[seq].n_cells == cells().seq_pos_get(seq).size();
}

void llama_kv_evict::hook_weights(const llm_graph_context & graph, ggml_tensor * kq, int il) {
    const auto it = layer_of.find(il);
    if (it == layer_of.end() || !has_sum(graph.ubatch)) {
        return;
    }

    const auto  & layer = layers[it->second];
    const int64_t n_kv  = kq->ne[0];

    llm_graph_input_sum_rows * inp = nullptr;
    for (const auto & cur : graph.res->inputs) {
        if ((inp = dynamic_cast<llm_graph_input_sum_rows *>(cur.get()))) {
            break;
        }
    }
    if (!inp) {
        auto cur = std::make_unique<llm_graph_input_sum_rows>(*this, n_kv);
        cur->src = ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_I32, 1, n_head_kv);
        cur->dst = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I64, 1);
        for (auto * t : { cur->src, cur->dst }) {
            ggml_set_input(t);
            graph.cb(t, "kv_evict_sums", -1);
        }
        inp = static_cast<llm_graph_input_sum_rows *>(graph.res->add_input(std::move(cur)));
    }

    // [n_kv, n_sum_rows(), n_head_kv]
    ggml_tensor * w = layer.w;
    w = ggml_view_3d(graph.ctx0, w, n_kv, w->ne[2], layer.n_head_kv, w->nb[2], w->nb[1], 0);

    // the columns of a KV group lie one after the other
    ggml_tensor * cur = sum_blocks(graph.ctx0, ggml_reshape_3d(graph.ctx0, kq, n_kv, kq->ne[1]*kq->ne[2]/layer.n_head_kv, layer.n_head_kv), 1);

    // a layer that attends to the cells of an earlier one goes on with what that one has added up
    auto & sum = inp->sums[it->second];
    ggml_tensor * src = layer.n_head_kv == n_head_kv ? inp->src : ggml_view_2d(graph.ctx0, inp->src, 1, layer.n_head_kv, inp->src->nb[1], 0);
    sum = cur  = ggml_add(graph.ctx0, sum ? sum : ggml_get_rows(graph.ctx0, w, src), cur);

    ggml_build_forward_expand(graph.gf, ggml_set_rows(graph.ctx0, w, cur, inp->dst));
}

void llama_kv_evict_hook_weights(const llm_graph_context & graph, ggml_tensor * kq, int il) {
    if (graph.cparams.kv_evict) {
        graph.cparams.kv_evict->hook_weights(graph, kq, il);
    }
}

void llama_kv_evict::read_sums(llama_seq_id seq, const int32_t * ids, int32_t n_ids, float * out) const {
    const auto & cur = cells();

    std::vector<float> data;

    for (const auto & [w, ikvs] : all_sums) {
        data.resize(w->nb[3]/sizeof(float));
        ggml_backend_tensor_get(w, data.data(), sum_row(seq)*w->nb[3], w->nb[3]);

        for (size_t il = 0; il < ikvs.size(); ++il) {
            for (uint32_t ih = 0; ih < n_head_kv; ++ih) {
                const float * row = data.data() + (il*n_head_kv + layers[ikvs[il]].own_kv(ih))*cur.size();
                float       * dst = out + (ikvs[il]*n_head_kv + ih)*n_ids;
                for (int32_t i = 0; i < n_ids; ++i) {
                    // the row holds anything where the sequence has no cell
                    dst[i] = !cur.is_empty(ids[i]) && cur.seq_has(ids[i], seq) ? row[ids[i]] : 0.0f;
                }
            }
        }
    }
}

void llama_kv_evict::write_sums(llama_seq_id seq, const int32_t * ids, int32_t n_ids, const float * src) {
    for (const auto & layer : layers) {
        std::vector<float> data(cells().size()*layer.n_head_kv, 0.0f);
        for (uint32_t ih = 0; ih < n_head_kv; ++ih) {
            for (int32_t i = 0; i < n_ids; ++i) {
                data[layer.own_kv(ih)*cells().size() + ids[i]] = *src++;
            }
        }
        ggml_backend_tensor_set(layer.w, data.data(), sum_row(seq)*layer.w->nb[2], data.size()*sizeof(float));
    }
}

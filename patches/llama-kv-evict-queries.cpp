#include "llama-kv-evict-impl.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <vector>

// recorded queries for the caller, turned by RoPE to another position: as if the same were asked there

// a second turn must not lengthen the vectors again, as YaRN does
static float unit_attn_factor(const llama_cparams & cparams, float freq_scale) {
    return cparams.yarn_ext_factor != 0.0f ? 1.0f/(1.0f + 0.1f*logf(1.0f/freq_scale)) : 1.0f;
}

ggml_tensor * llama_kv_evict::build_layer_queries(ggml_context * ctx, uint32_t ikv, int64_t n_query, ggml_tensor * rows, ggml_tensor * shift, ggml_tensor * rot) const {
    const auto & model   = lctx.get_model();
    const auto & hparams = model.hparams;
    const auto & cparams = lctx.cparams;

    const uint32_t il = layers[ikv].il;

    ggml_tensor * q = ggml_get_rows(ctx, layers[ikv].readers[0].q, rows);
    q = ggml_reshape_3d(ctx, q, n_embd_head_k, layers[ikv].n_head, n_query);

    if (hparams.rope_type != LLAMA_ROPE_TYPE_NONE && hparams.has_rope(il)) {
        // as llama.cpp turns keys (llama_kv_cache::build_rope_shift)
        const bool  is_mrope   = hparams.rope_type == LLAMA_ROPE_TYPE_MROPE || hparams.rope_type == LLAMA_ROPE_TYPE_IMROPE;
        const float freq_base  = model.get_rope_freq_base (cparams, il);
        const float freq_scale = model.get_rope_freq_scale(cparams, il);

        q = rot ? llama_mul_mat_hadamard(ctx, q, rot) : q;
        q = ggml_rope_ext(ctx, q, shift, model.get_rope_factors(cparams, il), hparams.n_rot(il),
                is_mrope ? LLAMA_ROPE_TYPE_NEOX : hparams.rope_type, cparams.n_ctx_orig_yarn, freq_base, freq_scale,
                cparams.yarn_ext_factor, unit_attn_factor(cparams, freq_scale), cparams.yarn_beta_fast, cparams.yarn_beta_slow);
        q = rot ? llama_mul_mat_hadamard(ctx, q, rot) : q;
    }

    return ggml_scale(ctx, q, layers[ikv].readers[0].kq_scale);
}

bool llama_kv_evict::build_queries(int64_t n_query) {
    auto & g = g_queries;

    graph_begin(g, n_query, 0, 0);

    auto * ctx = g.ctx.get();

    graph_inputs(g, { { GGML_TYPE_I32, { n_query, 1, 1, 1 }, 0 }, { GGML_TYPE_I32, { n_query, 1, 1, 1 }, 0 } }, (int64_t) n_embd_head_k*n_head*n_query);

    queries_rot = kv.build_input_k_rot(ctx);

    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        graph_output(g, ikv, build_layer_queries(ctx, ikv, n_query, g.inp(0, ikv), g.inp(1, ikv), queries_rot));
    }

    return graph_alloc(g);
}

int32_t llama_kv_evict::queries(llama_seq_id seq, int32_t n_query, llama_pos pos, float * out) {
    if (n_query < 1 || pos < 0) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    if (n_query > n_queries(seq)) {
        return LLAMA_KV_EVICT_QUERIES;
    }

    lctx.synchronize();

    const llama_pos first = cells().seq_pos_max(seq) - n_query + 1;

    for (int32_t i0 = 0; i0 < n_query; i0 += n_block_queries) {
        const int32_t n = std::min(n_block_queries, n_query - i0);

        if (g_queries.n0 != n && !build_queries(n)) {
            return LLAMA_KV_EVICT_ALLOC;
        }
        if (!turn_queries(seq, first + i0, n, pos)) {
            return LLAMA_KV_EVICT_COMPUTE;
        }

        // [n_embd_head, own n_head, n] of each layer, head by head
        float * dst = out + (size_t) i0*n_embd_head_k;
        for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
            const auto & layer = layers[ikv];

            const float * data = graph_result(g_queries, ikv);
            for (uint32_t ih = 0; ih < n_head; ++ih, dst += (size_t) n_query*n_embd_head_k) {
                const float * src = data + (size_t) layer.own_q(ih/n_gqa, ih % n_gqa)*n_embd_head_k;
                for (int32_t iq = 0; iq < n; ++iq) {
                    std::copy_n(src + (size_t) iq*layer.n_head*n_embd_head_k, n_embd_head_k, dst + (size_t) iq*n_embd_head_k);
                }
            }
        }
    }

    return LLAMA_KV_EVICT_OK;
}

// those of n positions from own on, as they would be at pos
bool llama_kv_evict::turn_queries(llama_seq_id seq, llama_pos own, int32_t n, llama_pos pos) {
    for (int32_t i = 0; i < n; ++i) {
        g_queries.give<int32_t>(0)[i] = row_of(seq, own + i);
        g_queries.give<int32_t>(1)[i] = pos - own - i;
    }
    if (queries_rot && queries_rot->buffer) {
        kv.set_input_k_rot(queries_rot);
    }
    return graph_compute(g_queries);
}

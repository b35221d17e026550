#include "llama-kv-evict-impl.h"

#include "llama-context.h"
#include "llama-model.h"

#include <algorithm>
#include <map>
#include <numeric>

// how much memory a context holds, and having it hold all that it will need. a model without memory (no_alloc) goes
// the same way: its buffers are measured in place of being allocated

// the buffers of a graph
bool llama_kv_evict::graph_reserve(llama_kv_evict_graph & g) {
    if (!lctx.get_model().hparams.no_alloc) {
        return ggml_backend_sched_reserve(g.sched.get(), g.gf);
    }

    std::vector<size_t> sizes(lctx.backend_ptrs.size());
    ggml_backend_sched_reserve_size(g.sched.get(), g.gf, sizes.data());

    // buffers only grow
    g.sizes.resize(sizes.size());
    std::transform(sizes.begin(), sizes.end(), g.sizes.begin(), g.sizes.begin(), [](size_t a, size_t b) { return std::max(a, b); });

    return true;
}

int32_t llama_kv_evict::reserve(const llama_kv_evict_needs & needs) {
    if (needs.n_scores < 0 || needs.n_queries < 0 || needs.n_asked < 0 || needs.n_move < 0 || needs.n_move > (int64_t) kv.get_size()) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }

    const int64_t n_kv   = kv.get_size();
    const int64_t n_half = n_kv/2/256*256; // as many are gathered at most
    const int64_t n_out  = needs.by_head ? n_gqa : 1;

    lctx.synchronize();

    // a mask of dead rows is part of the graphs, of that of llama_decode() too
    std::vector<uint8_t> before(needs.dead ? n_layer()*n_kv : 0);
    before.swap(dead);

    // at the end, and where memory that is not there is thrown on the way
    struct restore {
        llama_kv_evict & ke;
        std::vector<uint8_t> & before;

        ~restore() {
            ke.reserving = false;
            before.swap(ke.dead);
        }
    };
    const restore restored { *this, before };

    if (needs.dead && !may_die) {
        lctx.sched_need_reserve = true;
        lctx.sched_reserve();
    }

    reserving = true;

    bool ok = true;
    if (needs.n_scores > 0) {
        const int64_t n = std::min<int64_t>(needs.n_scores, n_block_scores());
        ok = ok && build_scores(n_kv, n, n_out, false);
        ok = ok && (n_half == 0 || build_scores(n_half, n, n_out, true));
    }
    if (needs.n_queries > 0) {
        ok = ok && build_queries(std::min<int64_t>(needs.n_queries, n_block_queries));
    }
    if (needs.n_move > 0) {
        ok = ok && build_moves(needs.n_move);
    }
    for (const bool values : { false, true }) {
        if ((values ? needs.values : needs.keys) && !(values && v_trans && is_host())) {
            ok = ok && build_read(values, n_block_rows);
        }
    }
    if (!is_host()) {
        ok = ok && ((needs.n_asked == 0 && !needs.likeness) || reserve_ahead(needs.n_asked, needs.likeness));
    } else if (needs.likeness) {
        std::vector<uint32_t> all(n_layer());
        std::iota(all.begin(), all.end(), 0);
        ok = ok && build_likeness(0, std::min(n_kv, n_block_likeness), n_block_new, false, all);
        ok = ok && (v_trans || n_half == 0 || build_likeness(0, std::min(n_half, n_block_likeness), n_block_new, true, all));
    }

    may_die   |= needs.dead;
    may_match |= needs.likeness && is_host();

    return ok ? LLAMA_KV_EVICT_OK : LLAMA_KV_EVICT_ALLOC;
}

void llama_kv_evict::memory(const llama_context & lctx, size_t * out) {
    const bool no_alloc = lctx.get_model().hparams.no_alloc;

    std::fill_n(out, 2*LLAMA_KV_EVICT_N_MEMORY, 0);

    const auto add = [out](llama_kv_evict_memory_kind kind, ggml_backend_buffer_type_t buft, size_t size) {
        out[2*kind + !ggml_backend_buft_is_host(buft)] += size;
    };
    int32_t status;
    const auto parts = find_parts(lctx, status);
    const auto cells = parts.kv ? parts.kv->memory_breakdown() : std::map<ggml_backend_buffer_type_t, size_t>();

    for (const auto & [buft, size] : lctx.memory_breakdown()) {
        const auto   it      = cells.find(buft);
        const size_t n_cells = it == cells.end() ? 0 : it->second;

        add(LLAMA_KV_EVICT_MEMORY_CELLS,   buft, n_cells);
        add(LLAMA_KV_EVICT_MEMORY_BESIDE,  buft, size.context - n_cells);
        add(LLAMA_KV_EVICT_MEMORY_COMPUTE, buft, size.compute);
    }
    if (lctx.buf_output) {
        add(LLAMA_KV_EVICT_MEMORY_OUTPUT, ggml_backend_buffer_get_type(lctx.buf_output.get()), ggml_backend_buffer_get_size(lctx.buf_output.get()));
    }

    const auto * ke = get(lctx);
    if (!ke) {
        return;
    }

    for (const auto & [ctx, buf] : ke->ctxs_bufs) {
        auto * buft = ggml_backend_buffer_get_type(buf.get());
        add(LLAMA_KV_EVICT_MEMORY_QUERIES, buft,
                no_alloc ? ggml_backend_alloc_ctx_tensors_from_buft_size(ctx.get(), buft) : ggml_backend_buffer_get_size(buf.get()));
    }
    for (const auto & [seq, asked] : ke->all_asked) {
        for (const auto & part : asked->parts) {
            add(LLAMA_KV_EVICT_MEMORY_QUERIES, ggml_backend_buffer_get_type(part.buf.get()), ggml_backend_buffer_get_size(part.buf.get()));
        }
    }
    for (const auto * g : { &ke->g_scores, &ke->g_moves, &ke->g_rows[0], &ke->g_rows[1], &ke->g_queries, &ke->g_likeness, &ke->g_ahead[0], &ke->g_ahead[1] }) {
        for (size_t i = 0; g->sched && i < lctx.backend_ptrs.size(); ++i) {
            add(LLAMA_KV_EVICT_MEMORY_SCRATCH, lctx.backend_buft[i],
                    no_alloc ? (g->sizes.empty() ? 0 : g->sizes[i]) : ggml_backend_sched_get_buffer_size(g->sched.get(), lctx.backend_ptrs[i]));
        }
    }

    // on the host
    const size_t n_rows = ke->n_layer()*ke->kv.get_size();
    if (ke->may_die || ke->has_dead()) {
        out[2*LLAMA_KV_EVICT_MEMORY_SCRATCH] += n_rows*sizeof(ke->dead[0]);
    }
    if (ke->may_match || !ke->lengths.empty()) {
        out[2*LLAMA_KV_EVICT_MEMORY_SCRATCH] += 2*n_rows*ke->n_head_kv*sizeof(ke->lengths[0]);
    }
}

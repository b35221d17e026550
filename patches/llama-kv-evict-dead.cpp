#include "llama-kv-evict-impl.h"

#include "llama-context.h"

#include <algorithm>
#include <cmath>
#include <limits>

// which rows are dead is kept here, on the host, and enters the graphs as a mask of each layer. llama.cpp frees and
// fills cells without a word to us, so that what is said of an empty cell means nothing, and a token that comes to lie
// in a cell revives it

void llama_kv_evict::mask_dead(uint32_t ikv, const std::vector<int32_t> & own, float * mask) const {
    for (size_t i = 0; i < own.size(); ++i) {
        mask[i] = is_dead(ikv, own[i]) ? -INFINITY : 0.0f;
    }
}

void llama_kv_evict::mask_dead(uint32_t ikv, int64_t n_kv, float * mask) const {
    if (!has_dead()) {
        return;
    }

    const uint8_t * row = dead.data() + (size_t) ikv*cells().size();
    for (int64_t i = 0; i < std::min<int64_t>(n_kv, cells().size()); ++i) {
        mask[i] = row[i] ? -INFINITY : 0.0f;
    }
}

void llama_kv_evict::revive(uint32_t cell) {
    for (uint32_t ikv = 0; has_dead() && ikv < n_layer(); ++ikv) {
        dead[(size_t) ikv*cells().size() + cell] = 0;
    }
}

// what was known of the rows that lay in these cells holds no longer
void llama_kv_evict::renew(const llama_ubatch & ubatch) {
    for (uint32_t i = 0; i < ubatch.n_tokens && (has_dead() || !lengths.empty()); ++i) {
        const auto & set = cells().seq_pos_get(ubatch.seq_id[i][0]);
        for (auto it = set.lower_bound({ ubatch.pos[i], 0 }); it != set.end() && it->first == ubatch.pos[i]; ++it) {
            revive(it->second);
            forget_lengths(it->second);
        }
    }
}

void llama_kv_evict::prune_dead() {
    for (uint32_t i = 0; has_dead() && i < cells().size(); ++i) {
        if (cells().is_empty(i)) {
            revive(i);
        }
    }
    if (std::find(dead.begin(), dead.end(), 1) == dead.end()) {
        dead.clear();
    }
}

llama_pos llama_kv_evict::first_seen(llama_seq_id seq) const {
    llama_pos res = cells().seq_pos_min(seq);

    const auto & set = cells().seq_pos_get(seq);

    for (uint32_t ikv = 0; has_dead() && ikv < n_layer(); ++ikv) {
        const auto it = std::find_if(set.begin(), set.end(), [&](const auto & cell) { return !is_dead(ikv, cell.second); });
        res = std::max(res, it == set.end() ? std::numeric_limits<llama_pos>::max() : it->first);
    }
    return res;
}

int32_t llama_kv_evict::set_dead(llama_seq_id seq, const int32_t * ids, int32_t n_ids, const int8_t * values) {
    const auto & cur = cells();

    if (!has_cells(seq, ids, n_ids)) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    for (int32_t i = 0; i < n_ids; ++i) {
        for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
            if (values[(size_t) ikv*n_ids + i] && !owns(seq, ids[i])) {
                return LLAMA_KV_EVICT_SHARED;
            }
        }
    }

    const bool had_dead = has_dead();

    dead.resize(n_layer()*cur.size(), 0);
    for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
        for (int32_t i = 0; i < n_ids; ++i) {
            dead[(size_t) ikv*cur.size() + ids[i]] = values[(size_t) ikv*n_ids + i] != 0;
        }
    }
    prune_dead();

    // weights that were added up fell on other rows; the decode graph gains or loses a mask
    sums[seq] = {};
    lctx.sched_need_reserve |= has_dead() != had_dead && !may_die;

    return LLAMA_KV_EVICT_OK;
}

int32_t llama_kv_evict::get_dead(llama_seq_id seq, const int32_t * ids, int32_t n_ids, int8_t * values) const {
    if (!has_cells(seq, ids, n_ids)) {
        return LLAMA_KV_EVICT_ARGUMENT;
    }
    for (int32_t i = 0; i < n_ids; ++i) {
        for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
            values[(size_t) ikv*n_ids + i] = is_dead(ikv, ids[i]);
        }
    }
    return LLAMA_KV_EVICT_OK;
}

#include "llama-kv-evict-impl.h"

#include "llama-hparams.h"

#include "llama-context.h"
#include "llama-io.h"
#include "llama-memory-recurrent.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>

// the state of a sequence:
//   header, where layers have different numbers of heads these numbers, layer by layer;
//   the cells it lies in (in order), llama.cpp's own state of these cells;
//   where there is a window cache, how many cells of it are seen, where its search for a free one starts, which they
//   are, and llama.cpp's own state of them; where there are recurrent layers, llama.cpp's own state of these;
//   then the positions of the recorded queries and, layer by layer, the queries;
//   without flash attention also what their weights were summed over, and the sums;
//   then whether there are dead rows and, layer by layer in the order of positions, which

namespace {

constexpr uint32_t STATE_MAGIC = 0x4556454b; // "KEVE"

// increased whenever what is written changes; it was the ABI's version up to 4. (windows, recurrent states and numbers of
// heads came since: of models that had no states before)
constexpr uint32_t STATE_FORM = 4;

struct state_header {
    uint32_t magic = STATE_MAGIC;
    uint32_t form  = STATE_FORM;
    uint32_t n_layer;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t n_embd_head_k;
    uint32_t n_embd_head_v;
    uint16_t type_k;
    uint16_t type_v;
    uint32_t v_trans;
    uint32_t n_window;

    // what follows may differ from the context's
    uint32_t n_cells;
    uint32_t head; // where the search for a free cell starts
    uint64_t size; // of the whole state
    uint64_t hash; // of all but itself

    bool same_shape(const state_header & other) const {
        return std::memcmp(this, &other, offsetof(state_header, n_cells)) == 0;
    }
};

// FNV-1a over 64-bit words
uint64_t hash_words(const uint8_t * data, size_t size, uint64_t hash) {
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        std::memcpy(&word, data + i, std::min(size - i, sizeof(word)));
        hash = (hash ^ word)*0x100000001b3;
    }
    return hash;
}

uint64_t state_hash(const uint8_t * data, size_t size) {
    const uint64_t hash = hash_words(data, offsetof(state_header, hash), 0xcbf29ce484222325);
    return hash_words(data + sizeof(state_header), size - sizeof(state_header), hash);
}

// counts when there is no buffer
class io_write : public llama_io_write_i {
public:
    io_write(uint8_t * dst) : dst(dst) {}

    void write(const void * src, size_t size) override {
        if (dst) {
            std::memcpy(dst + n, src, size);
        }
        n += size;
    }

    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        if (dst) {
            ggml_backend_tensor_get(tensor, dst + n, offset, size);
        }
        n += size;
    }

    size_t n_bytes() override { return n; }

private:
    uint8_t * dst;
    size_t    n = 0;
};

class io_read : public llama_io_read_i {
public:
    io_read(const uint8_t * src, size_t size) : src(src), size(size) {}

    const uint8_t * take(size_t n_take) {
        if (n_take > size - n) {
            throw std::runtime_error("the state ends early");
        }
        n += n_take;
        return src + n - n_take;
    }

    void read(void * dst, size_t n_read) override { std::memcpy(dst, take(n_read), n_read); }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t n_read) override {
        ggml_backend_tensor_set(tensor, take(n_read), offset, n_read);
    }

    size_t n_bytes() override { return n; }

private:
    const uint8_t * src;
    size_t          size;
    size_t          n = 0;
};

// larger positions than anyone has written to: what is added to them must not overflow
constexpr llama_pos POS_END = 1 << 30;

// llama.cpp takes every position that a state names, also negative ones, with which a cell would be in use and empty.
// so what it is about to read is looked through first: as many cells as expected, each at a position of its own
bool check_positions(io_read io, uint32_t n_cells, size_t size_ext) {
    const auto next = [&io]() {
        uint32_t res;
        io.read(&res, sizeof(res));
        return res;
    };

    if (next() != 1 || next() != n_cells) { // streams, and cells
        return false;
    }

    std::vector<llama_pos> positions(n_cells);
    for (auto & pos : positions) {
        pos = next();
        if (pos < 0 || pos >= POS_END || next() != 1) { // sequences
            return false;
        }
        io.take(size_ext);
        next(); // the sequence that it was
    }
    std::sort(positions.begin(), positions.end());

    return std::adjacent_find(positions.begin(), positions.end()) == positions.end();
}

// of a sequence there is one state or none. llama.cpp would abort at more
bool check_recurrent(io_read io) {
    uint32_t n_states;
    io.read(&n_states, sizeof(n_states));
    if (n_states == 0) {
        return true;
    }

    llama_pos pos;
    io.read(&pos, sizeof(pos));
    return n_states == 1 && pos >= 0 && pos < POS_END;
}

state_header make_header(const llama_kv_evict & ke) {
    state_header res;

    res.n_layer       = ke.n_layer();
    res.n_head        = ke.n_head;
    res.n_head_kv     = ke.n_head_kv;
    res.n_embd_head_k = ke.n_embd_head_k;
    res.n_embd_head_v = ke.n_embd_head_v;
    res.type_k        = ke.kv.type_k();
    res.type_v        = ke.kv.type_v();
    res.v_trans       = ke.v_trans;
    res.n_window      = ke.n_window;
    res.n_cells       = 0;
    res.head          = 0;
    res.size          = 0;
    res.hash          = 0;

    return res;
}

} // namespace

std::vector<uint32_t> llama_kv_evict::saved_heads() const {
    std::vector<uint32_t> res;
    bool differ = false;
    for (const auto & layer : layers) {
        res.insert(res.end(), { layer.n_head, layer.n_head_kv });
        differ |= layer.n_head != n_head || layer.n_head_kv != n_head_kv;
    }
    return differ ? res : std::vector<uint32_t>();
}

// the cells of a sequence in the order in which llama.cpp writes them. it leaves out what has left the window, so that is
// forgotten here: where the next token goes depends on it, which must be the same before and after
std::vector<uint32_t> llama_kv_evict::saved_cells(llama_kv_cache & cache, llama_seq_id seq) {
    auto & cur = cache.v_cells[0];

    const llama_pos pos_max = cur.seq_pos_max(seq);

    std::vector<uint32_t> res;
    std::vector<uint32_t> left;
    for (const auto & [pos, i] : cur.seq_pos_get(seq)) {
        (llama_hparams::is_masked_swa(cache.n_swa, cache.swa_type, pos, pos_max) ? left : res).push_back(i);
    }
    for (const uint32_t i : left) {
        cur.seq_rm(i, seq);
    }
    std::sort(res.begin(), res.end());
    return res;
}

// what was saved of a cache's cells: the same cells again where nobody else lies in them, wherever there is room
// otherwise. returns which it was
bool llama_kv_evict::read_cells(llama_io_read_i & io, llama_kv_cache & cache, llama_seq_id seq, const std::vector<uint32_t> & idxs, uint32_t head) {
    const auto & cur = cache.v_cells[0];

    const bool same = !idxs.empty() && std::all_of(idxs.begin(), idxs.end(), [&](uint32_t i) {
        return i < cur.size() && (cur.is_empty(i) || (cur.seq_has(i, seq) && cur.seq_count(i) == 1));
    });

    llama_kv_cache::slot_info sinfo { 0, 0, { 0 }, { idxs } };

    const llama_kv_cache::slot_info_vec_t sinfos { sinfo };

    cache.state_read_sinfo(io, seq, 0, nullptr, same ? &sinfos : nullptr);
    if (same) {
        cache.v_heads[0] = head;
    }
    return same;
}

// forget a sequence, in all parts of the memory
void llama_kv_evict::clear(llama_seq_id seq) {
    if (parts.state) {
        parts.state->seq_rm(seq, -1, -1);
    }
    if (parts.window) {
        parts.window->seq_rm(seq, -1, -1);
    }
    kv.seq_rm(seq, -1, -1);
    forget(seq);
}

size_t llama_kv_evict::state_write(llama_seq_id seq, uint8_t * dst, size_t size) {
    lctx.synchronize();

    const auto idxs = saved_cells(kv, seq);

    auto header = make_header(*this);

    header.n_cells = idxs.size();
    header.head    = kv.v_heads[0];
    header.size    = size;

    io_write io(dst);

    const auto heads = saved_heads();

    io.write(&header, sizeof(header));
    io.write(heads.data(), heads.size()*sizeof(heads[0]));
    io.write(idxs.data(), idxs.size()*sizeof(idxs[0]));

    kv.state_write(io, seq);
    if (parts.window) {
        const auto     seen   = saved_cells(*parts.window, seq);
        const uint32_t n_seen = seen.size();
        const uint32_t head   = parts.window->v_heads[0];

        io.write(&n_seen, sizeof(n_seen));
        io.write(&head, sizeof(head));
        io.write(seen.data(), seen.size()*sizeof(seen[0]));

        parts.window->state_write(io, seq);
    }
    if (parts.state) {
        parts.state->state_write(io, seq);
    }

    if (has_slot(seq)) {
        io.write(pos_row.data() + row_of(seq, 0), n_window*sizeof(llama_pos));
        for (const auto & layer : layers) {
            for (const auto & reader : layer.readers) {
                io.write_tensor(reader.q, row_of(seq, 0)*reader.q->nb[1], n_window*reader.q->nb[1]);
            }
        }
    } else {
        const std::vector<llama_pos> none(n_window, -1);
        const std::vector<uint8_t>   zeros((size_t) n_window*n_embd_head_k*n_head*sizeof(float));

        io.write(none.data(), n_window*sizeof(llama_pos));
        for (const auto & layer : layers) {
            for (const auto & reader : layer.readers) {
                io.write(zeros.data(), n_window*reader.q->nb[1]);
            }
        }
    }

    if (v_trans) {
        io.write(&sums[seq], sizeof(sum));
        if (sums[seq].n_query > 0) {
            std::vector<float> data(n_layer()*n_head_kv*idxs.size());
            if (dst) {
                read_sums(seq, (const int32_t *) idxs.data(), idxs.size(), data.data());
            }
            io.write(data.data(), data.size()*sizeof(float));
        }
    }

    std::vector<int32_t> by_pos;
    for (const auto & [_, i] : cells().seq_pos_get(seq)) {
        by_pos.push_back(i);
    }
    std::vector<int8_t> values(n_layer()*by_pos.size());
    get_dead(seq, by_pos.data(), by_pos.size(), values.data());

    const uint8_t any = std::find(values.begin(), values.end(), 1) != values.end();
    io.write(&any, sizeof(any));
    io.write(values.data(), any ? values.size() : 0);

    if (dst) {
        header.hash = state_hash(dst, io.n_bytes());
        std::memcpy(dst, &header, sizeof(header));
    }

    return io.n_bytes();
}

int32_t llama_kv_evict::state_read(llama_seq_id seq, const uint8_t * src, size_t size) {
    state_header header;
    if (size < sizeof(header)) {
        return LLAMA_KV_EVICT_STATE;
    }

    io_read io(src, size);
    io.read(&header, sizeof(header));

    if (!header.same_shape(make_header(*this)) || header.size != size || header.hash != state_hash(src, size)) {
        return LLAMA_KV_EVICT_STATE;
    }

    // the cells that others leave
    uint32_t n_room = cells().size() - cells().get_used();
    for (const auto & [_, i] : cells().seq_pos_get(seq)) {
        n_room += owns(seq, i);
    }
    if (header.n_cells > n_room || header.n_cells > (size - sizeof(header))/sizeof(uint32_t)) {
        return LLAMA_KV_EVICT_STATE;
    }

    // what llama.cpp is given was looked through before
    const auto require = [](bool right) {
        if (!right) {
            throw std::runtime_error("damaged");
        }
    };
    const auto take_cells = [&](const llama_kv_cache & cache, uint32_t n) {
        require(n <= cache.get_size());

        // they are written in ascending order. llama.cpp would abort at a cell that comes twice
        std::vector<uint32_t> idxs(n);
        io.read(idxs.data(), idxs.size()*sizeof(idxs[0]));
        require(std::adjacent_find(idxs.begin(), idxs.end(), std::greater_equal<>()) == idxs.end());
        require(check_positions(io, n, cache.has_cell_ext() ? sizeof(llama_kv_cell_ext) : 0));
        return idxs;
    };

    std::vector<uint32_t> idxs;
    try {
        std::vector<uint32_t> heads(saved_heads());
        io.read(heads.data(), heads.size()*sizeof(heads[0]));
        require(heads == saved_heads());

        idxs = take_cells(kv, header.n_cells);
    } catch (const std::exception &) {
        return LLAMA_KV_EVICT_STATE;
    }

    if (!bind(seq)) {
        return LLAMA_KV_EVICT_SLOTS;
    }

    lctx.synchronize();
    clear(seq);

    try {
        const bool same_cells = read_cells(io, kv, seq, idxs, header.head);

        if (parts.window) {
            uint32_t n_seen;
            uint32_t head;
            io.read(&n_seen, sizeof(n_seen));
            io.read(&head, sizeof(head));
            require(head <= parts.window->get_size());

            const auto seen = take_cells(*parts.window, n_seen);
            read_cells(io, *parts.window, seq, seen, head);
        }
        if (parts.state) {
            require(check_recurrent(io));
            parts.state->state_read(io, seq);
        }

        for (const auto & [_, i] : cells().seq_pos_get(seq)) {
            forget_lengths(i);
        }

        io.read(pos_row.data() + row_of(seq, 0), n_window*sizeof(llama_pos));
        for (auto & layer : layers) {
            for (auto & reader : layer.readers) {
                io.read_tensor(reader.q, row_of(seq, 0)*reader.q->nb[1], n_window*reader.q->nb[1]);
            }
        }

        // elsewhere the queries serve
        sum saved;
        if (v_trans) {
            io.read(&saved, sizeof(saved));
        }
        std::vector<float> data(saved.n_query > 0 ? n_layer()*n_head_kv*idxs.size() : 0);
        io.read(data.data(), data.size()*sizeof(float));

        uint8_t any = 0;
        io.read(&any, sizeof(any));
        if (any) {
            std::vector<int32_t> by_pos;
            for (const auto & [_, i] : cells().seq_pos_get(seq)) {
                by_pos.push_back(i);
            }
            std::vector<int8_t> values(n_layer()*by_pos.size());
            io.read(values.data(), values.size());
            set_dead(seq, by_pos.data(), by_pos.size(), values.data());
        }

        if (saved.n_query > 0 && same_cells) {
            write_sums(seq, (const int32_t *) idxs.data(), idxs.size(), data.data());
            sums[seq] = saved;
        }
        if (io.n_bytes() != size) {
            throw std::runtime_error("the state goes on after its end");
        }
    } catch (const std::exception &) {
        clear(seq);
        return LLAMA_KV_EVICT_STATE;
    }

    return LLAMA_KV_EVICT_OK;
}

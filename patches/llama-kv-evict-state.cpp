#include "llama-kv-evict-impl.h"

#include "llama-context.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>

// the state of a sequence:
//   header, the cells it lies in (in order), llama.cpp's own state of the sequence,
//   then the positions of the recorded queries and, layer by layer, the queries;
//   without flash attention also what their weights were summed over, and the sums;
//   then whether there are dead rows and, layer by layer in the order of positions, which

namespace {

constexpr uint32_t STATE_MAGIC = 0x4556454b; // "KEVE"

// increased whenever what is written changes; it was the ABI's version up to 4
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

size_t llama_kv_evict::state_write(llama_seq_id seq, uint8_t * dst, size_t size) {
    lctx.synchronize();

    // llama.cpp writes the cells in the order of their indices
    std::vector<uint32_t> idxs;
    for (const auto & [_, i] : cells().seq_pos_get(seq)) {
        idxs.push_back(i);
    }
    std::sort(idxs.begin(), idxs.end());

    auto header = make_header(*this);

    header.n_cells = idxs.size();
    header.head    = kv.v_heads[0];
    header.size    = size;

    io_write io(dst);

    io.write(&header, sizeof(header));
    io.write(idxs.data(), idxs.size()*sizeof(idxs[0]));

    kv.state_write(io, seq);

    if (has_slot(seq)) {
        io.write(pos_row.data() + row_of(seq, 0), n_window*sizeof(llama_pos));
        for (const auto & layer : layers) {
            io.write_tensor(layer.q, row_of(seq, 0)*layer.q->nb[1], n_window*layer.q->nb[1]);
        }
    } else {
        const std::vector<llama_pos> none(n_window, -1);
        const std::vector<uint8_t>   zeros(n_window*layers[0].q->nb[1]);

        io.write(none.data(), n_window*sizeof(llama_pos));
        for (uint32_t ikv = 0; ikv < n_layer(); ++ikv) {
            io.write(zeros.data(), zeros.size());
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

    llama_kv_cache::slot_info sinfo { 0, 0, { 0 }, { {} } };
    sinfo.idxs[0].resize(header.n_cells);
    io.read(sinfo.idxs[0].data(), header.n_cells*sizeof(uint32_t));

    // they are written in ascending order. llama.cpp would abort at a cell that comes twice
    const auto & idxs = sinfo.idxs[0];
    if (std::adjacent_find(idxs.begin(), idxs.end(), std::greater_equal<>()) != idxs.end()) {
        return LLAMA_KV_EVICT_STATE;
    }
    try {
        if (!check_positions(io, header.n_cells, kv.has_cell_ext() ? sizeof(llama_kv_cell_ext) : 0)) {
            return LLAMA_KV_EVICT_STATE;
        }
    } catch (const std::exception &) {
        return LLAMA_KV_EVICT_STATE;
    }

    // the same cells again where nobody else lies in them, wherever there is room otherwise
    const bool same_cells = header.n_cells > 0 && std::all_of(idxs.begin(), idxs.end(), [&](uint32_t i) {
        return i < cells().size() && (cells().is_empty(i) || owns(seq, i));
    });

    if (!bind(seq)) {
        return LLAMA_KV_EVICT_SLOTS;
    }

    lctx.synchronize();
    kv.seq_rm(seq, -1, -1);
    forget(seq);

    const llama_kv_cache::slot_info_vec_t sinfos { sinfo };
    try {
        kv.state_read_sinfo(io, seq, 0, nullptr, same_cells ? &sinfos : nullptr);

        for (const auto & [_, i] : cells().seq_pos_get(seq)) {
            forget_lengths(i);
        }

        io.read(pos_row.data() + row_of(seq, 0), n_window*sizeof(llama_pos));
        for (auto & layer : layers) {
            io.read_tensor(layer.q, row_of(seq, 0)*layer.q->nb[1], n_window*layer.q->nb[1]);
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
        kv.seq_rm(seq, -1, -1);
        forget(seq);
        return LLAMA_KV_EVICT_STATE;
    }

    if (same_cells) {
        kv.v_heads[0] = header.head;
    }

    return LLAMA_KV_EVICT_OK;
}

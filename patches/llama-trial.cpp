#include "llama-trial.h"

#include "llama-kv-evict.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <signal.h>
#include <termios.h>
#include <unistd.h>

// --- last words ---

static struct {
    int32_t     fd = 2;
    int32_t     status = 1;
    std::string prefix;
    bool        has_terminal = false;
    termios     terminal; // as it was at first: a chat neither shows what is typed nor the cursor while it writes
} last_words;

static void write_line(int32_t fd, std::string line) {
    line += '\n';
    for (size_t at = 0; at < line.size(); ) {
        const ssize_t n = write(fd, line.data() + at, line.size() - at);
        if (n <= 0) {
            return;
        }
        at += n;
    }
}

[[noreturn]] static void leave(std::string reason) {
    for (char & c : reason) {
        c = c >= 0x20 && c < 0x7f ? c : ' ';
    }
    if (last_words.has_terminal) {
        signal(SIGTTOU, SIG_IGN); // or a process in the background would be stopped here
        tcsetattr(STDIN_FILENO, TCSANOW, &last_words.terminal);
    }
    if (isatty(last_words.fd)) {
        write_line(last_words.fd, "\033[0m\033[?25h"); // no colour, a cursor, and a line of its own
    }
    write_line(last_words.fd, last_words.prefix + reason);
    _exit(last_words.status);
}

// "folder/file.cpp:12: reason" without the folder, which is one of the machine that this was built on
static void on_abort(const char * message) {
    const std::string text  = message;
    const size_t      slash = text.rfind('/', text.find(':'));
    leave(slash == std::string::npos ? text : text.substr(slash + 1));
}

static void on_terminate() {
    const std::exception_ptr current = std::current_exception();
    try {
        if (current) {
            std::rethrow_exception(current);
        }
    } catch (const std::exception & err) {
        leave(err.what());
    } catch (...) {
    }
    leave("an exception of unknown type");
}

void llama_trial_on_abort(int32_t fd, const char * prefix, int32_t status) {
    last_words.fd     = fd;
    last_words.status = status;
    last_words.prefix = prefix;
    last_words.has_terminal = tcgetattr(STDIN_FILENO, &last_words.terminal) == 0;
    ggml_set_abort_callback(on_abort);
    std::set_terminate(on_terminate);
}

// --- the trial ---

using model_ptr   = std::unique_ptr<llama_model,   decltype(&llama_model_free)>;
using context_ptr = std::unique_ptr<llama_context, decltype(&llama_free)>;

static constexpr size_t  max_piece  = 256;  // bytes of a token's text that are looked at
static constexpr int32_t max_pieces = 8192; // texts of tokens that are tokenized

static model_ptr load(const char * path, bool weights) {
    ggml_backend_dev_t none = nullptr;

    llama_model_params params = llama_model_default_params();
    params.devices         = &none;
    params.n_gpu_layers    = 0;
    params.use_extra_bufts = false; // weights stay where they are mapped
    params.no_alloc        = !weights;
    params.load_mode       = weights ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;

    return { llama_model_load_from_file(path, params), llama_model_free };
}

static context_ptr open(llama_model * model, llama_flash_attn_type flash_attn, int32_t n_threads) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = 256;
    params.n_batch         = 8;
    params.n_ubatch        = 8;
    params.kv_unified      = true;
    params.flash_attn_type = flash_attn;
    params.n_threads       = n_threads;
    params.n_threads_batch = n_threads;

    context_ptr ctx { llama_init_from_model(model, params), llama_free };
    if (ctx && llama_get_memory(ctx.get())) {
        llama_kv_evict_init(ctx.get(), 1, 1); // where it can't be bounded, nothing is lost
    }
    return ctx;
}

static std::string piece(const llama_vocab * vocab, llama_token token, bool special) {
    std::string text(max_piece, '\0');
    const int32_t n = llama_token_to_piece(vocab, token, text.data(), text.size(), 0, special);
    text.resize(std::max(n, 0));
    return text;
}

static void detokenize(const llama_vocab * vocab, const std::vector<llama_token> & tokens, bool special) {
    std::string text(8*tokens.size() + 64, '\0');
    llama_detokenize(vocab, tokens.data(), tokens.size(), text.data(), text.size(), false, special);
}

static void tokenize(const llama_vocab * vocab, const std::string & text) {
    for (const bool special : { false, true }) {
        std::vector<llama_token> tokens(text.size() + 8);
        const int32_t n = llama_kv_evict_tokenize(vocab, text.data(), text.size(), tokens.data(), tokens.size(), special, special);
        tokens.resize(std::max(n, 0));
        detokenize(vocab, tokens, special);
    }
}

// characters of one to four bytes, alone and in a row
static void tokenize_characters(const llama_vocab * vocab) {
    std::string all;
    for (int c = 1; c < 0x100; ++c) {
        const std::string one = c < 0x80 ? std::string { char(c) } : std::string { char(0xc0 | c >> 6), char(0x80 | (c & 0x3f)) };
        tokenize(vocab, one);
        all += one;
    }
    tokenize(vocab, "");
    tokenize(vocab, all + " \u4f60\u597d \U0001f98a  caf\u00e9's 1234567\r\n\n\t" + all);
}

static void use_vocabulary(const llama_vocab * vocab) {
    const llama_token n_tokens = llama_vocab_n_tokens(vocab);
    const llama_token stride   = 1 + n_tokens/max_pieces;

    std::string text;
    std::vector<llama_token> all(n_tokens);
    for (llama_token token = 0; token < n_tokens; ++token) {
        all[token] = token;
        llama_vocab_is_eog(vocab, token);
        llama_vocab_get_attr(vocab, token);
        piece(vocab, token, false);
        if (token % stride == 0) {
            text += piece(vocab, token, true);
        }
    }
    detokenize(vocab, all, true);
    tokenize_characters(vocab);
    tokenize(vocab, text);
}

static bool decode(llama_context * ctx, llama_token last) {
    std::vector<llama_token> tokens { 0, last };
    if (llama_decode(ctx, llama_batch_get_one(tokens.data(), tokens.size())) != 0) {
        return false;
    }
    llama_get_logits_ith(ctx, -1);

    const int32_t n_heads = llama_kv_evict_n_layer(ctx)*llama_kv_evict_n_head_kv(ctx);
    std::vector<llama_pos> pos(tokens.size());
    std::vector<int32_t>   cells(tokens.size());
    const int32_t n_cells = llama_kv_evict_cells(ctx, 0, pos.data(), cells.data(), nullptr, cells.size());
    std::vector<float> scores(n_heads*tokens.size());
    if (n_cells == (int32_t) tokens.size()) {
        llama_kv_evict_scores(ctx, 0, 1, cells.data(), n_cells, false, scores.data());
    }
    return true;
}

static void log_errors(ggml_log_level level, const char * text, void * /*user_data*/) {
    static ggml_log_level last = GGML_LOG_LEVEL_NONE;
    static int n_left = 100;
    last = level == GGML_LOG_LEVEL_CONT ? last : level;
    if (last == GGML_LOG_LEVEL_ERROR && n_left > 0) {
        fputs(text, stderr);
        --n_left;
    }
}

int32_t llama_trial_run(const char * path, int32_t n_threads, int32_t fd) {
    llama_log_set(log_errors, nullptr);
    llama_backend_init();

    write_line(fd, "it is loaded");
    model_ptr model = load(path, n_threads > 0);
    const bool weights = model && n_threads > 0;
    if (!model && n_threads > 0) { // they may be more than there is memory for
        model = load(path, false);
    }
    if (!model) {
        return LLAMA_TRIAL_REFUSED;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model.get());

    write_line(fd, "its vocabulary is used");
    use_vocabulary(vocab);

    write_line(fd, "its graphs are built");
    open(model.get(), LLAMA_FLASH_ATTN_TYPE_DISABLED, 1);
    const context_ptr ctx = open(model.get(), LLAMA_FLASH_ATTN_TYPE_AUTO, std::max(n_threads, 1));
    if (!weights || !ctx || !llama_get_memory(ctx.get())) {
        return LLAMA_TRIAL_SHAPES;
    }

    write_line(fd, "its first tokens are computed");
    return decode(ctx.get(), llama_vocab_n_tokens(vocab) - 1) ? LLAMA_TRIAL_OK : LLAMA_TRIAL_SHAPES;
}

#include "llama-kv-evict.h"

#include "llama-impl.h"

#include <exception>

#if defined(__GLIBCXX__) && !defined(_WIN32)
#define DEEP_REGEX
#include <pthread.h>
#endif

// for some vocabularies llama.cpp splits text by std::regex, which recurses once for each character of a match in
// libstdc++: a few ten thousand exclamation marks in a row overflow the stack of a thread

static constexpr int32_t n_text_any_stack = 4096;     // bytes of a text that fits any stack
static constexpr size_t  n_stack_base     = 1u << 20;
static constexpr size_t  n_stack_per_byte = 1024;     // it takes about 300

namespace {

struct tokenize_call {
    const llama_vocab * vocab;
    const char        * text;
    int32_t             text_len;
    llama_token       * tokens;
    int32_t             n_tokens_max;
    bool                add_special;
    bool                parse_special;
    int32_t             res;

    static void * run(void * data) {
        auto & c = *static_cast<tokenize_call *>(data);
        try {
            c.res = llama_tokenize(c.vocab, c.text, c.text_len, c.tokens, c.n_tokens_max, c.add_special, c.parse_special);
        } catch (const std::exception & err) {
            LLAMA_LOG_ERROR("%s: %s\n", "llama_kv_evict_tokenize", err.what());
            c.res = INT32_MIN;
        }
        return nullptr;
    }
};

}

// false where there is no memory for the stack
static bool run_on_deep_stack(tokenize_call & call) {
#ifdef DEEP_REGEX
    pthread_attr_t attr;
    pthread_t      thread;

    pthread_attr_init(&attr);
    const bool ok =
        pthread_attr_setstacksize(&attr, n_stack_base + n_stack_per_byte * call.text_len) == 0 &&
        pthread_create(&thread, &attr, tokenize_call::run, &call) == 0;
    pthread_attr_destroy(&attr);
    if (ok) {
        pthread_join(thread, nullptr);
    }
    return ok;
#else
    tokenize_call::run(&call);
    return true;
#endif
}

int32_t llama_kv_evict_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len,
        llama_token * tokens, int32_t n_tokens_max, bool add_special, bool parse_special) {
    tokenize_call call = { vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special, INT32_MIN };

    if (text_len <= n_text_any_stack) {
        tokenize_call::run(&call);
    } else if (!run_on_deep_stack(call)) {
        call.res = INT32_MIN + 1;
    }
    return call.res;
}

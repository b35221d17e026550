#pragma once

// scope-cpp: a file is tried out in a process of its own, because llama.cpp ends the process where a file is not as it
// expects one to be

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

// from now on, where llama.cpp would abort the process (GGML_ABORT, GGML_ASSERT, an exception that nobody catches): write
// one line to the file descriptor, the prefix and the reason in printable ASCII, and exit with this status. a terminal on
// stdin is left as it is at this call
LLAMA_API void llama_trial_on_abort(int32_t fd, const char * prefix, int32_t status);

enum llama_trial_status {
    LLAMA_TRIAL_OK      = 0,
    LLAMA_TRIAL_SHAPES  = 10, // nothing was wrong, but no token was decoded
    LLAMA_TRIAL_REFUSED = 11, // llama.cpp refuses the file, and says why on stderr
};

// do with the file, on the CPU, whatever can end the process: load it, use its vocabulary, build its graphs. with
// n_threads > 0 the weights are loaded too, and two tokens are decoded on so many threads.
// the name of each step is written to the file descriptor, a line each, before the step begins; of the log only errors
// are shown
LLAMA_API int32_t llama_trial_run(const char * path, int32_t n_threads, int32_t fd);

#ifdef __cplusplus
}
#endif

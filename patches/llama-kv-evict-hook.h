#pragma once

// the one entry point that llama.cpp's graph building calls (see patches/README.md)

#include "ggml.h"

struct llm_graph_context;

// record q_cur, the queries as attention sees them, if the context asks for it
void llama_kv_evict_hook(const llm_graph_context & graph, ggml_tensor * q_cur, bool has_bias, float kq_scale, int il);

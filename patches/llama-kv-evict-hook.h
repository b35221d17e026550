#pragma once

// the entry points that llama.cpp's graph building calls (see patches/README.md)

#include "ggml.h"

#include <cstdint>

struct llama_cparams;
struct llm_graph_context;

// the nodes that the functions below add to a graph at most
uint32_t llama_kv_evict_hook_n_nodes(const llama_cparams & cparams);

// the most cells that a window cache has beside a cache of size_base: as many, unless that one is to be bounded
uint32_t llama_kv_evict_hook_n_window_max(uint32_t size_base);

// record q_cur, the queries as attention sees them, if the context asks for it
void llama_kv_evict_hook(const llm_graph_context & graph, ggml_tensor * q_cur, ggml_tensor * kq_b, ggml_tensor * sinks, float kq_scale, int il);

// the mask of a layer: kq_mask itself, or with the layer's dead rows hidden
ggml_tensor * llama_kv_evict_hook_mask(const llm_graph_context & graph, ggml_tensor * kq_mask, int il);

// without flash attention: add up kq, the softmax weights that the queries give to the cells
void llama_kv_evict_hook_weights(const llm_graph_context & graph, ggml_tensor * kq, int il);

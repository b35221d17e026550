"""The native backend: llama.cpp's bindings and the eviction calls that the patch adds."""

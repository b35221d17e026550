"""Program: the tokens of texts, by whatever libllama it finds.

Usage: python -m tests.native.stock_tokenize VOCABULARY.gguf... < TEXTS.json

Prints, as JSON, whether the library has our hooks, and for each vocabulary the tokens of each text,
control tokens parsed and not. Nothing of ours is used: only the bindings.
"""

from __future__ import annotations

import ctypes
import json
import sys

from scope_cpp.native.library import llama_cpp


def tokens_of(path: str, texts: list[str]) -> list[list[int]]:
    """Tokens of all texts."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    found = []
    for text in texts:
        for parse_special in (False, True):
            data = text.encode()
            ids = (ctypes.c_int32 * (len(data) + 8))()
            n = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), True, parse_special)
            assert n >= 0
            found.append(list(ids[:n]))
    llama_cpp.llama_model_free(model)
    return found


def main(paths: list[str]) -> None:
    texts = json.load(sys.stdin)
    hooks = hasattr(llama_cpp.llama_cpp._lib, "llama_kv_evict_abi")
    print(json.dumps({"hooks": hooks, "tokens": [tokens_of(path, texts) for path in paths]}))


if __name__ == "__main__":
    main(sys.argv[1:])

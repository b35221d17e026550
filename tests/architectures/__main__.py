"""Writes a random model of the wanted size, to measure times of an architecture by.

python -m tests.architectures qwen35 model.gguf --quantized Q8_0 embedding_length=1024
"""

from __future__ import annotations

import argparse
import json

from tests.architectures.maker import write_architecture
from tests.architectures.table import ARCHITECTURES


def main() -> None:
    """Write the model that the command line tells of."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.architectures")
    parser.add_argument("arch", choices=sorted(ARCHITECTURES), metavar="ARCH")
    parser.add_argument("path")
    parser.add_argument("--quantized", help="type of the matrices, such as Q8_0")
    parser.add_argument("--n-vocab", type=int, default=0, help="least number of tokens")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="metadata; values are JSON")
    given = parser.parse_intermixed_args()
    keys = {
        key.replace(".", "__"): json.loads(value)
        for key, _, value in (item.partition("=") for item in given.keys)
    }
    write_architecture(
        given.path, given.arch, quantized=given.quantized, n_vocab=given.n_vocab, **keys
    )


if __name__ == "__main__":
    main()

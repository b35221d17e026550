"""What was measured on: machine, libraries, model file."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from scope_cpp import __version__
from scope_cpp.bench.request import Request
from scope_cpp.engine.doctor import native_facts
from scope_cpp.engine.model import Model
from scope_cpp.engine.threads import default_threads

_VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "GGML_", "CUDA_VISIBLE_")


def environment(request: Request) -> dict[str, Any]:
    """Return what else the times depend on."""
    native = native_facts()
    gpus = [device for device in native["devices"] if "GPU" in device.kind]
    offloaded = bool(gpus) and request.compute.n_gpu_layers != 0
    return {
        "scope_cpp": __version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cpu_features": native["cpu"],
        "cores": default_threads(),
        "logical_cpus": os.cpu_count(),
        "threads": request.compute.n_threads or default_threads(),
        "backend": ", ".join(device.name for device in gpus) if offloaded else "CPU",
        "offloaded": offloaded,
        "devices": [asdict(device) for device in native["devices"]],
        "variables": {
            name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)
        },
        "library": native["library"],
        "bindings": native["bindings"],
        "llama_cpp_commit": native["commit"],
        "abi": native["abi"],
        "stock_library": request.stock,
    }


def model_facts(model: Model) -> dict[str, Any]:
    """Return what the file holds."""
    return {
        "path": str(model.path),
        "title": f"{model.path.name} ({model.arch})",
        "file_bytes": model.path.stat().st_size,
        "desc": model.desc,
        "size_bytes": model.size_bytes,
        "n_params": model.n_params,
        "n_layer": model.n_layer,
        "n_embd": model.n_embd,
        "n_head": model.n_head,
        "n_head_kv": list(model.n_head_kv_by_layer),
        "head_dim_k": model.head_dim_k,
        "head_dim_v": model.head_dim_v,
        "n_vocab": model.n_vocab,
        "n_ctx_train": model.n_ctx_train,
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^(?:model name|Model)\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()

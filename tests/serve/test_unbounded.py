"""A model whose cells can't be chosen: it runs with the full cache, or the request is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from tests.reference.refused import write_refused  # noqa: E402
from tests.serve.service import running  # noqa: E402


def test_a_request_that_bounds_it_is_a_wrong_request(tmp_path: Path) -> None:
    path = write_refused("mamba", tmp_path / "mamba.gguf")
    with running(path, cells="512", n_predict=300) as server, server.http() as http:
        prompt = {"prompt": "the", "max_tokens": 200}
        answer = http.post("/v1/completions", json=prompt)
        assert answer.status_code == 200, answer.text
        refused = http.post("/v1/completions", json={**prompt, "policy": "h2o", "budget": 64})
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert "can't be run with a bounded cache" in error["message"]

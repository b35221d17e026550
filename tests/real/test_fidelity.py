"""Fidelity on a real instruct model."""

from __future__ import annotations

from pathlib import Path

from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.grid import Grid
from scope_cpp.eval.run import Evaluation
from scope_cpp.eval.sample import Stop


def test_more_cells_are_nearer_to_the_full_cache(smollm2: Model, tmp_path: Path) -> None:
    asked = Asked("fidelity", ("tokens=48",), limit=1, seeds=(1,))
    grid = Grid(("full", "streaming-llm"), betas=("1/6", "1/2"), base=Settings(n_threads=1))
    evaluation = Evaluation(asked, grid, smollm2, out=tmp_path / "run")
    assert evaluation.asked.template is True, "the prompt goes through the model's template"
    result = evaluation.run(Stop())
    floor, few, many = (record["score"]["value"] for record in result.records)
    assert 0 < many < few
    assert 0 < floor < 0.02
    for prediction in RunFolder.open(result.folder).predictions():
        assert prediction.output is not None and prediction.output.divergence is not None
        found = prediction.output.divergence
        assert found.counted == {"1/6": 9, "1/2": 25}.get(prediction.row[-3:], 0)
        if prediction.row != "full":
            assert set(found.kl[: found.counted]) == {0.0}

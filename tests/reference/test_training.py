"""The training script: seeded, resumable, and its file loads. Skipped without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: scope-cpp[train]")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from reference_training.data import batch, chat  # noqa: E402
from reference_training.model import Shape  # noqa: E402
from reference_training.muon import orthogonalized  # noqa: E402
from reference_training.train import Options, Trainer  # noqa: E402
from scope_cpp.engine.model import Model  # noqa: E402
from scope_cpp.reference.task import Size  # noqa: E402
from scope_cpp.reference.vocabulary import EOS_ID, TOKENS, detokenize  # noqa: E402


def trainer(folder: Path, seed: int = 1) -> Trainer:
    options = Options(seed, "cpu", folder / "c.pt", tokens=100_000, bf16=False)
    return Trainer(Shape(vocab=len(TOKENS), width=128, layers=2), options)


def weights(of: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.model.parameters()])


def test_a_resumed_run_is_the_same_run(tmp_path):
    straight = trainer(tmp_path)
    for step in range(3):
        straight.train_step()
        if step == 1:
            straight.save()
    resumed = trainer(tmp_path)
    resumed.load()
    assert resumed.step == 2 and resumed.tokens > 0
    resumed.train_step()
    assert torch.equal(weights(resumed), weights(straight))
    with pytest.raises(ValueError, match="seed 1"):
        trainer(tmp_path, seed=2).load()


def test_the_structured_start_finds_operands_before_any_training(tmp_path):
    fresh = trainer(tmp_path)
    fresh.curriculum.recall = 1.0  # no drills
    fresh.train_step()
    seen = fresh.curriculum.accuracy
    assert seen.get("first", 0) > 0.05 and seen.get("second", 0) > 0.05  # of .08: one batch counts


def test_batches_depend_on_seed_and_step():
    def ids(seed: int, step: int) -> list[int]:
        return batch("chain", Size(3, 6, 2), 200, seed, step).ids.tolist()

    assert ids(1, 1) == ids(1, 1)
    assert ids(1, 1) != ids(1, 2) and ids(1, 1) != ids(2, 1)


def test_a_chat_ends_each_answer():
    for seed in range(20):
        sequence = chat(Random(seed))
        text = detokenize(sequence.ids)
        assert sequence.ids[-1] == EOS_ID
        assert sequence.ids.count(EOS_ID) == text.count("Answers:\n") <= 3


def test_muon_makes_updates_nearly_orthogonal():
    matrix = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalized(matrix))
    assert singular.min() > 0.5 and singular.max() < 1.5


def test_the_script_trains_writes_and_compares(tmp_path):
    out = tmp_path / "model.gguf"
    command = [sys.executable, SCRIPTS / "train_reference.py", "--out", out, "--fp32"]
    done = subprocess.run([*command, "--tokens", "5000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flash attention off: logits differ by 0.0" in done.stdout
    with Model.load(out, n_gpu_layers=0) as model:
        assert model.n_vocab == len(TOKENS)

"""The training loop: seeded, resumable, the same on a CPU and on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reference_training.curriculum import Curriculum
from reference_training.data import KINDS, Batch
from reference_training.model import Llama, Shape, structured_start
from reference_training.muon import Muon
from scope_cpp.files import replacing

WARM_UP = 50
SAVE_EVERY = 60.0


@dataclass(frozen=True)
class Options:
    """What a run depends on; `minutes` or `tokens` says when it ends."""

    seed: int
    device: str
    checkpoint: Path
    minutes: float | None = None
    tokens: int | None = None
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    bf16: bool = True


class Trainer:
    """Model, optimizers and curriculum; `save` and `load` hold all of it."""

    def __init__(self, shape: Shape, options: Options) -> None:
        self.options = options
        generator = torch.Generator().manual_seed(options.seed)
        model = Llama(shape)
        structured_start(model, generator)
        self.model = model.to(options.device)
        hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
        ids = {id(p) for p in hidden}
        rest = [p for p in model.parameters() if id(p) not in ids]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon(hidden), options.muon_lr),
            (torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0), options.adam_lr),
        ]
        self.curriculum = Curriculum()
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.loss = 0.0

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        if self.options.tokens is not None:
            return self.tokens / self.options.tokens
        assert self.options.minutes is not None
        return self.seconds / 60 / self.options.minutes

    def train_step(self) -> None:
        """One batch."""
        started = time.perf_counter()
        rate = min(1.0, (self.step + 1) / WARM_UP) * max(0.02, 1 - self.progress)
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
        kind, current, batch = self.curriculum.next_batch(self.options.seed, self.step)
        loss, accuracy = self._loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, _ in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.curriculum.learned(kind, current, accuracy)
        self.step += 1
        self.tokens += batch.tokens
        self.seconds += time.perf_counter() - started
        self.loss = loss.item()

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        device = self.options.device
        ids = torch.from_numpy(batch.ids).to(device)
        weights = torch.from_numpy(batch.weights[:, 1:]).to(device)
        kinds = torch.from_numpy(batch.kinds[:, 1:]).to(device)
        wanted = weights > 0
        enabled = self.options.bf16
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled):
            hidden = self.model(ids[:, :-1])
            logits = self.model.logits(hidden[wanted]).float()
        targets, weight = ids[:, 1:][wanted], weights[wanted]
        loss = (F.cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
        with torch.no_grad():
            right = (logits.argmax(-1) == targets).float()
            kind = kinds[wanted]
            accuracy = {
                name: right[kind == i].mean().item()
                for i, name in enumerate(KINDS)
                if (kind == i).any()
            }
        return loss, accuracy

    def save(self) -> None:
        """Write the checkpoint; a run that is killed while writing keeps the last one."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "curriculum": self.curriculum.asdict(),
            "shape": self.model.shape.asdict(),
            "seed": self.options.seed,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        with replacing(self.options.checkpoint) as file:
            torch.save(state, file)

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.options.checkpoint, map_location=self.options.device)
        if state["seed"] != self.options.seed:
            raise ValueError(f"the checkpoint is of seed {state['seed']}")
        self.model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.curriculum = Curriculum(**state["curriculum"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.seconds = state["seconds"]


def train(trainer: Trainer, report: Callable[[Trainer], None]) -> None:
    """Train to the end, with a checkpoint each minute; `report` is called after each step."""
    saved = time.monotonic()
    while trainer.progress < 1:
        trainer.train_step()
        trainer.curriculum.advance(trainer.progress)
        if time.monotonic() - saved > SAVE_EVERY:
            trainer.save()
            saved = time.monotonic()
        report(trainer)
    trainer.save()

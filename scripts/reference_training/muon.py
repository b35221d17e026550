"""Muon: momentum whose update is made orthogonal (Jordan et al., 2024, kellerjordan.github.io)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# coefficients of the quintic iteration, from the same source
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly the orthogonal factor of `matrix` (..., rows, columns), by Newton-Schulz steps."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For hidden matrices; other parameters need another optimizer."""

    def __init__(self, matrices: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update from the gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"]
                momentum.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalized(matrix.grad.lerp(momentum, group["momentum"]))
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.add_(update, alpha=-group["lr"] * scale)

"""Muon for matrices, AdamW for the rest; f32 masters of the weights that are computed with.

Source: Jordan et al., "Muon" (2024); Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).
"""

from __future__ import annotations

import torch

_MUON_RATE, _ADAM_RATE = 0.02, 3e-3
_MOMENTUM, _WEIGHT_DECAY = 0.95, 0.01
_ADAM_BETAS, _ADAM_EPSILON = (0.9, 0.95), 1e-8


def orthogonal(update: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest half-orthogonal matrix, by five Newton-Schulz steps in `dtype`."""
    x = update.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).float()


class Optimizer:
    """Updates weights in place from their gradients."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self._weights = weights
        self.masters = {name: weight.detach().float().clone() for name, weight in weights.items()}
        self._first = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self._second = {
            name: torch.zeros_like(master) for name, master in self.masters.items() if not _by_muon(name, master)
        }
        self._steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step; `rate` in 0..1 scales both learning rates."""
        self._steps += 1
        for name, weight in self._weights.items():
            assert weight.grad is not None, name
            gradient, master, first = weight.grad.float(), self.masters[name], self._first[name]
            if _by_muon(name, master):
                first.mul_(_MOMENTUM).add_(gradient)
                update = orthogonal(gradient + _MOMENTUM * first, weight.dtype)
                update *= max(1.0, master.shape[0] / master.shape[1]) ** 0.5
                master.mul_(1 - _MUON_RATE * rate * _WEIGHT_DECAY).add_(update, alpha=-_MUON_RATE * rate)
            else:
                second = self._second[name]
                first.lerp_(gradient, 1 - _ADAM_BETAS[0])
                second.lerp_(gradient.square(), 1 - _ADAM_BETAS[1])
                mean = first / (1 - _ADAM_BETAS[0] ** self._steps)
                spread = (second / (1 - _ADAM_BETAS[1] ** self._steps)).sqrt()
                master.add_(mean / (spread + _ADAM_EPSILON), alpha=-_ADAM_RATE * rate)
            weight.copy_(master)
            weight.grad = None


def _by_muon(name: str, weight: torch.Tensor) -> bool:
    return weight.ndim == 2 and "embed" not in name

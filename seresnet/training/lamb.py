"""LAMB: Adam's direction, with each tensor's step in proportion to the norm of its weights (arXiv 1904.00962)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """Large-batch optimizer; ``params``, groups and ``lr`` are as for torch's own optimizers.

    As in timm's ``Lamb`` and apex's ``FusedLAMB``, the gradients of all groups together are first clipped to a norm of
    ``max_grad_norm`` (None: not clipped), and a group without weight decay (norms and biases) takes Adam's step as it
    is, without the ratio of norms.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        self.max_grad_norm = max_grad_norm
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        divisor = self._clip_divisor()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                group["step"] += 1
                grads = [p.grad for p in weights]
                grads = grads if divisor is None else list(torch._foreach_div(grads, divisor))
                updates = self._adam(grads, [self._state(p) for p in weights], group)
                _apply(weights, updates, group["lr"], group["weight_decay"])
        return loss

    def _clip_divisor(self) -> Tensor | None:
        """Return what gradients are divided by so that their norm over all groups is at most ``max_grad_norm``."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_grad_norm is None or not grads:
            return None
        norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(grads))))
        return (norm / self.max_grad_norm).clamp(min=1.0)

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    def _adam(self, grads: list[Any], states: list[dict[str, Tensor]], group: dict[str, Any]) -> list[Tensor]:
        (beta1, beta2), step = group["betas"], group["step"]
        means, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        scale = list(torch._foreach_sqrt(squares))
        torch._foreach_div_(scale, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(scale, group["eps"])
        updates = list(torch._foreach_div(means, 1 - beta1**step))
        torch._foreach_div_(updates, scale)
        return updates


def _apply(weights: list[Tensor], updates: list[Tensor], lr: float, weight_decay: float) -> None:
    """Move ``weights`` against ``updates``; those that decay as far as their own norm says."""
    if weight_decay:
        torch._foreach_add_(updates, weights, alpha=weight_decay)
        for weight_norm, update, norm in zip(
            torch._foreach_norm(weights), updates, torch._foreach_norm(updates), strict=True
        ):
            update.mul_(torch.where((weight_norm > 0) & (norm > 0), weight_norm / norm, 1.0))
    torch._foreach_add_(weights, updates, alpha=-lr)

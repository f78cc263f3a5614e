"""Batch norm over the images of all ranks, on any device that the process group serves.

torch's own `SyncBatchNorm` has kernels for GPUs alone; there it is used, elsewhere `SyncedBatchNorm2d`. The keys of a
state dict are those of plain batch norm in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F


def convert_sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Convert every batch norm of ``model`` to take its statistics over all ranks. The parameters are kept."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, SyncedBatchNorm2d.like(child))
        else:
            convert_sync_batch_norm(child, device)
    return model


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of ``(N, C, H, W)`` whose batch, in training, is that of all ranks. N may differ between them."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> SyncedBatchNorm2d:
        """Return one with the parameters and statistics of ``norm``: the same tensors, not copies."""
        made = cls(norm.num_features, norm.eps, norm.momentum, device="meta")
        for key in ("weight", "bias"):
            setattr(made, key, getattr(norm, key))
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(made, key, getattr(norm, key))
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised ``x``; in training, all ranks have to call this together."""
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.momentum:  # 0: gradient checkpointing runs the layer again, see models.checkpointing
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return y


class _Normalize(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, mean and variance over the images of all ranks.

    The gradient is batch norm's (arXiv 1502.03167, section 3), its two sums, of g and g * xhat, taken over all of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)  # (C,)
        here = x.numel() // x.shape[1]
        # In double precision: mean of squares less square of the mean would lose float32's digits.
        sums = torch.cat([mean.double(), variance + mean.double().square(), mean.new_ones(1).double()]) * here
        dist.all_reduce(sums)
        count = sums[-1]
        mean64, square = (sums[:-1] / count).chunk(2)
        variance64 = (square - mean64.square()).clamp_(min=0)
        mean, variance = mean64.float(), variance64.float()
        ctx.save_for_backward(x, weight, mean, (variance64 + eps).rsqrt().float(), count)
        unbiased = (variance64 * (count / (count - 1))).float()
        ctx.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, unbiased

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _mean: Tensor, _variance: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        g, shape = grad.float(), (1, -1, 1, 1)
        xhat = (x.float() - mean.view(shape)) * scale.view(shape)
        grad_bias, grad_weight = g.sum((0, 2, 3)), (g * xhat).sum((0, 2, 3))
        sums = torch.cat([grad_bias, grad_weight]).double()
        dist.all_reduce(sums)
        mean_g, mean_gx = (sums / count).float().chunk(2)
        dx = (g - mean_g.view(shape) - xhat * mean_gx.view(shape)) * (weight * scale).view(shape)
        return dx.to(x.dtype), grad_weight, grad_bias, None

"""The end of a block in training, as one function: batch norm, excitation, shortcut, ReLU.

The forward pass is that of the modules, operation by operation, so that its numbers are theirs to the last bit. But
autograd's own backward pass goes over the block's widest tensors once for each of these operations, where the gradient
of all of them follows from two sums for each image and channel, of g and of g * u (g: the gradient behind the ReLU; u:
what the last convolution outputs): they give the gate's gradient and both of batch norm's reductions. Then one more
pass gives the gradient of u. The output of batch norm is not kept either, which saves its memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from seresnet.models.squeeze_excite import SqueezeExcite

PLAIN = (nn.BatchNorm2d, nn.Conv2d, nn.Identity, nn.ReLU, nn.Sigmoid, SqueezeExcite)
FORWARDS: dict[type[nn.Module], Any] = {kind: kind.forward for kind in PLAIN}  # before anybody replaces one


def can_fuse(u: Tensor, norm: nn.Module, se: nn.Module, act: nn.Module, *between: nn.Module) -> bool:
    """Return whether `fused_bn_se_add_relu` can replace these modules: plain ones, in training, without hooks.

    ``u`` is what the last convolution outputs, ``act`` the block's last activation, and ``between`` stand modules that
    have to be identities. Anything else - a subclass, an adapter, a hook on a module or on all of them, a subclass of
    tensors, a transform of ``torch.func``, forward-mode differentiation, tracing, a mode of ``torch.overrides`` - needs
    the modules themselves; so do a batch that batch norm refuses, and parameters of 16 bits, in which sums would be
    rounded. So does a compiler, which fuses by itself, and better. On GPUs it has not been measured, and is not used.
    """
    if not norm.training or not torch.is_grad_enabled() or not _is_plain_batch(u):
        return False
    if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.momentum is None:
        return False
    if type(se) is not SqueezeExcite or type(act) is not nn.ReLU or any(type(m) is not nn.Identity for m in between):
        return False
    if not (_is_plain_conv(se.fc1) and _is_plain_conv(se.fc2)):
        return False
    if type(se.act) is not nn.ReLU or type(se.sigmoid) is not nn.Sigmoid or _has_any_global_hook():
        return False
    if any(_is_changed(m) for m in (norm, se, se.fc1, se.act, se.fc2, se.sigmoid, act, *between)):
        return False
    return _are_plain_parameters(u, norm.weight, norm.bias, se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias)


def _is_plain_batch(u: Tensor) -> bool:
    """Return whether a tensor is a batch in the CPU's memory with two values a channel, and nothing traces it."""
    if type(u) is not Tensor or u.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or is_tracing() or peek_interpreter_stack() is not None:
        return False
    if u.dim() != 4 or u.numel() <= u.shape[1]:
        return False
    modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    return forward_ad._current_level < 0 and modes == 0


def _are_plain_parameters(u: Tensor, *parameters: Tensor | None) -> bool:
    """Return whether parameters are tensors of memory in one dtype of 32 bits or more: that of ``u``, or autocast's."""
    if any(type(p) is not nn.Parameter and type(p) is not Tensor for p in parameters):
        return False
    dtypes = {p.dtype for p in parameters if p is not None}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        return False
    return u.dtype in dtypes or torch.is_autocast_enabled("cpu")


def _is_plain_conv(conv: nn.Module) -> bool:
    """Return whether a layer is a 1x1 convolution with a bias, as `SqueezeExcite` makes them."""
    if type(conv) is not nn.Conv2d or conv.bias is None:
        return False
    return conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _is_changed(module: nn.Module) -> bool:
    """Return whether a module has hooks of any kind, or another method than its class was written with."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    if hooks or any(name in module.__dict__ for name in ("forward", "gate", "_conv_forward", "_call_impl")):
        return True
    return type(module).forward is not FORWARDS.get(type(module))


def fused_bn_se_add_relu(u: Tensor, shortcut: Tensor, norm: nn.BatchNorm2d, se: SqueezeExcite) -> Tensor:
    """Return ``relu(se(norm(u)) + shortcut)``, all ``(N, C, H, W)``, and move the statistics of ``norm``."""
    if norm.num_batches_tracked is not None and norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
    kept = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
    statistics = (*kept, norm.momentum, norm.eps)
    matrices = (se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias)
    return _FusedBnSeAddRelu.apply(u, shortcut, norm.weight, norm.bias, *matrices, statistics)


class _FusedBnSeAddRelu(torch.autograd.Function):
    """``v = norm(u)``, ``s = sigmoid(w2 relu(w1 mean(v) + b1) + b2)``, ``y = relu(s * v + shortcut)``.

    Small tensors, ``(N, C, 1, 1)`` and ``(C,)``, are in the dtype of the parameters, also under autocast.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        shortcut: Tensor,
        weight: Tensor,
        bias: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        statistics: tuple[Tensor | None, Tensor | None, float, float],
    ) -> Tensor:
        running_mean, running_var, momentum, eps = statistics
        v, mean, scale = torch.native_batch_norm(u, weight, bias, running_mean, running_var, True, momentum, eps)
        squeezed, hidden, gate = _excitation(v, weight, w1, b1, w2, b2)
        y = v * gate.to(v.dtype)
        # In place where a block is anti-aliased, see `Bottleneck.forward`; under autocast dtypes can differ
        y = y.to(torch.promote_types(y.dtype, shortcut.dtype)).add_(shortcut).relu_()
        ctx.save_for_backward(u, y, weight, bias, w1, b1, w2, b2, mean, scale, squeezed, hidden, gate)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, y, weight, bias, w1, b1, w2, b2, mean, scale, *small = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: what forward computed must depend on its inputs
            y = y.detach()  # only its sign is used
            mean = u.to(weight.dtype).mean((0, 2, 3))
            scale = (u.to(weight.dtype).var((0, 2, 3), correction=0) + ctx.eps).rsqrt()
            v = (u - _spread(mean[None], u)) * _spread((scale * weight)[None], u) + _spread(bias[None], u)
            small = _excitation(v, weight, w1, b1, w2, b2)
        squeezed, hidden, gate = (t.flatten(1) for t in small)  # (N, C, 1, 1) -> (N, C)
        pixels = u[0, 0].numel()
        g = torch.ops.aten.threshold_backward(grad, y, 0)
        sum_g = _sum(g, weight)  # (N, C), as all that follows
        sum_gx = (_sum(g * u, weight) - mean * sum_g) * scale  # x: u normalised
        # Through the gate to the squeeze
        grad_gate = (sum_gx * weight + sum_g * bias) * gate * (1 - gate)
        grad_hidden = (grad_gate @ w2.flatten(1)) * (hidden > 0)
        grad_squeezed = grad_hidden @ w1.flatten(1)
        centred = (_sum(u, weight) / pixels - mean) * scale  # the mean of each image's x
        # Through batch norm: v's gradient is g * gate + grad_squeezed / pixels; its sums, of it and of it * x
        grad_bias = (sum_g * gate + grad_squeezed).sum(0)  # (C,)
        grad_weight = (sum_gx * gate + grad_squeezed * centred).sum(0)
        factor, images = weight * scale, len(u)
        slope = -factor * scale * grad_weight / (images * pixels)  # (C,)
        shift = factor * (grad_squeezed - grad_bias / images) / pixels - slope * mean  # (N, C)
        du = (g * _spread(gate * factor, u)).addcmul_(u, _spread(slope[None], u)).add_(_spread(shift, u))
        grad_w1, grad_w2 = (grad_hidden.t() @ squeezed).view_as(w1), (grad_gate.t() @ hidden).view_as(w2)
        return du, g, grad_weight, grad_bias, grad_w1, grad_hidden.sum(0), grad_w2, grad_gate.sum(0), None


def _excitation(v: Tensor, like: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, ...]:
    """Return the squeezed input ``(N, C, 1, 1)``, the hidden layer and the gate, in the dtype of ``like``."""
    with torch.autocast(v.device.type, enabled=False):
        squeezed = v.mean((2, 3), keepdim=True).to(like.dtype)  # (N, C, H, W) -> (N, C, 1, 1)
        hidden = torch.relu(F.conv2d(squeezed, w1, b1))
        return squeezed, hidden, torch.sigmoid(F.conv2d(hidden, w2, b2))


def _sum(x: Tensor, like: Tensor) -> Tensor:
    """Sum over pixels, in the dtype of ``like``: ``(N, C, H, W) -> (N, C)``."""
    return x.sum((2, 3), dtype=like.dtype)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Return ``(N, C)`` as ``(N, C, 1, 1)`` in the dtype of ``like``."""
    return values.to(like.dtype)[:, :, None, None]

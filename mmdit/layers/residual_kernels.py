"""What hyper-connections do with `s` residual streams of each token, as operators that save little and recompute.

Each operator is one autograd node. It keeps the streams it was given (`b n s d`, which the next one keeps too) and the
small coefficients; normed, mixed and weighted copies of the streams are never saved, and most of them never made. They
compute in the streams' dtype, also under autocast, which would cast the residual to half precision. Where gradients are
to be differentiated again (`create_graph=True`), the backward pass is that of the formulas.

A tracer (compile, export, `torch.func`) and the meta device should see formulas rather than these nodes: see
`is_traced`. On a GPU what a node does with the streams is a launch of Triton each, where Triton is installed: see
`_on_gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import Parameter

SINKHORN_ITERATIONS = 20  # Xie et al. 2025 (mHC, arXiv 2512.24880), section 4.2
BLOCK = 128  # tokens whose wide copies stay in the cache
MOST_STREAMS = 16  # that Triton's kernels take: those of a token are in registers together


def is_traced(x: Tensor) -> bool:
    """Whether whoever runs this wants the formula: a compiler, which fuses and recomputes on its own, a count of the
    products on the meta device, or vmap and forward-mode derivatives, which the nodes have no rules for."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return torch.compiler.is_compiling() or x.is_meta or transformed


def wide_dtype(x: Tensor) -> torch.dtype:
    """What coefficients are computed in, and their gradients, which are sums over all features."""
    return torch.promote_types(x.dtype, torch.float32)


def _on_gpu(x: Tensor) -> ModuleType | None:
    """`residual_triton`, where its kernels can take these streams `... s d`; None: torch's operators do the same."""
    if x.device.type != "cuda" or type(x) not in (Tensor, Parameter):  # fake tensors have no memory
        return None
    return _triton() if wide_dtype(x) == torch.float32 and x.shape[-2] <= MOST_STREAMS else None


@cache
def _triton() -> ModuleType | None:
    """The kernels, if one can be compiled and launched: Triton and a C compiler are there, the GPU is not too old."""
    try:
        kernels = import_module("mmdit.layers.residual_triton")
        kernels.sinkhorn(torch.zeros(1, 2, 2, device="cuda"), 2)
    except Exception:
        return None
    return kernels


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Compute in the dtype of `x`."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def read_streams(
    x: Tensor, weight: Tensor | None, eps: float, weigh: Callable[..., list[Tensor]], parameters: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`pre^T x` of each token, b n d, and what `write_streams` needs: x, mix and post, or x alone.

    The coefficients are `pre, mix, post = weigh(rms_norm(x) @ weight.T, *parameters)`, or pre alone; the product, b n s
    k, is None without a weight. `x`: b n s d; `weight`: k d or None. `weigh` runs again in the backward pass.

    The streams that it hands on are to be written to, not `x`: their gradient then comes back to this node, which adds
    its own to it in one pass.
    """
    branch, state, *write = _Read.apply(x, weight, eps, weigh, *parameters)[:-2]
    return branch, (state, *write)


def write_streams(x: Tensor, mix: Tensor, post: Tensor, out: Tensor, gate: Tensor | None) -> Tensor:
    """`mix^T x + post (gate * out)` of each token.

    `x`: b n s d; `mix`: b n s s; `post`: b n s 1; `out`: b n d; `gate`: b 1 d, b n d or None -> b n s d.
    """
    return _Write.apply(x, mix, post, out, gate)


def sinkhorn_knopp(logits: Tensor, iterations: int = SINKHORN_ITERATIONS) -> Tensor:
    """The doubly stochastic matrix that scaling rows and columns makes of `exp(logits)`, `... s s` (Sinkhorn & Knopp
    1967).

    No entry overflows, and no sum that is divided by vanishes; rows add up to 1 exactly, columns to the convergence.
    """
    if not is_traced(logits):
        return _Sinkhorn.apply(logits, iterations)
    return _sinkhorn_formula(logits, iterations)


# --------------------------------------------------------------------------------------------------------- operators


class _Read(Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, eps: float, weigh: Callable[..., list[Tensor]], *parameters: Tensor
    ) -> Any:
        product = inverse_rms = None
        if weight is not None:
            product, inverse_rms = _normed_product(x, weight, eps)
        pre, *write = _fitted(weigh(product, *parameters), x)
        return _weighted_sums(pre.mT, x).squeeze(-2), x.view_as(x), *write, product, inverse_rms

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, ctx.eps, ctx.weigh, *parameters = inputs
        _, state, *_, product, inverse_rms = output
        ctx.save_for_backward(x, weight, product, inverse_rms, *parameters)
        constant = (product, inverse_rms, None if x.requires_grad else state)
        ctx.mark_non_differentiable(*(value for value in constant if value is not None))

    @staticmethod
    def backward(ctx: Any, grad_branch: Tensor, grad_x: Tensor, *grads: Any) -> Any:
        x, weight, product, inverse_rms, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (x, weight, *parameters)
            again = _gradients_of(
                lambda *values: _read_formula(ctx.eps, ctx.weigh, *values), inputs, (grad_branch, grad_x, *grads[:-2])
            )
            return *again[:2], None, None, *again[2:]
        with torch.enable_grad():  # the coefficients again, which are small, and their gradients
            leaves = [p.detach().requires_grad_() for p in (product, *parameters) if p is not None]
            weights = _fitted(ctx.weigh(*leaves) if product is not None else ctx.weigh(None, *leaves), x)
        grad_branch = grad_branch.unsqueeze(-2)
        outer = [_dots(grad_branch, x).mT, *grads[:-2]]
        inner = list(torch.autograd.grad(weights, leaves, outer))
        pre, grad_weight = weights[0].detach().to(x.dtype), None
        if product is None:
            return (
                torch.addcmul(grad_x, pre, grad_branch) if ctx.needs_input_grad[0] else None,
                None,
                None,
                None,
                *inner,
            )
        grad_product = inner.pop(0)
        rows = (grad_product * inverse_rms).to(x.dtype).flatten(0, -2)
        total = None
        if ctx.needs_input_grad[0]:
            through_norm = (grad_product * product).sum(-1, keepdim=True) * inverse_rms.square() / -x.shape[-1]
            total = torch.addmm(grad_x.reshape(-1, x.shape[-1]), rows, weight).view_as(x)
            total.addcmul_(x, through_norm.to(x.dtype)).addcmul_(pre, grad_branch)
        if ctx.needs_input_grad[1]:
            grad_weight = rows.T @ x.reshape(-1, x.shape[-1])
        return total, grad_weight, None, None, *inner


class _Write(Function):
    @staticmethod
    def forward(x: Tensor, mix: Tensor, post: Tensor, out: Tensor, gate: Tensor | None) -> Tensor:
        if kernels := _on_gpu(x):
            return kernels.mix(mix.mT, x, post, out, gate)
        gated = (out if gate is None else gate * out).to(x.dtype)
        return _weighted_sums(mix.mT, x).addcmul_(post.to(x.dtype), gated.unsqueeze(-2))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            return _gradients_of(_write_formula, ctx.saved_tensors, [grad])
        x, mix, post, out, gate = ctx.saved_tensors
        needed, grad = ctx.needs_input_grad, grad.contiguous()
        grad_x = _weighted_sums(mix, grad) if needed[0] else None
        grad_mix = _dots(x, grad) if needed[1] else None
        grad_post = grad_gate = None
        if needed[2]:
            gated = (out if gate is None else gate * out).to(x.dtype)
            grad_post = _dots(gated.unsqueeze(-2), grad).mT
        grad_out = _weighted_sums(post.mT, grad).squeeze(-2)
        if gate is not None:
            grad_gate = (grad_out * out).sum_to_size(gate.shape) if needed[4] else None
            grad_out = grad_out * gate
        return grad_x, grad_mix, grad_post, grad_out.to(out.dtype), grad_gate


class _Sinkhorn(Function):
    """The first round is done in the logarithm, which leaves no row and no column without an entry of 1 / s^2 or more;
    from there on all sums are between 1 / s^2 and s, and dividing by them is safe. Tokens are innermost: `s s n`."""

    @staticmethod
    def forward(logits: Tensor, iterations: int) -> Tensor:
        if kernels := _on_gpu(logits):
            return kernels.sinkhorn(logits, iterations)
        matrix, _ = _sinkhorn_rounds(_tokens_last(logits), iterations)
        return _tokens_first(matrix, logits)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        logits, ctx.iterations = inputs
        ctx.save_for_backward(logits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (logits,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_gradients_of(lambda x: [_sinkhorn_formula(x, ctx.iterations)], [logits], [grad]), None
        if kernels := _on_gpu(logits):
            return kernels.sinkhorn_backward(logits, grad, ctx.iterations), None
        entering = _tokens_last(logits)
        matrix, sums = _sinkhorn_rounds(entering, ctx.iterations)
        grad = _tokens_last(grad) * matrix  # of the matrix's logarithm, in which a division is a subtraction
        while sums:
            dim = 1 - len(sums) % 2
            grad.addcmul_(matrix, grad.sum(dim, keepdim=True), value=-1)
            matrix.mul_(sums.pop())
        grad.addcmul_(matrix, grad.sum(1, keepdim=True), value=-1)
        grad.addcmul_(entering.softmax(0), grad.sum(0, keepdim=True), value=-1)
        return _tokens_first(grad, logits), None


def _sinkhorn_rounds(logits: Tensor, iterations: int) -> tuple[Tensor, list[Tensor]]:
    """The matrix, and the sums of the columns and rows that it was divided by after the first round."""
    matrix, sums = logits.log_softmax(0).softmax(1), []
    for _ in range(iterations - 1):
        for dim in (0, 1):
            sums.append(matrix.sum(dim, keepdim=True))
            matrix.div_(sums[-1])
    return matrix, sums


def _tokens_last(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:]).permute(1, 2, 0).contiguous()


def _tokens_first(x: Tensor, like: Tensor) -> Tensor:
    return x.permute(2, 0, 1).reshape(like.shape)


# ---------------------------------------------------------------- the same as formulas, where gradients have gradients


def _gradients_of(
    formula: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradient of each input, as a function of inputs and `grads` that can be differentiated again."""
    # views, so that what one input owes to another (mix comes from x) is not counted here
    given = [None if x is None else x.view_as(x) for x in inputs]
    outs = [(out, grad) for out, grad in zip(formula(*given), grads, strict=True) if out.requires_grad]
    wanted = [x for x in given if x is not None and x.requires_grad]
    values, cotangents = zip(*outs, strict=True)
    found = iter(torch.autograd.grad(values, wanted, cotangents, create_graph=True, allow_unused=True))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in given)


def _read_formula(eps: float, weigh: Callable[..., list[Tensor]], x: Tensor, weight: Any, *parameters: Tensor) -> Any:
    product = None
    if weight is not None:
        product = F.linear(F.rms_norm(x, x.shape[-1:], None, eps), weight).to(wide_dtype(x))
    pre, *write = _fitted(weigh(product, *parameters), x)
    return (pre.to(x.dtype).mT @ x).squeeze(-2), x, *write


def _write_formula(x: Tensor, mix: Tensor, post: Tensor, out: Tensor, gate: Tensor | None) -> tuple[Tensor]:
    gated = (out if gate is None else gate * out).to(x.dtype)
    return (torch.addcmul(mix.to(x.dtype).mT @ x, post.to(x.dtype), gated.unsqueeze(-2)),)


def _sinkhorn_formula(logits: Tensor, iterations: int) -> Tensor:
    for _ in range(iterations):
        logits = logits.log_softmax(dim=-2).log_softmax(dim=-1)
    return logits.exp()


# ------------------------------------------------------------------------------------------------------- small pieces


def _fitted(weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """For each token of x."""
    return [w.expand(*x.shape[:-2], -1, -1) for w in weights]


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """`x`: b n s d -> b n s 1, in float32 at least."""
    # squares add up in float32 anyhow; to ask for the dtype makes a copy of x, which only float16's range is worth
    dtype = torch.float32 if x.dtype == torch.float16 else None
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    return (norm.to(wide_dtype(x)).square_() / x.shape[-1] + eps).rsqrt_()


def _normed_product(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm(x) @ weight.T` and `1 / rms(x)`. `x`: b n s d; `weight`: k d -> b n s k, b n s 1."""
    if kernels := _on_gpu(x):
        product, inverse_rms = kernels.normed_product(x, weight, eps)
        return product, inverse_rms
    inverse_rms = _inverse_rms(x, eps)
    if x.dtype == torch.float16:  # a product before the norm may leave its range
        return F.linear((x * inverse_rms).to(x.dtype), weight).to(inverse_rms.dtype), inverse_rms
    return F.linear(x, weight) * inverse_rms, inverse_rms


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y.mT` for each token, in float32 at least. `x`: b n m d; `y`: b n s d -> b n m s."""
    if kernels := _on_gpu(y):
        products: Tensor = kernels.dots(x, y)
        return products
    if x.device.type != "cpu" or x.dtype == wide_dtype(x):
        return (x @ y.mT).to(wide_dtype(x))
    # products this small are slow on the CPU in half precision; wide copies of a few tokens at a time cost little
    parts = zip(x.flatten(0, 1).split(BLOCK), y.flatten(0, 1).split(BLOCK), strict=True)
    return torch.cat([a.float() @ b.float().mT for a, b in parts]).view(*x.shape[:-1], y.shape[-2])


def _weighted_sums(weights: Tensor, x: Tensor) -> Tensor:
    """`weights @ x` for each token. `weights`: b n m s; `x`: b n s d -> b n m d."""
    if kernels := _on_gpu(x):
        mixed: Tensor = kernels.mix(weights, x)
        return mixed
    *tokens, m, s = weights.shape
    weights = weights.to(x.dtype)
    if x.device.type != "cpu":
        return weights @ x
    # a product of matrices this small is slow on the CPU; to add up weighted rows of a table is what this kernel is for
    rows = torch.arange(x.numel() // x.shape[-1], device=x.device).view(-1, 1, s).expand(-1, m, s).reshape(-1, s)
    sums = F.embedding_bag(rows, x.reshape(-1, x.shape[-1]), mode="sum", per_sample_weights=weights.reshape(-1, s))
    return sums.view(*tokens, m, x.shape[-1])

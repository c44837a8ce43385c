# mypy: allow-untyped-defs, allow-incomplete-defs
"""What hyper-connections do with a token's `s` streams, as Triton kernels: one launch each, on a GPU.

Each stands for the formula of the same meaning in `residual_kernels`, which imports this file only where it is used:
`mix` for `weights @ x (+ post (gate * out))`, `dots` for `x @ y^T`, `normed_product` for the product with the RMS norm,
`sinkhorn` and `sinkhorn_backward` for Sinkhorn-Knopp. They read float32, bfloat16 or float16, and add up in float32.
Streams and rows are few (`residual_kernels.MOST_STREAMS`), so that those of a token are in registers together.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FEATURES = 1024  # at most in one program of `mix`
TILE = 8192  # numbers that a program has in registers at once
MATRICES = 2048  # the same of Sinkhorn-Knopp

# ------------------------------------------------------------------------------------------------------------ kernels


@triton.jit
def mix_kernel(
    weights,
    x,
    post,
    out,
    gate,
    result,
    dim,
    length,
    weights_token,
    weights_row,
    weights_stream,
    post_token,
    post_row,
    gate_sample,
    gate_token,
    ROWS: tl.constexpr,
    STREAMS: tl.constexpr,
    PADDED: tl.constexpr,
    ADDS: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`result[m] = sum_s weights[m, s] x[s] + post[m] gate out`, for one token and `BLOCK` features."""
    token = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    streams = tl.arange(0, PADDED)
    inside = features < dim
    there = (streams[:, None] < STREAMS) & inside[None, :]
    tile = tl.load(x + (token * STREAMS + streams[:, None]) * dim + features[None, :], mask=there, other=0.0)
    tile = tile.to(tl.float32)
    if ADDS:
        added = tl.load(out + token * dim + features, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            place = (token // length) * gate_sample + (token % length) * gate_token
            added *= tl.load(gate + place + features, mask=inside, other=0.0).to(tl.float32)
    for row in tl.static_range(ROWS):
        place = token * weights_token + row * weights_row + streams * weights_stream
        share = tl.load(weights + place, mask=streams < STREAMS, other=0.0).to(tl.float32)
        mixed = tl.sum(share[:, None] * tile, axis=0)
        if ADDS:
            mixed += tl.load(post + token * post_token + row * post_row).to(tl.float32) * added
        target = result + (token * ROWS + row) * dim + features
        tl.store(target, mixed.to(result.dtype.element_ty), mask=inside)


@triton.jit
def dots_kernel(
    x,
    y,
    result,
    inverse_rms,
    dim,
    y_token,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED_ROWS: tl.constexpr,
    PADDED_COLUMNS: tl.constexpr,
    NORMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`result[m, k] = sum_d x[m, d] y[k, d]` for one token; `NORMED`: of `x / rms(x)`, whose `1 / rms(x)` is kept."""
    token = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, PADDED_ROWS), tl.arange(0, PADDED_COLUMNS)
    sums = tl.zeros([PADDED_ROWS, PADDED_COLUMNS], dtype=tl.float32)
    squares = tl.zeros([PADDED_ROWS], dtype=tl.float32)
    for first in range(0, dim, BLOCK):
        features = first + tl.arange(0, BLOCK)
        inside = features[None, :] < dim
        a = tl.load(
            x + (token * ROWS + rows[:, None]) * dim + features[None, :],
            mask=(rows[:, None] < ROWS) & inside,
            other=0.0,
        ).to(tl.float32)
        b = tl.load(
            y + token * y_token + columns[:, None] * dim + features[None, :],
            mask=(columns[:, None] < COLUMNS) & inside,
            other=0.0,
        ).to(tl.float32)
        sums += tl.sum(a[:, None, :] * b[None, :, :], axis=2)
        if NORMED:
            squares += tl.sum(a * a, axis=1)
    if NORMED:
        inverse = 1.0 / tl.sqrt(squares / dim + eps)
        sums *= inverse[:, None]
        tl.store(inverse_rms + token * ROWS + rows, inverse, mask=rows < ROWS)
    place = (token * ROWS + rows[:, None]) * COLUMNS + columns[None, :]
    tl.store(result + place, sums, mask=(rows[:, None] < ROWS) & (columns[None, :] < COLUMNS))


@triton.jit
def sinkhorn_kernel(
    logits,
    grad,
    result,
    history,
    tokens,
    rounds,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sinkhorn-Knopp of `BLOCK` tokens' logits, or its gradient; `history` keeps the sums that were divided by.

    The first round is done in the logarithm; see `residual_kernels._Sinkhorn`, whose steps these are.
    """
    block = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    index = tl.arange(0, PADDED)
    row, column = index[None, :, None], index[None, None, :]
    place = block[:, None, None] * (SIZE * SIZE) + row * SIZE + column
    there = (block[:, None, None] < tokens) & (row < SIZE) & (column < SIZE)
    outside = tl.where(index < SIZE, 0.0, 1.0)[None, :]  # a sum of nothing is divided by 1
    past = history + block[:, None] * (2 * rounds * PADDED) + index[None, :]
    known = (block[:, None] < tokens) & (index[None, :] < SIZE)

    values = tl.load(logits + place, mask=there, other=0.0)
    largest = tl.max(tl.where(row < SIZE, values, float("-inf")), axis=1)
    scaled = tl.where((row < SIZE) & (column < SIZE), tl.exp(values - largest[:, None, :]), 0.0)
    of_columns = scaled / (tl.sum(scaled, axis=1) + outside)[:, None, :]  # a softmax over rows
    # a softmax over columns of its logarithm: in logarithms, for a row of it may have vanished
    logs = values - (largest + tl.log(tl.sum(scaled, axis=1) + outside))[:, None, :]
    largest = tl.max(tl.where(column < SIZE, logs, float("-inf")), axis=2)
    scaled = tl.where((row < SIZE) & (column < SIZE), tl.exp(logs - largest[:, :, None]), 0.0)
    matrix = scaled / (tl.sum(scaled, axis=2) + outside)[:, :, None]

    for step in range(rounds):
        sums = tl.sum(matrix, axis=1) + outside
        if BACKWARD:
            tl.store(past + 2 * step * PADDED, sums, mask=known)
        matrix /= sums[:, None, :]
        sums = tl.sum(matrix, axis=2) + outside
        if BACKWARD:
            tl.store(past + (2 * step + 1) * PADDED, sums, mask=known)
        matrix /= sums[:, :, None]

    if BACKWARD:
        tl.debug_barrier()  # the sums are read by other threads than wrote them
        change = tl.load(grad + place, mask=there, other=0.0) * matrix  # of the matrix's logarithm
        for back in range(rounds):
            step = rounds - 1 - back
            change -= matrix * tl.sum(change, axis=2)[:, :, None]
            matrix *= tl.load(past + (2 * step + 1) * PADDED, mask=known, other=1.0)[:, :, None]
            change -= matrix * tl.sum(change, axis=1)[:, None, :]
            matrix *= tl.load(past + 2 * step * PADDED, mask=known, other=1.0)[:, None, :]
        change -= matrix * tl.sum(change, axis=2)[:, :, None]
        matrix = change - of_columns * tl.sum(change, axis=1)[:, None, :]
    tl.store(result + place, matrix, mask=there)


# ----------------------------------------------------------------------------------------------------------- launches


def mix(
    weights: Tensor, x: Tensor, post: Tensor | None = None, out: Tensor | None = None, gate: Tensor | None = None
) -> Tensor:
    """`weights @ x` for each token, and `post (gate * out)` added to it where they are given.

    `weights`: b n m s; `x`: b n s d; `post`: b n m 1; `out`: b n d; `gate`: b 1 d, b n d or None -> b n m d.
    """
    *_, rows, streams = weights.shape
    x, dim = x.contiguous(), x.shape[-1]
    result = torch.empty(*x.shape[:-2], rows, dim, dtype=x.dtype, device=x.device)
    if not result.numel():
        return result
    weights = weights.reshape(-1, rows, streams)
    posts, outs, gates = weights, x, x  # not read
    if post is not None and out is not None:
        posts, outs = post.reshape(-1, rows, 1), out.contiguous()
        gates = outs if gate is None else gate.expand(out.shape)
        gates = gates if gates.stride(-1) == 1 else gates.contiguous()
    padded = triton.next_power_of_2(streams)
    block = min(triton.next_power_of_2(dim), FEATURES, TILE // padded)
    with _on(x):
        mix_kernel[(x.numel() // (streams * dim), triton.cdiv(dim, block))](
            weights,
            x,
            posts,
            outs,
            gates,
            result,
            dim,
            x.shape[-3],
            *weights.stride(),
            *posts.stride()[:2],
            *gates.stride()[:2],
            ROWS=rows,
            STREAMS=streams,
            PADDED=padded,
            ADDS=post is not None,
            GATED=gate is not None,
            BLOCK=block,
        )
    return result


def dots(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y.mT` for each token, in float32. `x`: b n m d; `y`: b n s d -> b n m s."""
    return _dots(x, y, y.shape[-2] * y.shape[-1], None)[0]


def normed_product(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm(x) @ weight.T` and `1 / rms(x)`, in float32. `x`: b n s d; `weight`: k d -> b n s k, b n s 1."""
    return _dots(x, weight, 0, eps)


def _dots(x: Tensor, y: Tensor, y_token: int, eps: float | None) -> tuple[Tensor, Tensor]:
    x, y = x.contiguous(), y.contiguous()
    *tokens, rows, dim = x.shape
    columns = y.shape[-2]
    result = torch.empty(*tokens, rows, columns, dtype=torch.float32, device=x.device)
    inverse_rms = torch.empty(*tokens, rows, 1, dtype=torch.float32, device=x.device) if eps is not None else result
    padded = triton.next_power_of_2(rows), triton.next_power_of_2(columns)
    if result.numel():
        with _on(x):
            dots_kernel[(result.numel() // (rows * columns),)](
                x,
                y,
                result,
                inverse_rms,
                dim,
                y_token,
                eps or 0.0,
                ROWS=rows,
                COLUMNS=columns,
                PADDED_ROWS=padded[0],
                PADDED_COLUMNS=padded[1],
                NORMED=eps is not None,
                BLOCK=min(triton.next_power_of_2(dim), max(32, TILE // (padded[0] * padded[1]))),
            )
    return result, inverse_rms


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """The doubly stochastic matrix of `exp(logits)`, `... s s` in float32."""
    return _sinkhorn(logits, None, iterations)


def sinkhorn_backward(logits: Tensor, grad: Tensor, iterations: int) -> Tensor:
    """The gradient of the logits from that of the matrix."""
    return _sinkhorn(logits, grad, iterations)


def _sinkhorn(logits: Tensor, grad: Tensor | None, iterations: int) -> Tensor:
    logits, size, rounds = logits.contiguous(), logits.shape[-1], iterations - 1
    result, tokens = torch.empty_like(logits), logits.numel() // size**2
    padded = triton.next_power_of_2(size)
    block = max(1, MATRICES // padded**2)
    history = logits if grad is None else logits.new_empty(tokens, max(1, 2 * rounds), padded)
    if tokens:
        with _on(logits):
            sinkhorn_kernel[(triton.cdiv(tokens, block),)](
                logits,
                logits if grad is None else grad.contiguous(),
                result,
                history,
                tokens,
                rounds,
                SIZE=size,
                PADDED=padded,
                BACKWARD=grad is not None,
                BLOCK=block,
            )
    return result


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()

"""The position-wise feedforward of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# name -> (activation, gated)
FEEDFORWARD_KINDS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "gelu": (F.gelu, False),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), False),
    "silu": (F.silu, False),
    "geglu": (F.gelu, True),
    "swiglu": (F.silu, True),
}


class FeedForward(nn.Module):
    """`linear -> activation -> linear`; the gated kinds are `value * activation(gate)` (Shazeer 2020).

    Args:
        dim: width of the tokens.
        mult: hidden width over `dim`; `dim_hidden` gives it itself.
        kind: gelu, gelu_tanh (the one of SD3), silu, geglu or swiglu.
        bias: whether both linears have one.
        dropout: share of hidden features dropped in training.
    """

    def __init__(
        self,
        dim: int,
        *,
        mult: float = 4,
        dim_hidden: int | None = None,
        kind: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in FEEDFORWARD_KINDS:
            raise ValueError(f"feedforward kind must be one of {', '.join(FEEDFORWARD_KINDS)}, got {kind!r}")
        dim_hidden = dim_hidden or int(dim * mult)
        if dim_hidden < 1:
            raise ValueError(f"feedforward mult must leave a hidden width of at least 1, got {mult} of {dim}")
        self.activation, self.gated = FEEDFORWARD_KINDS[kind]
        self.proj_in = nn.Linear(dim, dim_hidden * (2 if self.gated else 1), bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.proj_out = nn.Linear(dim_hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b n d -> b n d."""
        x = self.proj_in(x)
        if self.gated:
            value, gate = x.chunk(2, dim=-1)
            x = value * self.activation(gate)
        else:
            x = self.activation(x)
        return self.proj_out(self.dropout(x))


def feedforward_options(ff_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """`FeedForward`'s options from `ff_kwargs`, in which the published package's spelling works too.

    There `glu`, `swish` and `no_bias` are three flags; here the first two name a `kind` and the last is `bias=False`.

    Raises:
        ValueError: an option is not known, or flags and `kind` are mixed.
    """
    options = dict(ff_kwargs or {})
    if "glu" in options or "swish" in options:
        if "kind" in options:
            raise ValueError("ff_kwargs: give either kind or the flags glu and swish, not both")
        glu, swish = options.pop("glu", False), options.pop("swish", False)
        options["kind"] = {(0, 0): "gelu", (0, 1): "silu", (1, 0): "geglu", (1, 1): "swiglu"}[bool(glu), bool(swish)]
    if "no_bias" in options:
        options["bias"] = not options.pop("no_bias")
    known = ("mult", "dim_hidden", "kind", "bias", "dropout")
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ValueError(f"ff_kwargs: unknown {', '.join(unknown)}; known are {', '.join(known)}, glu, swish, no_bias")
    return options

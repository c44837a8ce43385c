"""The feedforward of a block: of each token by itself, or by convolutions over its neighbours too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.neighbours import Valid, make_neighbours
from mmdit.layers.plain import unchanged
from mmdit.options import FeedForwardOptions
from mmdit.options.fields import takes

# name -> (activation, gated)
FEEDFORWARD_KINDS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "gelu": (F.gelu, False),
    "gelu_tanh": (partial(F.gelu, approximate="tanh"), False),  # no lambda: modules are pickled
    "silu": (F.silu, False),
    "geglu": (F.gelu, True),
    "geglu_tanh": (partial(F.gelu, approximate="tanh"), True),
    "swiglu": (F.silu, True),
}


@takes(FeedForwardOptions)
class FeedForward(nn.Module):
    """`linear -> activation -> linear`; the gated kinds are `value * activation(gate)` (Shazeer 2020).

    With a `kernel` above 1 both linears are convolutions over so many tokens, as in MMAudio (Cheng et al. 2024).

    Args:
        dim: width of the tokens.
        options: or as keywords: mult, dim_hidden, kind (gelu, gelu_tanh, silu, geglu, geglu_tanh, swiglu), bias,
            dropout, kernel.

    Raises:
        ValueError: an option is wrong.
    """

    def __init__(self, dim: int, options: FeedForwardOptions | None = None, **keywords: Any) -> None:
        super().__init__()
        options = FeedForwardOptions.of(options, keywords, type(self).__name__)
        dim_hidden = options.dim or int(dim * options.mult)
        if dim_hidden < 1:
            raise ValueError(f"feedforward mult must leave a hidden width of at least 1, got {options.mult} of {dim}")
        if not isinstance(options.kernel, int):
            raise ValueError(f"kernel must be a number here: this feedforward is of one modality, got {options.kernel}")
        self.activation, self.gated = FEEDFORWARD_KINDS[options.kind]
        self.beside = make_neighbours(options.kernel)
        self.proj_in = nn.Linear(options.kernel * dim, dim_hidden * (2 if self.gated else 1), bias=options.bias)
        self.dropout = nn.Dropout(options.dropout) if options.dropout else unchanged
        self.proj_out = nn.Linear(options.kernel * dim_hidden, dim, bias=options.bias)

    def forward(self, x: Tensor, valid: Valid = None) -> Tensor:
        """`x`: b n d -> b n d; `valid`: which tokens are, where a convolution looks beside them."""
        x = self.proj_in(self.beside(x, valid))
        if self.gated:
            value, gate = x.chunk(2, dim=-1)
            x = value * self.activation(gate)
        else:
            x = self.activation(x)
        return self.proj_out(self.beside(self.dropout(x), valid))

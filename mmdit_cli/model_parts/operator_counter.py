"""What every operator of a run cost, and which component ran it, in the forward pass and in the backward one.

The products' formulas are those of `torch.utils.flop_counter`. The convention for the rest, `work_of`, is our own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from mmdit_cli.model_parts.components import Component
from mmdit_cli.model_parts.follower import FollowingMode, Place, tensors_of

WORK_KINDS = ("softmax", "layer norm", "activation", "arithmetic", "reduction")
WORK_CONVENTION = (
    "1 FLOP an output element of an elementwise operator (addcmul: 2), 1 an input element of a sum or mean; "
    "softmax 5 an element (backward 4), layer norm 5, with weight and bias 7 (backward 9 and 12)"
)
SOFTMAX = {
    # maximum, subtract, exponential, sum, divide; backward: multiply, sum, multiply, subtract
    "_softmax": 5,
    "_safe_softmax": 5,
    "_log_softmax": 5,
    "_softmax_backward_data": 4,
    "_log_softmax_backward_data": 4,
}
# plain and with weight and bias: mean, subtract, square, sum, scale, and multiply, add; backward: the normed input
# again (2), its product with the gradient, two means, and what they take off (4), and for the weight and the bias 3
LAYER_NORM = {"native_layer_norm": (5, 7), "native_layer_norm_backward": (9, 12)}
ACTIVATIONS = ("gelu", "silu", "tanh", "sigmoid", "relu")
REDUCTIONS = ("sum", "mean", "amax", "amin", "var", "prod")
COPIES = ("clone", "copy", "_to_copy")

# operators that multiply matrices or do as much; whichever of them has no formula may not pass in silence
_HEAVY = re.compile(
    r"(^|_)(\w*mm|\w*mv|\w*dot|\w*matmul|conv\w*|\w*attention\w*|linear|\w*bilinear|trilinear|einsum|addr|ger|cdist|"
    r"rnn|lstm|gru|fft|cholesky|svd|qr|eigh?|solve\w*|inv\w*)(_|$)"
)


class UncountedOperator(ValueError):
    """An operator that multiplies matrices and has no formula: any total would be too low."""


def has_formula(operator: Any) -> bool:
    """Whether torch's counter knows the FLOPs of an operator overload.

    Raises:
        UncountedOperator: it does not, and the operator multiplies matrices, or is none of torch's own.
    """
    packet = operator.overloadpacket
    if packet in flop_registry:
        return True
    namespace, name = operator.namespace, packet.__name__
    if namespace not in ("aten", "prim", "prims"):
        raise UncountedOperator(
            f"{namespace}::{name} is no operator of torch, and nothing says how many FLOPs it does; "
            "register a formula with torch.utils.flop_counter.register_flop_formula"
        )
    if _HEAVY.search(name):
        raise UncountedOperator(
            f"{namespace}::{name} multiplies matrices, and torch {torch.__version__}'s flop_counter has no formula for "
            "it, so the total would be too low; register one with torch.utils.flop_counter.register_flop_formula"
        )
    return False


def work_of(operator: Any, args: Sequence[Any], out: Any) -> tuple[str, int] | None:
    """The kind and the FLOPs of an operator that is no product, by `WORK_CONVENTION`; None where it only moves, picks
    or compares numbers."""
    name = operator.overloadpacket.__name__.rstrip("_")  # in place or not
    first = next(iter(tensors_of(out)), None)
    if first is None or name in COPIES:
        return None
    if first.is_complex():  # rotary positions: 4 products and 2 sums
        return ("arithmetic", 6 * first.numel()) if name == "mul" else None
    if not first.is_floating_point():
        return None
    if name in SOFTMAX:
        return "softmax", SOFTMAX[name] * first.numel()
    if name in LAYER_NORM:
        weight = args[2] if name == "native_layer_norm" else args[5]
        return "layer norm", LAYER_NORM[name][weight is not None] * args[0].numel()
    if name in REDUCTIONS:
        return "reduction", math.prod(args[0].shape)
    if torch.Tag.pointwise not in operator.tags:
        return None
    kind = "activation" if name.removesuffix("_backward") in ACTIVATIONS else "arithmetic"
    return kind, (2 if name == "addcmul" else 1) * first.numel()


class OpRecorder(FollowingMode):
    """Adds up the FLOPs of each component while it is active. Enter it before a `FlopCounterMode`, which then hands it
    every operator decomposed as far as the formulas need.

    Attributes:
        flops: products, by place.
        work: everything else that computes, by (place, kind).
        operators: calls of the operators in `work`, by name.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        super().__init__(components)
        self.flops: Counter[Place] = Counter()
        self.work: Counter[tuple[Place, str]] = Counter()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        counted = has_formula(operator)
        out = operator(*args, **kwargs)
        place = self.follower.place
        if counted:
            self.flops[place] += flop_registry[operator.overloadpacket](*args, **kwargs, out_val=out)
        elif (work := work_of(operator, args, out)) is not None:
            self.work[place, work[0]] += work[1]
            self.operators[operator.overloadpacket.__name__.rstrip("_")] += 1
        return out

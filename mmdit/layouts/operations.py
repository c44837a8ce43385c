"""The named operations of the language, and the tables that others store and we compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from mmdit.layers.positions import SinCos2D
from mmdit.layouts.language import Operation, join
from mmdit.networks.patches import inside_of
from mmdit.options import ModelOptions, PatchInput

KERNELS = (3, 7)  # of convolutions over time


def operations_for(config: ModelOptions) -> dict[str, Operation]:
    """The operations by name; those on patches have the sizes of the config's image."""
    image = _image(config)
    patch = {} if image is None else inside_of(image.sizes)
    sizes = {} if image is None else patch | dict(c=image.channels)
    each = " ".join(patch)  # p q, of a video o p q
    return {
        # the two halves of the rows change places: scale and shift, value and gate
        "swap": Operation(_swap, lambda x, shape: _swap(x)),
        # a patch's values, channels last in ours and first in theirs
        "patch": Operation(
            lambda x: rearrange(x, f"({each} c) ... -> (c {each}) ...", **patch),
            lambda x, shape: rearrange(x, f"(c {each}) ... -> ({each} c) ...", **patch),
        ),
        # a patch's columns, channels first in ours and last in theirs; the bias is the same
        "channels_last": Operation(
            lambda x: rearrange(x, f"d (c {each}) -> d ({each} c)", **patch) if x.ndim == 2 else x,
            lambda x, shape: rearrange(x, f"d ({each} c) -> d (c {each})", **patch) if x.ndim == 2 else x,
        ),
        # a convolution's kernel, where ours is a linear on the patch; the bias is the same
        "conv": _reshaped(lambda x: rearrange(x, f"d (c {each}) -> d c {each}", **sizes) if x.ndim == 2 else x),
        # a convolution's kernel over time, where ours is a linear on as many neighbours; the bias is the same
        **{f"over_{k}": _over(k) for k in KERNELS},
        # rows of queries, keys and values: ours one behind the other, theirs head by head and feature by feature
        "interleaved": Operation(
            lambda x: rearrange(x, "(j h d) ... -> (h d j) ...", j=3, h=config.head_sizes[0]),
            lambda x, shape: rearrange(x, "(h d j) ... -> (j h d) ...", j=3, h=config.head_sizes[0]),
        ),
        # rows of queries or keys: a pair that turns together is neighbours in ours, a half of the head apart in theirs
        "halves": Operation(
            lambda x: rearrange(x, "(h j two) ... -> (h two j) ...", two=2, j=config.head_sizes[1] // 2),
            lambda x, shape: rearrange(x, "(h two j) ... -> (h j two) ...", two=2, j=config.head_sizes[1] // 2),
        ),
        # theirs multiply by a gamma where we multiply by 1 + scale: the bias differs by 1, the weight does not
        "gamma": Operation(
            lambda x: x + 1 if x.ndim == 1 else x,
            lambda x, shape: x - 1 if x.ndim == 1 else x,
            exact=False,
        ),
        "one_less": Operation(lambda x: x - 1, lambda x, shape: x + 1, exact=False),
        "transposed": Operation(lambda x: x.T, lambda x, shape: x.T),
        "transposed_batch": Operation(lambda x: x.T[None], lambda x, shape: x[0].T),
        "batch": _reshaped(lambda x: x.flatten(0, -2)[None]),  # ... d -> 1 n d
        "of_two": _reshaped(lambda x: x[None, None]),
        "flat": _reshaped(lambda x: x.flatten()),
        "scalar": _reshaped(lambda x: x.reshape(())),
        "column": _reshaped(lambda x: x.reshape(-1, 1)),
        "cube": _reshaped(lambda x: x.reshape(-1, 1, 1)),
    }


def _over(kernel: int) -> Operation:
    return Operation(
        lambda x: rearrange(x, "d (k c) -> d c k", k=kernel) if x.ndim == 2 else x,
        lambda x, shape: rearrange(x, "d c k -> d (k c)") if x.ndim == 3 else x,
    )


def _reshaped(write: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(write, lambda x, shape: x.reshape(shape))


def _swap(x: Tensor) -> Tensor:
    return join([*x.chunk(2)][::-1], 0)


def _sincos(config: ModelOptions) -> Tensor:
    """The image's sine-cosine positions, `1 n d` with n = max_size^2: up to 1 GB."""
    image, dim = _image(config), config.modalities["image"].dim
    assert image is not None  # the families that say so have one
    size = image.max_size
    positions = SinCos2D(dim, max_size=size, base_size=image.base_size)
    like = torch.zeros(())
    table = torch.empty(size, size, dim) if like.is_meta else positions.table(size, size, like)
    return table.reshape(1, size**2, dim)


def _no_tokens(config: ModelOptions) -> Tensor:
    """The image's register tokens where there are none, `0 d`."""
    return torch.empty(0, config.modalities["image"].dim)


# what may stand on the left of a line instead of a tensor of ours: they store it, we compute it
TABLES: dict[str, Callable[[ModelOptions], Tensor]] = {"sincos()": _sincos, "no_tokens()": _no_tokens}


def _image(config: ModelOptions) -> PatchInput | None:
    return next((m.input for m in config.modalities.values() if isinstance(m.input, PatchInput)), None)

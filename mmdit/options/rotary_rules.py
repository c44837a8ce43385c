"""The rules of a network's options for rotary places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdit.options.fields import OptionError

INPUTS = "as in input: {kind: linear, dim: 64}, or of an image input: {kind: patches, channels: 16, patch: 2}"


def check_rotary(model: Any) -> Iterator[OptionError]:
    """`model`: the `ModelOptions`."""
    axes = () if model.rotary is None else model.rotary.axes
    for name, modality in model.modalities.items():
        at, place = ("modalities", name, "rotary"), modality.rotary
        if place is None:
            continue
        if model.rotary is None:
            yield OptionError(at, "the model has no rotary axes; set them below model, as in rotary: {axes: [32, 32]}")
        for key in ("axes", "after_axes"):
            for index, axis in enumerate((getattr(place, key) or ()) if axes else ()):
                if axis >= len(axes):
                    yield OptionError((*at, key, index), f"axis {axis} does not exist; there are {len(axes)}")
        if place.start is not None and axes and len(place.start) != len(axes):
            yield OptionError((*at, "start"), f"there are {len(axes)} axes, got {len(place.start)} numbers")
        own = place.axes[-2:]  # of rows and columns; beside a video they may be further frames
        if (apart := modality.references) is not None and (apart.axis >= len(axes) or apart.axis in own):
            message = f"references stand apart on an axis below {len(axes)} that is none of its rows' and columns'"
            yield OptionError(("modalities", name, "references", "axis"), f"{message}, got {apart.axis}")
        other = None if place.after is None else model.modalities.get(place.after)
        if place.after is not None and (other is None or other.rotary is None or other.rotary.after):
            yield OptionError((*at, "after"), f"{place.after!r} is no modality with a rotary place of its own")
        if modality.input is None:
            yield OptionError(at, f"{name!r} has no input, which knows where its tokens are; give it one, {INPUTS}")
    if model.rotary is None:
        return
    _, dim_head = model.head_sizes
    if sum(axes) != dim_head:
        default = "" if model.dim_head or model.dim_joint_attn else ", its default"
        message = f"the axes share the dim_head = {dim_head} features of a head{default}, got a sum of {sum(axes)}"
        yield OptionError(("rotary", "axes"), message)

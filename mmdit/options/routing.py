"""Token routing: which tokens skip which blocks in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmdit.options.fields import Number, OptionError, Options, Text, Whole, option


@dataclass(frozen=True, kw_only=True)
class RoutingOptions(Options):
    """In training a random share of tokens skips some joint blocks (TREAD, Krause et al. 2025, arXiv 2501.04765)."""

    start: Whole = option(sentence="The first joint block that they skip, from 0 on.", example="1", ge=0)
    end: Whole = option(sentence="The first one behind it that has all tokens again.", example="3", ge=1)
    share: Number = option(0.5, "How many of them, others in each sample and call.", gt=0, lt=1)
    modalities: tuple[Text, ...] | None = option(
        None, "Whose tokens; null: those of all that are not discarded.", min_length=1
    )

    def check(self) -> Iterator[OptionError]:
        if self.end <= self.start:
            yield OptionError(("end",), f"it is behind the block {self.start} in which they leave, got {self.end}")


def check_routing(model: Any) -> Iterator[OptionError]:
    """The rules between a network's routing and its other options."""
    routing = model.routing
    if routing is None:
        return
    if routing.end > model.depth:
        yield OptionError(("routing", "end"), f"there are {model.depth} joint blocks, got {routing.end}")
    for place, name in enumerate(routing.modalities or ()):
        if name not in model.names:
            message = f"{name!r} is no modality; the modalities are {', '.join(model.names)}"
            yield OptionError(("routing", "modalities", place), message)
    if model.varlen:
        message = "tokens are taken out of padded sequences; leave varlen at false"
        yield OptionError(("routing",), message)
    for part, key in (("attention", "out_kernel"), ("feedforward", "kernel")):
        kernels = getattr(getattr(model, part), key)
        wide = [name for name in model.routed if (kernels if isinstance(kernels, int) else kernels.get(name, 1)) > 1]
        if wide:
            message = f"{part}.{key} reads neighbours, which {wide[0]} would lose; route other modalities"
            yield OptionError(("routing",), message)

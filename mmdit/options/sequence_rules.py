"""The rules of a network's options for sequences: names of further ones, convolutions, conditions of each token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdit.options.fields import At, OptionError


def check_sequences(model: Any) -> Iterator[OptionError]:
    """`model`: the `ModelOptions`."""
    yield from _check_names(model)
    yield from _check_kernels(model)
    yield from _check_inputs(model)
    for (name, modality), registers in zip(model.modalities.items(), model.registers, strict=True):
        at = ("modalities", name, "conditions")
        if modality.conditions and model.timestep is None:
            yield OptionError(at, "they are added to the conditioning that the timestep makes; set timestep as well")
        if modality.conditions and (registers or model.attention.gating == "sample"):
            message = "they condition each token by itself, which goes with neither register tokens nor gating 'sample'"
            yield OptionError(at, message)


def _check_names(model: Any) -> Iterator[OptionError]:
    named: tuple[tuple[At, Any], ...] = (
        (("means",), model.means),
        (("feedforward", "kernel"), model.feedforward.kernel),
        (("attention", "out_kernel"), model.attention.out_kernel),
        (("single_stream", "modalities"), getattr(model.single_stream, "modalities", None)),
    )
    for at, value in named:
        for place, name in enumerate(value if isinstance(value, (dict, tuple)) else ()):
            if name not in model.names:
                known = ", ".join(model.names)
                entry = name if isinstance(value, dict) else place
                yield OptionError((*at, entry), f"{name!r} is no modality; the modalities are {known}")


def _check_inputs(model: Any) -> Iterator[OptionError]:
    further = [
        (("modalities", name, key, each), each)
        for name, modality in model.modalities.items()
        for key, inputs in (("inputs", modality.inputs), ("conditions", modality.conditions))
        for each in inputs or ()
    ]
    names = [*model.names, *(each for _, each in further)]
    for at, each in further:
        if names.count(each) > 1:
            yield OptionError(at, f"{each!r} is the name of another input; they must differ")


def _check_kernels(model: Any) -> Iterator[OptionError]:
    for at, part, key in (("feedforward", model.feedforward, "kernel"), ("attention", model.attention, "out_kernel")):
        wide = {name for name in model.names if getattr(part.of_modality(name), key) > 1}
        if len(model.streamed) > 1 and wide.intersection(model.streamed):
            message = (
                "a convolution over the joined tokens would run across the ends of modalities; "
                "leave it at 1, or set single_stream.modalities to one"
            )
            yield OptionError((at, key), message)
        if any(count and name in wide for name, count in zip(model.names, model.registers, strict=True)):
            message = "register tokens stand in front of the tokens, and are no neighbours of theirs in time"
            yield OptionError((at, key), f"{message}; leave register_tokens at 0")
        if any((m.inputs or m.references) and name in wide for name, m in model.modalities.items()):
            message = "tokens of further inputs or references stand behind its own, and are no neighbours of theirs"
            yield OptionError((at, key), f"{message}; leave it at 1 for a modality that has some")

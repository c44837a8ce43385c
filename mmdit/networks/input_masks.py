"""Which tokens of a network's inputs are valid: their masks tell, or a packing, or the sizes of their samples.

In a modality's stream stand its own tokens, behind them those of its further inputs, then those of its references.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from mmdit.layers.arguments import check_names
from mmdit.networks import ragged
from mmdit.networks.ragged import Given
from mmdit.packing import Packing

Streams = Mapping[str, Sequence[str]]  # by modality the names of its inputs, its own first
Lengths = Mapping[str, tuple[int, ...] | None]  # by input those of each sample, None where all have one


def given_masks(
    masks: Mapping[str, Tensor] | Packing | None,
    streams: Streams,
    inputs: Mapping[str, Given],
    references: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """By input its mask `b n`, where it has one; `references`: by modality the tokens of all its references."""
    if not isinstance(masks, Packing):
        given = {} if masks is None else masks
        check_names(given, "masks", tuple(inputs), complete=False)
        return {**given}
    if len(masks.lengths) != len(streams):
        raise ValueError(
            f"the packing is for {len(masks.lengths)} modalities, got {len(streams)}: {', '.join(streams)}"
        )
    found = {}
    for i, (name, (_, *further)) in enumerate(streams.items()):
        mask = masks.mask(i)
        if mask is None:
            continue
        if name in references:
            mask = mask[:, : -references[name].shape[1]]
        for each in reversed(further):
            start = mask.shape[1] - ragged.length_of(inputs[each])
            mask, found[each] = mask[:, :start], mask[:, start:]
        found[name] = mask
    return found


def with_sizes(
    given: Mapping[str, Tensor], tokens: Mapping[str, Tensor], lengths: Lengths, wanted: Iterable[str]
) -> dict[str, Tensor | None]:
    """By input, of those that are `wanted`, the mask that is given, or that of its samples' lengths, or None."""
    for name, own in lengths.items():
        if own is not None and name in given:
            raise ValueError(f"{name} is a list of samples, whose sizes say what is valid; leave it out of masks")
    made = {name: ragged.mask_of(lengths[name], tokens[name].shape[1], tokens[name].device) for name in wanted}
    return {name: given.get(name, mask) for name, mask in made.items()}

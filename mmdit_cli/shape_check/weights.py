"""Whether a file's tensors are those that a config's model needs. Only headers are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mmdit.layouts.layout_files import LayoutFiles
from mmdit.layouts.recognition import recognize_layout
from mmdit.options import ModelOptions
from mmdit.weights.reader import WeightFiles
from mmdit_cli.request.weights_layout import find_layout, layout_of
from mmdit_cli.shape_check.shapes import ShapesResult


@dataclass(frozen=True)
class WeightsCheck:
    """What a file's header says of its tensors, against what a config's model needs in a layout.

    `fits_layout` is the layout whose names the file has, for this config; None where it has those of none.
    """

    file: str
    layout: str
    prefix: str
    tensors: int
    bytes: int
    dtypes: list[str]
    left_aside: int
    problems: list[str]
    fits_layout: str | None


def check_weights(config: ModelOptions, path: Path, layout: str | None = None) -> WeightsCheck:
    """Compare the names and shapes in a file's header, or in those of its shards, with a layout's.

    Args:
        layout: None: that whose names the file has.

    Raises:
        UserError: the layout has no place for the model.
        mmdit.weights.saved_model.CheckpointError: the file can't be read.
    """
    held = WeightFiles(path)
    layout = layout_of(layout, held, config)
    files = LayoutFiles(held, find_layout("--from", layout, config))
    tensors = files.files.stored
    return WeightsCheck(
        file=str(files.files.path),
        layout=layout,
        prefix=files.prefix,
        tensors=len(tensors),
        bytes=sum(info.stop - info.start for info in tensors.values()),
        dtypes=sorted({info.dtype for info in tensors.values()}),
        left_aside=len(files.left_aside),
        problems=files.problems,
        fits_layout=files.layout.name if not files.problems else recognize_layout(tensors, config)[0],
    )


def with_weights(result: ShapesResult, weights: WeightsCheck) -> ShapesResult:
    """A shape check with what a file's tensors say beside it; where they do not fit, that is among its problems."""
    problems = list(result.problems)
    if weights.problems:
        other = weights.fits_layout
        hint = f"; its names are those of --from {other}" if other not in (None, weights.layout) else ""
        problems += [f"{weights.file}: does not fit the config in the layout {weights.layout}{hint}", *weights.problems]
    return replace(result, weights=weights, problems=problems, ok=not problems)

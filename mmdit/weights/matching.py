"""Whether tensors are those of a config's model, and if not, which are wrong and how."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mmdit.config.construct import build_on_meta
from mmdit.config.yaml_document import one_line
from mmdit.options import ModelOptions
from mmdit.weights.header import FLOATS, MAX_TENSORS, CheckpointError, TensorInfo, named
from mmdit.weights.reader import WeightFiles

__all__ = ["check_savable", "empty_model", "listed", "misfits", "unreadable"]

SHOWN = 5  # tensors named in an error
_NUMBER = re.compile(r"\.(\d+)(?=\.)")
CANDIDATES = 1000  # names among which the nearest is looked for

Shapes = Mapping[str, tuple[int, ...]]


def empty_model(files: WeightFiles, config: ModelOptions) -> nn.Module:
    """The model on the meta device, once its tensors are known to be those of the files."""
    held = files.tensors
    # before a model is built for nothing: at least the queries, keys and values, the out projection and the feedforward
    # of every modality in every block, of which the last may lack all but the first
    modalities = len(config.modalities)
    needed = ((config.depth - 1) * 4 + 1) * modalities
    if not needed <= len(held) <= MAX_TENSORS:
        has = (
            _has("blocks", _lists(held).get("blocks", 0)) if len(held) < needed else f"at most {MAX_TENSORS:,} are read"
        )
        raise CheckpointError(
            f"{files.path}: does not fit the config: {has}, in {len(held):,} tensors, the config {config.depth} of "
            f"{modalities} modalities, in {needed:,} at least"
        )
    try:
        model = build_on_meta(config)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{files.path}: a model of its config can't be built: {one_line(str(error), 200)}"
        ) from None
    if problems := unreadable({name: tuple(tensor.shape) for name, tensor in sorted(model.state_dict().items())}, held):
        raise CheckpointError(f"{files.path}: does not fit the config: {listed(problems)}")
    return model


def unreadable(wanted: Shapes, held: Mapping[str, TensorInfo]) -> list[str]:
    """How what headers describe differs from the weights that are wanted, in name, shape or type."""
    closed: dict[str, list[str]] = {}
    for name in sorted(wanted.keys() & held.keys()):
        if held[name].problem:
            closed.setdefault(held[name].problem, []).append(name)
    without = {name for names in closed.values() for name in names}
    problems = []
    for problem, names in closed.items():
        more = f", and so are {len(names) - 1} more" if len(names) > 1 else ""
        problems.append(f"{named(min(names))} {problem}{more}")
    problems += misfits(
        {name: shape for name, shape in wanted.items() if name not in without},
        {name: info.shape for name, info in held.items() if name not in without},
    )
    return problems + [
        f"{name} has the dtype {held[name].dtype}, wanted one of {', '.join(FLOATS)}"
        for name in wanted
        if name in held and name not in without and held[name].dtype not in FLOATS
    ]


def misfits(wanted: Shapes, held: Shapes) -> list[str]:
    """How the tensors that are held differ from those that are wanted: where it is in the number of blocks or in a size
    throughout, that is said, and not each of the tensors."""
    ours, theirs = _lists(wanted), _lists(held)
    counts = {of: (theirs.get(of, 0), ours.get(of, 0)) for of in ours | theirs if theirs.get(of, 0) != ours.get(of, 0)}
    problems = [f"{_has(of, has)}, the config {wants}" for of, (has, wants) in counts.items()]
    missing, unexpected = (
        sorted(name for name in some.keys() - others.keys() if _list_of(name) not in counts)
        for some, others in ((wanted, held), (held, wanted))
    )
    problems += [f"{named(name)} is missing{_nearest(name, unexpected)}" for name in missing[:SHOWN]]
    problems += [f"{named(name)} is missing" for name in missing[SHOWN:]]
    problems += [f"{named(name)} is not in the model" for name in unexpected]
    other = [name for name in sorted(wanted.keys() & held.keys()) if wanted[name] != held[name]]
    shapes = [f"{name} has the shape {list(held[name])}, wanted {list(wanted[name])}" for name in other]
    sizes = Counter(
        pair for name in other for pair in zip(held[name], wanted[name], strict=False) if pair[0] != pair[1]
    )
    if len(other) > SHOWN:
        told = ", ".join(f"{has} where the config gives {wants}" for (has, wants), _ in sizes.most_common(SHOWN))
        shapes = [f"{len(other):,} tensors have other sizes ({told}), such as {shapes[0]}"]
    return problems + shapes


def _list_of(name: str) -> str:
    """What a tensor's first number counts: `blocks` of `blocks.0.norm.weight`."""
    return next((name[: match.start()] for match in [_NUMBER.search(name)] if match), "")


def _lists(names: Iterable[str]) -> dict[str, int]:
    """How many there are of each, by the names' first numbers."""
    found: dict[str, set[str]] = {}
    for name in names:
        if match := _NUMBER.search(name):
            found.setdefault(name[: match.start()], set()).add(match[1])
    return {of: len(numbers) for of, numbers in found.items()}


def _has(of: str, count: int) -> str:
    word = one_line(of.rpartition(".")[2].replace("_", " "), 60)
    return f"it has {count} {word.removesuffix('s') if count == 1 else word}"


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names)[:CANDIDATES], n=1)
    return f" (is it {named(near[0])}?)" if near else ""


def listed(problems: list[str]) -> str:
    return "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")


def check_savable(tensors: Mapping[str, Tensor], config: ModelOptions) -> None:
    """Nothing is written that could not be loaded: a wrapped or altered model, or one without values."""
    wanted = {name: tuple(tensor.shape) for name, tensor in build_on_meta(config).state_dict().items()}
    problems = misfits(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if len(tensors) > MAX_TENSORS:
        problems.append(f"{len(tensors):,} tensors are more than the {MAX_TENSORS:,} that are read")
    for name, tensor in tensors.items():
        if tensor.is_meta:
            problems.append(f"{name} is on the meta device and has no values")
        elif tensor.dtype not in FLOATS.values():
            problems.append(f"{name} has the dtype {tensor.dtype}, wanted floating point")
    if problems:
        raise ValueError(
            f"the model could not be loaded from a file, as it is not what its config says: {listed(problems)}"
        )

"""Which configs are sizes of one design: those that differ in size alone."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdit.options import as_data
from mmdit_cli.errors import UserError
from mmdit_cli.output.renderings import flat
from mmdit_cli.request.sweep import Point
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.laws.optimum import FEWEST_LENGTHS
from mmdit_cli.toy.laws.power_law import FEWEST_SIZES

SIZE = re.compile(
    r"model\.(depth|heads|dim_head|dim_joint_attn|dim_cond|single_stream\.depth|feedforward\.dim|timestep\.hidden"
    r"|modalities\.[^.]+\.dim)"
)
# what may go with a size and is not what a design is, where no sweep asks about it
SETTING = re.compile(
    r"train\.(steps|learning_rate|warmup_steps|evaluate_every|checkpoint_every)|model\.attention\.(scale|kv_heads)"
)
SIZES = "depth, heads and widths"


@dataclass(frozen=True)
class Member:
    """A config at a point, and its name in the comparison."""

    name: str
    config: ToolConfig
    point: Point


def designs_of(members: Sequence[Member], *, tuned: bool) -> dict[str, list[Member]]:
    """The members by the design that they are sizes of, under a name for each.

    Args:
        tuned: whether a point is what suits a design best, and so no part of what it is.
    """
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(_apart_from_size(member, tuned), []).append(member)
    names: dict[str, list[Member]] = {}
    for own in found.values():
        name = unique = _shared_name([member.name for member in own])
        number = 1
        while unique in names:
            number, unique = number + 1, f"{name} ({number + 1})"
        names[unique] = own
    return names


def check_sizes(members: Sequence[Member], *, tuned: bool, budget: bool) -> None:
    """Raises UserError where a design has too few sizes for a law, or too few lengths for what a budget is best spent
    on; it says what is needed."""
    for name, own in designs_of(members, tuned=tuned).items():
        steps: dict[int, set[str]] = {}
        for member in own:
            steps.setdefault(member.config.train.steps, set()).add(_size(member.config))
        most = max(len(sizes) for sizes in steps.values())
        if most < FEWEST_SIZES:
            raise UserError(
                f"--law fits three numbers to the sizes of each design, which takes {FEWEST_SIZES} or more that are "
                f"trained equally long; {name} has {most}. Sizes of a design differ in {SIZES} and in nothing else of "
                "the model: give more, such as --config ladder/1 to ladder/5, or --sweep model.depth=1,2,4,8"
            )
        if budget and len(steps) < FEWEST_LENGTHS:
            raise UserError(
                f"--law-budget weighs size against length, which takes {FEWEST_LENGTHS} lengths of training or more; "
                f"{name} has {len(steps)}: add --sweep train.steps=300,600,1200"
            )


def _apart_from_size(member: Member, tuned: bool) -> str:
    """What makes a design beside its size, and what a sweep asks about."""
    data = as_data(member.config)
    kept = {
        key: value
        for key, value in flat({"model": data["model"], "train": data["train"]})
        if not SIZE.fullmatch(key) and not SETTING.fullmatch(key) and not (tuned and _within(key, member.point))
    }
    swept = {} if tuned else {key: value for key, value in member.point.items() if not _is_size(key)}
    return json.dumps([kept, swept], sort_keys=True)


def _within(key: str, point: Mapping[str, object]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in point)


def _is_size(key: str) -> bool:
    return bool(SIZE.fullmatch(key)) or key == "train.steps"


def _size(config: ToolConfig) -> str:
    """What of a config is its size."""
    return json.dumps([(key, x) for key, x in flat({"model": as_data(config)["model"]}) if SIZE.fullmatch(key)])


def _shared_name(names: Sequence[str]) -> str:
    """What names of sizes have in common: of `ladder-1 depth=2` and `ladder-2 depth=2`, `ladder depth=2`."""
    words = [name.split() for name in names]
    kept = [word for word in words[0][1:] if all(word in each for each in words)]
    letters = itertools.takewhile(lambda same: len({*same}) == 1, zip(*(each[0] for each in words), strict=False))
    first = "".join(each[0] for each in letters)
    if len({each[0] for each in words}) > 1:
        first = first.rstrip("-_./0123456789")
    return " ".join([first or words[0][0], *kept])

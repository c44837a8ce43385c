"""Which configs are sizes of one design, and what is asked of them before anything is trained."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from mmdit.options import as_data
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.laws.shapes import SIZE, Member, check_sizes, designs_of
from mmdit_cli.toy.run_folder import differences
from tests.support.fake_runs import named

LADDER = [f"ladder/{size}" for size in range(1, 6)]


def members(*configs: Any, **point: Any) -> list[Member]:
    return [Member(config.name, config, point) for config in configs]


def grouped(*all_members: Member, tuned: bool = False) -> dict[str, list[str]]:
    return {name: [m.name for m in own] for name, own in designs_of(all_members, tuned=tuned).items()}


def normed(name: str, depth: int, norm: bool) -> Any:
    config = named(name, depth)
    return replace(config, model=replace(config.model, qk_rmsnorm=norm))


def test_configs_that_differ_in_size_alone_are_one_design() -> None:
    assert grouped(*members(named("small"), named("small-2", 2))) == {"small": ["small", "small-2"]}
    assert grouped(*members(named("a-1"), named("a-2", 2, learning_rate=1e-4, steps=9))) == {"a": ["a-1", "a-2"]}
    found = grouped(*members(named("a-1"), named("b-1", shift=2.0), named("a-2", 2), named("b-2", 2, shift=2.0)))
    assert found == {"a": ["a-1", "a-2"], "b": ["b-1", "b-2"]}


def test_a_sweep_of_something_else_makes_designs_of_the_same_sizes() -> None:
    key = "model.qk_rmsnorm"
    swept = [
        Member(f"a-{depth} norm={norm}", normed(f"a-{depth} norm={norm}", depth, norm), {key: norm})
        for depth in (1, 2)
        for norm in (True, False)
    ]
    assert [*grouped(*swept)] == ["a norm=True", "a norm=False"]


def test_a_rate_is_asked_about_by_a_sweep_and_found_by_a_tuning() -> None:
    key = "train.learning_rate"
    both = [Member(f"a rate={x}", named("a", learning_rate=x), {key: x}) for x in (0.1, 0.2)]
    assert len(grouped(*both)) == 2 and len(grouped(*both, tuned=True)) == 1
    decays = [
        Member("a", named("a", depth, weight_decay=x), {"train.weight_decay": x}) for depth, x in ((1, 0.1), (2, 0.2))
    ]
    assert len(grouped(*decays)) == 2 and len(grouped(*decays, tuned=True)) == 1


def test_too_few_sizes_or_lengths_are_refused_with_what_is_needed() -> None:
    four = members(*(named(f"a-{depth}", depth) for depth in (1, 2, 3, 4)))
    check_sizes(four, tuned=False, budget=False)
    with pytest.raises(UserError, match=r"takes 4 or more .* a has 3\. .*--config ladder/1 to ladder/5"):
        check_sizes(four[:3], tuned=False, budget=False)
    other = Member("b", named("b", 5, shift=2.0), {})
    with pytest.raises(UserError, match="b has 1"):
        check_sizes([*four, other], tuned=False, budget=False)
    with pytest.raises(UserError, match=r"--law-budget .* takes 3 lengths .* a has 1: add --sweep train.steps"):
        check_sizes(four, tuned=False, budget=True)
    lengths = members(*(named(f"a-{depth}", depth, steps=steps) for depth in (1, 2, 3, 4) for steps in (1, 2, 3)))
    check_sizes(lengths, tuned=False, budget=True)


# ---------------------------------------------------------------------------------------------------------- the ladder


def test_the_ladder_is_five_sizes_of_one_shape() -> None:
    configs = [load_tool_config(name) for name in LADDER]
    assert len(designs_of(members(*configs), tuned=False)) == 1
    assert [*grouped(*members(*configs))] == ["ladder"]
    for size, config in enumerate(configs, start=1):
        model = config.model
        assert config.name == f"ladder-{size}" and world_of(config)
        assert model.heads == model.depth and {m.dim for m in model.modalities.values()} == {16 * model.depth}
        changed = differences(as_data(configs[0]), as_data(config))
        keys = {line.split()[0] for line in changed} - {"name"}
        assert all(SIZE.fullmatch(key) for key in keys), changed


def test_each_size_of_the_ladder_has_about_twice_the_parameters_of_the_one_before() -> None:
    import torch

    from mmdit.config import build

    with torch.device("meta"):
        sizes = [sum(p.numel() for p in build(name).parameters()) for name in LADDER]
    ratios = [b / a for a, b in itertools.pairwise(sizes)]
    assert all(1.7 < ratio < 2.4 for ratio in ratios) and 15 < sizes[-1] / sizes[0] < 20

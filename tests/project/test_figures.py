"""Figures of the pages that need no clock are those that the commands beside them print."""

from __future__ import annotations

import re

import pytest

from benchmarks.families.diffusers_networks import FAMILIES
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.output.units import flops
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy.comparability import as_trained
from tests.support.command_lines import in_this_process
from tests.support.marks import slow_but
from tests.support.pages import PAGES, Shown, commands, figures
from tests.support.paths import CONFIGS, REPORTS, ROOT

PROFILES = [
    shown
    for page in PAGES
    for shown in commands(page)
    if shown.output and shown.line.startswith("mmdit profile") and "--estimate" not in shown.line
]
DESIGNS = re.findall(
    r"^\| ([\w-]+) \| ([\d,]+) \| ([\d.]+ \w) \|", (REPORTS / "ablations.md").read_text("utf-8"), re.MULTILINE
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("shown", slow_but(PROFILES, PROFILES[0]), ids=lambda shown: shown.line)
def test_a_profile_shows_the_memory_of_its_estimate_and_the_counted_flops(shown: Shown):
    line = re.sub(r" --(max-seconds|repeats) \S+", "", shown.line)
    step = " --precision pure --no-ema" if "--mode train" in line else ""  # profile's own
    said = figures(shown.output or "")
    estimated, counted = (
        figures(in_this_process(each)[1])
        for each in (f"{line} --estimate{step}", line.replace("profile", "flops", 1).replace(" --mode train", ""))
    )
    said["peak"] = said["peak memory"]
    held = [name for name in said if name in estimated]
    assert len(held) >= 3
    assert {name: said[name] for name in held} == {name: estimated[name] for name in held}
    swept, train = "--sweep" in line, "--mode train" in line
    name = ("step" if train else "forward") if swept else ("training step" if train else "forward")
    assert said["FLOPs" if swept else "FLOPs a call"] == counted[name]


def test_pages_and_configs_say_how_many_parameters_the_published_networks_have():
    """The counts themselves are held against diffusers and the configs in tests/benchmarks/test_families.py."""
    for family in FAMILIES:
        assert f" {family.parameters:,} parameters" in (CONFIGS / f"{family.config}.yaml").read_text("utf-8")
        name, billions = re.escape(family.config), f"{family.parameters / 1e9:.1f}"
        row = rf"^\| `{name}` \|.*\| {billions} billion \| "
        assert re.search(row, (ROOT / "docs" / "networks.md").read_text("utf-8"), re.MULTILINE), family.config
        assert re.search(rf"`{name}` {billions}[, ]", (ROOT / "README.md").read_text("utf-8")), family.config


@pytest.mark.parametrize("design", slow_but(dict.fromkeys(DESIGNS), DESIGNS[1]), ids=lambda design: design[0])
def test_a_design_of_the_ablations_has_the_parameters_and_flops_that_are_counted(design):
    name, parameters, step = design
    (path,) = (CONFIGS / "ablations").glob(f"*/{name}.yaml")
    counted = count_flops(as_trained(load_tool_config(path)))
    assert f"{counted.parameters:,}" == parameters
    assert flops(counted.step_flops) == f"{step}FLOP"

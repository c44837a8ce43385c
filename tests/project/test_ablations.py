"""The shipped comparisons: every config can be trained, and a set differs in what it is about and in nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mmdit.options import as_data
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.run_folder import differences
from mmdit_cli.toy.trainer import Trainer
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS, ROOT

FOLDER = CONFIGS / "ablations"
SETS = {  # the first of each is what the others are compared with, and the keys in which they may differ
    "alignment": ("no-alignment", ["train.alignment"]),
    "attention": ("standard", ["model.attention"]),
    "modulation": ("per-block", ["model.modulation"]),
    "norms": ("before", ["model.norm"]),
    "optimizer": ("adamw", ["train.optimizer"]),
    "output-gate": ("no-gate", ["model.attention.out_gate"]),
    "prediction": ("velocity", ["train.prediction"]),
    "qk-norm": ("no-qk-norm", ["model.qk_rmsnorm"]),
    "residual": ("plain", ["model.residual"]),
    "routing": ("no-routing", ["model.routing"]),
    "timesteps": ("uniform", ["train.timesteps"]),
    "weights": ("per-modality", ["model.depth", "model.single_stream"]),
}
FILES = sorted(FOLDER.glob("*/*.yaml"))


def test_every_folder_is_a_set():
    assert {path.name for path in FOLDER.iterdir()} == set(SETS)
    assert all((FOLDER / name / f"{first}.yaml").exists() for name, (first, _) in SETS.items())


def test_the_page_of_techniques_names_every_design():
    page = (ROOT / "docs" / "cli" / "techniques.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (`.*?`) \|", page, re.MULTILINE)
    named = {f"{folder}/{design}" for folder, designs in rows for design in re.findall(r"`([\w-]+)`", designs)}
    assert named == {f"{path.parent.name}/{path.stem}" for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_design_differs_in_what_its_set_is_about(path):
    first, keys = SETS[path.parent.name]
    config, reference = load_tool_config(path), load_tool_config(FOLDER / path.parent.name / f"{first}.yaml")
    assert config.name == path.stem
    found = differences(as_data(reference), as_data(config))
    changed = [line for line in found if not line.startswith("name ")]
    assert bool(changed) == (path.stem != first)
    assert all(line.startswith(tuple(keys)) for line in changed), changed


@pytest.mark.parametrize("path", slow_but(FILES, *FILES[1::4]), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_design_takes_a_step(path):
    config = load_tool_config(path)
    config = replace(config, train=replace(config.train, batch_size=4))
    trainer = Trainer(config, world_of(config), device=torch.device("cpu"), dtype=torch.float32, seed=0)
    assert 0.1 < trainer.step()["loss"] < 100

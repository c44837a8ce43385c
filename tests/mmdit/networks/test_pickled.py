"""Modules go where other software sends them: through pickle, a deep copy, `torch.save`, another library's config."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch

import mmdit
from mmdit.options import as_data
from tests.support.configs import with_two_blocks
from tests.support.draws import drawn
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS

PATHS = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", slow_but(PATHS, *PATHS[::12]), ids=lambda path: path.stem)
def test_every_shipped_model_is_pickled_and_copied(path: Path) -> None:
    with torch.device("meta"):
        model = mmdit.build(with_two_blocks(path).model)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert repr(other) == repr(model)
        assert other.state_dict().keys() == model.state_dict().keys()
        assert other.config == model.config


def test_a_model_that_is_saved_whole_computes_the_same() -> None:
    model = drawn(mmdit.build(CONFIGS / "toy-two-modality.yaml")).float().eval()  # fresh, it would give zeros
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    call = dict(inputs={"text": torch.ones(1, 4, dtype=torch.long), "image": torch.randn(1, 3, 16, 16)})
    with torch.no_grad():
        outs = [net(**call, timestep=torch.ones(1))["image"] for net in (model, other)]
    assert torch.equal(*outs) and outs[0].any()


def test_a_config_answers_as_other_libraries_ask_it() -> None:
    config = mmdit.build(CONFIGS / "toy-two-modality.yaml").config
    assert config.to_dict() == as_data(config)
    assert config.get("depth") == config.depth and config.get("tie_word_embeddings", False) is False

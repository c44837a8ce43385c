"""A model built in a dtype has the bits of one that is cast, and is never there in float32."""

from __future__ import annotations

import pytest
import torch

from mmdit.config import build
from mmdit_cli.memory.fake_tensors import StorageTracker
from mmdit_cli.model_parts.tensor_bytes import model_bytes
from mmdit_cli.request.tool_config import load_tool_config
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS
from tests.support.small_configs import VARIANTS, config


def same_bits(chosen, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    cast = build(chosen).to(dtype).state_dict()
    torch.manual_seed(1)
    built = build(chosen, dtype=dtype).state_dict()
    assert list(cast) == list(built)
    for name, x in built.items():
        assert x.dtype == cast[name].dtype and torch.equal(x, cast[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", slow_but(VARIANTS, "standard", "adaptive by token", "hyper-connections"))
def test_a_variant_has_the_bits_of_one_that_is_cast(variant, dtype):
    same_bits(config(**VARIANTS[variant]).model, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3-medium", "auraflow", "toy-generalized"])
def test_a_shipped_config_has_the_bits_of_one_that_is_cast(name):
    same_bits(load_tool_config(CONFIGS / f"{name}.yaml", ["model.depth=1"]).model, torch.bfloat16)


def test_a_model_in_bfloat16_takes_little_more_than_its_weights():
    chosen = config(depth=12, modalities={"text": {"dim": 64}, "image": {"dim": 64}}).model
    with StorageTracker() as tracker:
        model = build(chosen, dtype=torch.bfloat16)
    largest = max(p.numel() for p in model.parameters())
    assert max(map(max, tracker.curves.values())) <= model_bytes(model) + 2 * 4 * largest < 1.5 * model_bytes(model)

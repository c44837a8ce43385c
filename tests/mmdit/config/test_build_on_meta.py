"""A model on the meta device has the names, shapes and dtypes of the model."""

from __future__ import annotations

import pytest
from torch import nn

from mmdit.config import build
from mmdit.config.construct import build_on_meta
from tests.support.marks import slow_but
from tests.support.small_configs import VARIANTS, config


def described(model: nn.Module) -> dict[str, tuple]:
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: (x.shape, x.dtype, x.requires_grad) for name, x in held.items()}


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "standard"))
def test_a_model_on_the_meta_device_is_that_of_the_config(variant):
    chosen = config(**VARIANTS[variant]).model
    found = build_on_meta(chosen)
    assert described(found) == described(build(chosen)) and all(x.is_meta for x in found.state_dict().values())

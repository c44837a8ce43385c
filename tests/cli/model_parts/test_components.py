"""Components cover a model."""

from __future__ import annotations

from mmdit.config import build
from mmdit_cli.model_parts.components import find_components
from tests.support.small_configs import VARIANTS, config


def test_components_cover_a_model_without_overlap():
    net = build(config(qk_rmsnorm=True, **VARIANTS["adaptive by token"]).model)
    components = find_components(net)
    modules = [m for component in components for m in component.modules]
    inside = {id(child) for m in modules for child in m.modules() if child is not m}
    assert len({id(m) for m in modules}) == len(modules)
    assert not any(id(m) in inside for m in modules)
    assert {"feedforward, text", "qkv projection, image", "attention", "adaptive gate, text"} <= {
        c.name for c in components
    }

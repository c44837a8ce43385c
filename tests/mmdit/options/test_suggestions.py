"""A wrong key is answered with the one that was meant, wherever it stands."""

from __future__ import annotations

import pytest

from mmdit.config import Config, ConfigError
from mmdit.config.file import validate_mapping
from mmdit.options.suggestions import ALIASES, _known

MODEL = {"depth": 1, "modalities": {"a": {"dim": 8}}, "heads": 1, "dim_head": 8}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"attention": {"qk_norm": True}}, "did you mean model.qk_rmsnorm, as in model: {qk_rmsnorm: true}?"),
        ({"depth": 4}, "depth: unknown key; did you mean model.depth, as in model: {depth: 4}?"),
        ({"model": MODEL | {"attention": {"heads": 8}}}, "did you mean model.heads, as in model: {heads: 8}?"),
        ({"model": MODEL | {"attention": {"qk_norm": True}}}, "did you mean model.qk_rmsnorm,"),
        ({"model": MODEL | {"depht": 4}}, "model.depht: unknown key; did you mean depth?"),
        ({"model": MODEL | {"num_layers": 1}}, "model.num_layers: unknown key; did you mean depth?"),
        ({"modle": {"depth": 4}}, "modle: unknown key; did you mean model?"),
        ({"foo": 4}, "foo: unknown key. Valid keys are"),
    ],
)
def test_a_wrong_key_leads_to_the_one_that_was_meant(config, wanted):
    with pytest.raises(ConfigError) as error:
        validate_mapping({"model": MODEL} | config, Config, source="c")
    assert wanted in str(error.value)


def test_other_names_lead_to_keys_that_there_are():
    from mmdit_cli.request.tool_config import ToolConfig

    keys = {path[-1] for path in _known(ToolConfig)}
    assert not set(ALIASES.values()) - keys and not set(ALIASES) & keys

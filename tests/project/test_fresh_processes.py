"""Every command, in a process of its own, with every flag and choice of the config's schema switched in turn.

What one command imports or patches must not be what lets the next one work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mmdit_cli.commands.json_schemas import config_schema
from tests.support.marks import slow_but

TINY = """
name: tiny
model:
  depth: 2
  modalities:
    text: {dim: 8}
    image: {dim: 12}
  dim_cond: 4
  heads: 1
  dim_head: 8
run:
  batch_size: 2
  tokens: {text: 4, image: 9}
  mask: {text: 0.5}
"""
# ceilings take seconds, and are no part of what a setting changes
QUICK = (
    "from mmdit_cli.profile import ceilings as c; c.GEMM_SHAPES = ((64, 64, 64),); c.LOOK_SECONDS['cpu'] = 0; "
    "c.STREAM_BYTES['cpu'] = (3 << 10,); "
)
RUN = "import runpy; runpy.run_module('mmdit_cli', run_name='__main__')"
PROFILE = ["profile", "--mode", "train", "--repeats", "1", "--max-seconds", "0"]
COMMANDS = {
    "flops": ["flops", "--elementwise"],
    "shape-check": ["shape-check"],
    "profile": PROFILE,
    "estimate": ["profile", "--mode", "train", "--estimate", "--memory", "1GB"],
    "export": ["export", "--out", "out.safetensors"],
    "train-toy": ["train-toy", "--steps", "1", "--run-dir", "run", "--set", "train.evaluation_samples=2"],
}
NEEDS = {  # what a setting is part of has to be there
    "model.single_stream": ["model.single_stream.depth=1", "model.modalities.text.dim=12"],
    "model.attention.gating": ["model.attention.kind=adaptive", "model.attention.num_adaptive_weights=2"],
    "model.residual": ["model.residual.streams=2"],
    "model.residual.dynamic": ["model.residual.kind=hyper_connections"],
    "model.unused_weights": ["model.discard=[text]"],
}
CRASHED = ("flops", "model.checkpoint_activations=true"), ("profile", "model.varlen=true")  # once


def settings() -> list[str]:
    """`KEY=VALUE` of every flag switched over and every value of a choice, in the schema's order."""
    schema = config_schema()

    def walk(node: dict[str, Any], key: str) -> Iterator[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].split("/")[-1]]
        inside = dict(node.get("properties", {}))
        if node.get("additionalProperties"):
            inside["image"] = node["additionalProperties"]
        for name, each in inside.items():
            yield from walk(each, f"{key}.{name}".lstrip("."))
        for each in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from walk(each, key)
        if node.get("type") == "boolean":
            yield f"{key}={str(not node.get('default', False)).lower()}"
        values = [*node.get("enum", ()), *([node["const"]] if "const" in node else ())]
        yield from (f"{key}={value}" for value in values)

    return list(dict.fromkeys(walk(schema, "")))


def test_the_schemas_settings_are_found():
    assert {
        "model.varlen=true",
        "model.residual.dynamic=false",
        "train.data=echo",
        "model.modalities.image.rotary.centered=true",
    } <= set(settings())


@pytest.mark.parametrize("case", slow_but([(c, s) for s in settings() for c in COMMANDS]), ids=" ".join)
def test_a_command_works_with_a_setting_in_a_process_of_its_own(case, tmp_path):
    command, setting = case
    base = tmp_path / "tiny.yaml"
    base.write_text(TINY)
    key = setting.partition("=")[0]
    changes = [*(each for part, more in NEEDS.items() if f"{key}.".startswith(f"{part}.") for each in more), setting]
    config = "toy-generalized" if command == "train-toy" else str(base)
    arguments = [*COMMANDS[command], "-c", config, *(word for change in changes for word in ("--set", change))]
    code = (QUICK if command == "profile" else "") + f"import sys; sys.argv = ['mmdit', *{arguments!r}]; {RUN}"
    given: Any = dict(cwd=tmp_path, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **given)
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    if case in CRASHED:
        assert done.returncode == 0, done.stderr
    else:  # a setting may need others that this config lacks, which one message says
        assert done.returncode == 0 or (done.returncode == 2 and done.stderr.startswith("error: ")), done.stderr

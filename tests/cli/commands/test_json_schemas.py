from __future__ import annotations

import json
import sys
from typing import get_args, get_type_hints

import pytest
import yaml
from jsonschema import Draft202012Validator

from mmdit.config.shipped import shipped_configs
from mmdit.layouts import LAYOUTS
from mmdit_cli.commands import schema
from mmdit_cli.commands.json_schemas import RESULTS, config_schema, document_schema
from mmdit_cli.request.weights_layout import LayoutName
from tests.support.command_lines import in_this_process
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS
from tests.support.small_configs import TINY

SHIPPED = sorted(CONFIGS.glob("*.yaml"))


@pytest.fixture(scope="module")
def configs() -> Draft202012Validator:
    return Draft202012Validator(config_schema())


def test_the_shipped_schema_is_the_one_that_the_command_prints():
    assert json.loads((CONFIGS / "schema.json").read_text()) == config_schema()


@pytest.mark.parametrize("path", slow_but(SHIPPED, *SHIPPED[::6]), ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_and_points_editors_at_the_schema(path, configs):
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    configs.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("key", "value"),
    [("depth", "two"), ("depth", -1), ("adaln", "one"), ("depht", 3), ("modalities", {"a": {"dim": "x"}})],
)
def test_the_schema_refuses_what_the_tool_refuses(key, value, configs):
    config = yaml.safe_load(TINY)
    config["model"][key] = value
    assert list(configs.iter_errors(config))


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("extends: a", 0),
        ("extends: a\nmodel: {modalities: {image: {input: {channels: 96}}, text: null}, depth: null}", 0),
        ("extends: a\nmodel: {attention: {gating: null}, residual: null}\nrun: {tokens: {text: null}}", 0),
        ("extends: null\nmodel: {depth: 1, modalities: {a: {dim: 3}}}", 0),
        ("extends: a\nmodel: {depth: two}", 1),
        ("extends: a\nmodel: {modalities: {image: {input: {chanels: 96}}}}", 1),
        ("extends: a\nmodle: {}", 1),
        ("extends: 5\nmodel: {depth: 1, modalities: {a: {dim: 3}}}", 1),
        ("model: {depth: 1}", 1),
        ("model: {depth: 1, modalities: {a: {dim: null}}}", 1),
    ],
)
def test_the_schema_lets_an_extending_config_say_only_what_differs(text, problems, configs):
    assert len(list(configs.iter_errors(yaml.safe_load(text)))) == problems


COMMANDS = [name for name in RESULTS if name not in ("train-toy", "sample")]


@pytest.mark.parametrize("command", slow_but(COMMANDS, *(name for name in COMMANDS if name != "plan")))
def test_a_commands_document_is_valid(command, tmp_path, monkeypatch, capfd, quick_ceilings):
    from mmdit_cli.app import main

    (tmp_path / "c.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    options = {"profile": ["--repeats", "1", "--max-seconds", "0", "--mode", "train"], "export": ["--out", "m"]}
    options["plan"] = ["--card", "h100", "--gpus", "2", "--parallel", "fsdp"]
    more = options.get(command, [])
    few = {name: path for name, path in shipped_configs().items() if name in ("two-modality", "sd3-medium")}
    monkeypatch.setattr("mmdit_cli.commands.shipped_sizes.shipped_configs", lambda: few)
    config = [] if command == "configs" else ["-c", "c.yaml"]
    monkeypatch.setattr(sys, "argv", ["mmdit", command, *config, "--json", *more])
    with pytest.raises(SystemExit):
        main()
    document = json.loads(capfd.readouterr().out)
    validator = Draft202012Validator(document_schema(command))
    validator.validate(document)
    if command == "configs":
        code, out, _ = in_this_process("mmdit configs --diff c.yaml generalized --json")
        assert code == 0 and len(json.loads(out)["results"]) == 2
        validator.validate(json.loads(out))
    del document["results"][0]["config"]
    assert list(validator.iter_errors(document))


def test_a_training_runs_document_has_a_schema():
    schema = document_schema("train-toy")
    Draft202012Validator.check_schema(schema)
    assert {"steps", "accuracy", "chance", "files"} <= set(schema["$defs"]["TrainResult"]["properties"])


def test_the_names_that_options_offer_are_those_that_there_are():
    assert get_args(LayoutName) == LAYOUTS
    offered = get_args(get_type_hints(schema.command, include_extras=True)["document"])[0]
    assert set(get_args(get_args(offered)[0])) == set(RESULTS)

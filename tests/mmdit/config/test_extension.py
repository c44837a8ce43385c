"""`extends`: what a config has of another, where each value stands, and what can't be extended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import mmdit
from mmdit.config import Config, ConfigError, as_config
from mmdit.config.extension import MAX_CHAIN, MAX_EXTENDED, read_document
from mmdit.config.file import load_config, load_points
from mmdit.config.shipped import shipped_configs
from mmdit.config.yaml_document import Document, parse
from mmdit.config.yaml_text import to_yaml
from mmdit.options import as_data
from tests.support.config_files import GOOD, WholeFile

TINY = """\
name: base
model:
  depth: 1
  modalities:
    text: {dim: 8}
    image: {dim: 12}
"""


def write(**files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text)


def read(**files: str) -> dict[str, Any]:
    """The data of the last of some files."""
    write(**files)
    data: dict[str, Any] = read_document(f"{list(files)[-1]}.yaml").data
    return data


def refusal(path: str = "c.yaml", schema: type = Config, *overrides: str, **files: str) -> str:
    write(**files)
    with pytest.raises(ConfigError) as error:
        load_config(path, schema, overrides=overrides)
    return str(error.value)


# -------------------------------------------------------------------------------------------------------- what is had


@pytest.mark.parametrize(
    ("base", "changes", "wanted"),
    [
        ("a: 1\nb: 2", "b: 3\nc: 4", {"a": 1, "b": 3, "c": 4}),
        ("a: {x: 1, y: {z: 2, w: 3}}", "a: {y: {z: 4}}", {"a": {"x": 1, "y": {"z": 4, "w": 3}}}),
        ("a: [1, 2, 3]", "a: [4]", {"a": [4]}),
        ("a: [{x: 1}]", "a: [{y: 1}]", {"a": [{"y": 1}]}),
        ("a: {x: 1}", "a: 2", {"a": 2}),
        ("a: 2", "a: {x: 1}", {"a": {"x": 1}}),
        ("a: {x: 1}", "a: {}", {"a": {"x": 1}}),
        ("a: {x: 1, y: 2}\nb: 1", "a: {x: null}\nb: null", {"a": {"y": 2}}),
        ("a: 1", "b: null\nc: {d: null}", {"a": 1, "b": None, "c": {"d": None}}),  # no key of that name to leave out
        ("a: null", "a: {x: 1}", {"a": {"x": 1}}),
    ],
)
def test_mappings_merge_all_else_replaces_and_null_leaves_a_key_out(base: str, changes: str, wanted: Any) -> None:
    assert read(a=base, b=f"extends: a.yaml\n{changes}\n") == wanted


def test_keys_stand_in_the_order_of_what_is_extended_and_new_ones_behind() -> None:
    text = "extends: a.yaml\nmodel: {modalities: {audio: {dim: 4}, image: {dim: 6}}}\n"
    assert list(read(a=TINY, b=text)["model"]["modalities"]) == ["text", "image", "audio"]


def test_a_chain_is_changed_from_its_far_end() -> None:
    b, c = "extends: a.yaml\ny: 2\nz: null\nw: null", "extends: b.yaml\nz: 3\nx: null"
    data = read(a="x: 1\ny: 1\nz: 1\nw: 1", b=b, c=c)
    assert data == {"y": 2, "z": 3}


def test_a_path_is_one_from_the_folder_of_the_file_that_names_it(tmp_path: Path) -> None:
    Path("far/below").mkdir(parents=True)
    Path("far/base.yaml").write_text(TINY)
    Path("far/below/b.yaml").write_text("extends: ../base.yaml\nname: b\n")
    Path("c.yaml").write_text("extends: far/below/b.yaml\nmodel: {depth: 3}\n")
    Path("d.yaml").write_text(f"extends: {tmp_path}/far/base.yaml\n")
    for path, name, depth in (("c.yaml", "b", 3), (tmp_path / "c.yaml", "b", 3), ("far/below/b.yaml", "b", 1)):
        config = as_config(path)
        assert (config.name, config.model.depth) == (name, depth)
    assert as_config("d.yaml") == as_config("far/base.yaml")


def test_a_shipped_config_is_extended_by_its_name_unless_a_file_of_that_name_is_there() -> None:
    write(c="extends: ablations/residual/manifold\nmodel: {depth: 1}\n")
    config = as_config("c.yaml").model
    assert (config.depth, config.residual.kind, config.heads) == (1, "manifold_hyper_connections", 4)
    Path("two-modality").write_text(TINY)
    Path("sub").mkdir()
    for folder, parent in ((".", "base"), ("sub", "two-modality")):  # the file is none of the other folder's
        Path(folder, "d.yaml").write_text("extends: two-modality\n")
        assert as_config(Path(folder, "d.yaml")).name == parent


def test_a_runs_folder_is_extended_as_its_config() -> None:
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/config.yaml").write_text(TINY)
    write(c="extends: runs/x\nmodel: {depth: 2}\n")
    assert as_config("c.yaml").model.depth == 2


def test_weights_are_extended_by_their_config_alone() -> None:
    Path("m.safetensors").write_bytes(bytes(1 << 21))
    with pytest.raises(
        ConfigError, match=r"c.yaml:1:10: extends: expected a config, and m.safetensors are weights; write"
    ):
        read(c="extends: m.safetensors\n")


def test_standard_input_and_a_mapping_extend_from_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    write(a=TINY)
    monkeypatch.setattr("mmdit.config.extension._read_stdin", lambda: b"extends: a.yaml\nmodel: {depth: 2}\n")
    assert load_config("-", Config).model.depth == 2
    assert mmdit.build({"extends": "a.yaml", "model": {"depth": 2}}).config == load_config("-", Config).model
    assert mmdit.build({"extends": "a.yaml"}).config == as_config("a.yaml").model


def test_what_is_read_is_whole_and_can_be_written_out() -> None:
    write(a=TINY, c="extends: a.yaml\nmodel: {depth: 2}\n")
    config = as_config("c.yaml")
    assert config.extends is None and "extends" not in as_data(config)
    Path("a.yaml").unlink()
    assert as_config(as_data(config)) == config


@pytest.mark.parametrize("name", ["flux.2-klein-9b", "ablations/weights/shared"])
def test_the_resolved_text_of_a_shipped_config_is_the_same_config(name: str) -> None:
    text = to_yaml(read_document(name).data)
    write(c=text)
    assert "extends" not in text
    assert as_config("c.yaml") == as_config(name)


def test_sweeps_and_overrides_change_what_was_extended_and_no_other_point() -> None:
    write(a=TINY, c="extends: a.yaml\n")
    rows = [["model.depth=2"], ["model.heads=5"], []]
    points = load_points("c.yaml", Config, overrides=["model.heads=3"], points=rows)
    assert [(each.model.depth, each.model.heads) for each in points] == [(2, 3), (1, 5), (1, 3)]


# ------------------------------------------------------------------------------------------------- where it is written


def test_a_wrong_value_is_named_in_the_file_that_it_stands_in() -> None:
    a = "net:\n  depth: 4\n  layers:\n    a: {width: x}\n  scale: y\n"
    c = "extends: a.yaml\nnet:\n  on: z\n  layers: {b: {}}\n  scale: q\n"
    assert refusal(schema=WholeFile, a=a, c=c).splitlines() == [
        "c.yaml:3:7: net.on: expected true or false, got 'z'",
        "c.yaml:4:12: net.layers.b.width: missing, and it has no default",
        "c.yaml:5:10: net.scale: expected a number, got 'q'",
        "a.yaml:4:16: net.layers.a.width: expected a whole number, got 'x' (c.yaml extends this)",
    ]
    assert refusal("c.yaml", WholeFile, "net.on=5").splitlines()[-1] == (
        "--set net.on=5: net.on: expected true or false, got 5"
    )
    write(c=c.replace("z", "true").replace("{}", "{width: 1}").replace("q", "1") + "  depth: 2\n")
    assert load_config("c.yaml", WholeFile, overrides=["net.layers.a.width=3"]).net.depth == 2


def test_what_is_wrong_in_what_is_extended_is_no_matter_where_it_is_replaced() -> None:
    write(a=GOOD.replace("depth: 4", "depth: four"), c="extends: a.yaml\nnet: {depth: 2}\n")
    assert load_config("c.yaml", WholeFile).net.depth == 2


def test_a_key_that_another_kind_has_not_can_be_left_out() -> None:
    c = "extends: a.yaml\nnet: {layers: {b: {shape: {kind: square}}}}\n"
    assert refusal(schema=WholeFile, a=GOOD, c=c) == (
        "a.yaml:7:28: net.layers.b.shape.radius: unknown key. Valid keys are kind, side "
        "(c.yaml extends this, and can leave it out by null)"
    )
    write(c=c.replace("square", "square, radius: null"))
    assert load_config("c.yaml", WholeFile).net.layers["b"].shape is not None


def test_a_needed_key_that_is_left_out_is_missing_where_it_was() -> None:
    c = "extends: a.yaml\nnet:\n  depth: null\n"
    assert refusal(schema=WholeFile, a=GOOD, c=c) == "c.yaml:3:3: net.depth: missing, and it has no default"


def test_a_place_is_of_the_last_file_that_wrote_the_key() -> None:
    write(a="x: {p: 1, q: [1, 2]}\ny: 1", b="extends: a.yaml\n\nx:\n  p: 2\n", c="extends: b.yaml\nx: {q: [3]}\n")
    values = read_document("c.yaml").values
    assert {".".join(map(str, at)): str(place) for at, place in values.items() if at not in ((), ("extends",))} == {
        "x": "c.yaml:2:4",
        "x.p": "b.yaml:4:6",
        "x.q": "c.yaml:2:8",
        "x.q.0": "c.yaml:2:9",
        "y": "a.yaml:2:4",
    }


# -------------------------------------------------------------------------------------------------- what can't be read


def test_what_can_not_be_extended_is_named_with_the_line_that_asks_for_it() -> None:
    Path("sub").mkdir()
    write(c="name: c\nextends: WHAT\n", list="- 1\n", empty="", bad="model: [\n", loop="extends: loop.yaml\n")
    write(kontext="extends: flux.1-kontxt-dev\n")
    Path("config.yml").touch()
    for what, message in {
        "5": "expected the name or the file of a config, got 5",
        "[list.yaml]": "expected the name or the file of a config, got a list",
        "{a: 1}": "expected the name or the file of a config, got a mapping",
        "''": "expected the name or the file of a config, got ''",
        "lst.yaml": "lst.yaml: no such file; did you mean list.yaml?",
        "flux1-dev": "flux1-dev: no such file; mmdit comes with one that is called flux.1-dev",
        "no/list.yaml": "no/list.yaml: no such file; the folder 'no' does not exist either",
        "'-'": "-: no such file",
        "sub": "sub: can't be read: it is a folder",
        "/dev/zero": "/dev/zero: can't be read: it is not a regular file; pipe it to standard input and name it -",
        "list.yaml": "list.yaml:1:1: expected a mapping, got a list",
        "empty.yaml": "empty.yaml: the file is empty; expected a mapping",
        "bad.yaml": "bad.yaml:2:1: not valid YAML: expected the node content, but found '<stream end>' while parsing a "
        "flow node",
        "c.yaml": "a config can't extend itself: c.yaml extends c.yaml",
        "sub/../c.yaml": "a config can't extend itself: c.yaml extends sub/../c.yaml",
        "a" * 300: f"{'a' * 300}: can't be read: File name too long",
    }.items():
        write(c=f"name: c\nextends: {what}\n")
        assert refusal() == f"c.yaml:2:10: extends: {message}", what
    assert refusal(c="extends: kontext.yaml\n") == (
        "kontext.yaml:1:10: extends: flux.1-kontxt-dev: no such file; mmdit comes with one that is called "
        "flux.1-kontext-dev"
    )


def test_a_circle_is_shown() -> None:
    Path("sub").mkdir()
    os.symlink("../b.yaml", "sub/link.yaml")
    message = refusal(a="extends: b.yaml\n", b="extends: c.yaml\n", c="extends: a.yaml\n")
    assert message == (
        "b.yaml:1:10: extends: a config can't extend itself: c.yaml extends a.yaml extends b.yaml extends c.yaml"
    )
    assert refusal("b.yaml", b="extends: sub/link.yaml\n").endswith("itself: b.yaml extends sub/link.yaml")


def test_a_chain_has_an_end() -> None:
    files = {f"f{i}": f"extends: f{i + 1}.yaml\n" for i in range(MAX_CHAIN + 1)}
    write(**files | {f"f{MAX_CHAIN - 1}": TINY})
    assert as_config("f0.yaml").name == "base"
    write(**files)
    message = f"f{MAX_CHAIN - 1}.yaml:1:10: extends: more than {MAX_CHAIN} configs, of which each extends the next"
    assert refusal("f0.yaml") == message


@pytest.mark.slow
def test_the_values_of_a_chain_are_counted_together() -> None:
    half, whole = (f"k: [{'1,' * count}]\n" for count in (MAX_EXTENDED // 2, MAX_EXTENDED))
    found = refusal(a=half, b=f"extends: a.yaml\n{half}", c="extends: b.yaml\n")
    assert found == f"b.yaml:1:10: extends: more than {MAX_EXTENDED} values in all that is extended"
    found = refusal(a=whole, c="extends: a.yaml\n")
    assert found.startswith("c.yaml:1:10: extends: a.yaml:1:")
    assert found.endswith(f": more than {MAX_EXTENDED} values, counting what aliases repeat")


def test_only_a_file_or_what_build_is_given_extends() -> None:
    said = "extends: only a config file, or the mapping given to build, extends another"
    assert refusal("c.yaml", Config, "extends=a.yaml", c=TINY) == f"--set extends=a.yaml: {said}"
    with pytest.raises(ValueError, match=said):
        Config(model=as_config("c.yaml").model, extends="a.yaml")
    assert "did you mean extends, as in extends: flux.1-dev?" in refusal(c=TINY + "  extends: flux.1-dev\n")


def test_a_shipped_config_extends_by_name_so_that_a_copy_works_anywhere() -> None:
    for name, path in shipped_configs().items():
        parent = parse(path.read_bytes(), name).data.get("extends")
        assert parent is None or parent in shipped_configs(), name


def test_a_copy_of_a_document_can_be_changed() -> None:
    first = parse("a: {b: [1]}", "x")
    second = first.copy()
    second.set(("a", "b"), Document("y", [2]))
    assert first == parse("a: {b: [1]}", "x") and second.data == {"a": {"b": [2]}}

"""Wrong requests end in one message that names the place, and touch nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from mmdit.config import ConfigError
from mmdit.config.file import validate_mapping
from mmdit.config.regular_file import read_regular
from mmdit_cli import app
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.model_parts.processes import processes
from mmdit_cli.output.console import is_main, printable
from mmdit_cli.profile.baseline import find_earlier
from mmdit_cli.request.earlier_document import read_document
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.sweep import MAX_POINTS, parse_sweeps
from mmdit_cli.request.targets import check_target
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from tests.robustness.cases import COMMANDS, FILE, Text, base
from tests.robustness.outcome import Outcome
from tests.robustness.process import Ended, Server
from tests.robustness.requests import Case, cases, contents, fault, outcome, outcomes
from tests.support.marks import slow_but

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and reads /proc")
TINY = {"model": {"depth": 1, "modalities": {"x": {"dim": 8}}, "heads": 1, "dim_head": 8, "dim_cond": 8}}


def tiny(**model: object) -> ToolConfig:
    return validate_mapping({"model": TINY["model"] | model}, ToolConfig, source="tiny")


# ------------------------------------------------------------------------------------------------------------- all


@pytest.fixture(scope="module")
def server():
    with Server(few=True) as server:
        yield server


def test_a_share_of_all_kinds_is_answered_well_and_nothing_is_lost(server):
    found = [outcome(case, server) for case in cases(share=0.005)]
    assert len(found) >= 6 and len({each.group for each in found}) >= 5
    assert [each for each in found if not each.well or each.lost] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_all_are_answered_well_and_nothing_is_lost(seed):
    found = list(outcomes(seed))
    assert len(found) >= 500
    assert [each for each in found if not each.well or each.lost] == []


def test_a_seed_makes_the_same_requests_for_all_commands_and_another_makes_others():
    def shown(seed: int) -> list[tuple[str, ...]]:
        return [(case.group, case.name, *case.arguments) for case in cases(seed)]

    assert shown(0) == shown(0) != shown(1)
    assert {row[2] for row in shown(0)} >= {command for command, *_ in COMMANDS.values()} | {"schema", "configs"}


@pytest.mark.parametrize("name", slow_but(COMMANDS, "flops"))
def test_the_config_that_is_damaged_is_right_for_every_command(name, server, tmp_path):
    command, *options = COMMANDS[name]
    (tmp_path / FILE).write_bytes(Text.of(base()).encode())
    real = name == "profile"  # measures the machine, so it may take longer
    ended = server.run([command, "--config", FILE, *options, "--json"], tmp_path, real=real)
    assert ended.code == 0 and json.loads(ended.out)["command"] == command, ended


# ---------------------------------------------------------------------------------------------------------- the judge

GOOD = Ended(2, b"", b"error: base.yaml:3:1: model.depth: expected a whole number\n", 0.1, 1 << 20)
CASE = Case("group", "name", ("flops",), (("base.yaml:3:",), ("depth", "width")))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"code": 1}, "exit code 1"),
        ({"code": None}, "killed"),
        ({"out": b"x"}, "standard output"),
        ({"err": b"error: base.yaml:4:1: depth\n"}, "names no 'base.yaml:3:'"),
        ({"err": b"error: base.yaml:3:1: model\n"}, "names no 'depth or width'"),
        ({"err": GOOD.err + GOOD.err}, "not one message"),
        ({"err": b""}, "not one message"),
        ({"err": b"Traceback (most recent call last)\n" + GOOD.err}, "a traceback"),
        ({"err": GOOD.err + b"\x1b[2J"}, "control characters"),
        ({"err": GOOD.err + b"x" * 6000}, "a message of"),
        ({"seconds": 11.0}, "took more than 10 s"),
        ({"peak": 2 << 30}, "took 2.1 GB"),
    ],
)
def test_an_answer_is_judged_by_what_was_seen(change, why):
    found = fault(Ended(**{**vars(GOOD), **change}), CASE)
    assert why in found and bool(found) == bool(why)


def test_a_right_request_that_writes_is_neither_answered_well_nor_without_a_loss(server):
    request = Case("group", "name", ("export", "-c", FILE, "--out", "out.safetensors"), ())
    found = outcome(request, server)
    assert found == Outcome("group", "name", False, True, found.why)
    assert "exit code 0" in found.why and "left 'out.safetensors'" in found.why


def test_contents_tell_every_change_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    before = contents(tmp_path)
    for change in (
        lambda: (tmp_path / "a").write_bytes(b"2"),
        lambda: (tmp_path / "a").chmod(0o600 if (tmp_path / "a").stat().st_mode & 0o77 else 0o644),
        lambda: (tmp_path / "b").mkdir(),
        lambda: (tmp_path / "c").symlink_to("a"),
        lambda: (tmp_path / "a").unlink(),
    ):
        change()
        after = contents(tmp_path)
        assert after != before
        before = after


# ------------------------------------------------------------------------------------------------------ single findings


def test_a_key_of_very_many_parts_is_refused_before_it_takes_memory(tmp_path):
    (tmp_path / "x.yaml").write_text(json.dumps(TINY))
    with pytest.raises(ConfigError, match=r"--set a\.a\.a.*30001 parts"):
        load_tool_config(tmp_path / "x.yaml", ["a." * 30_000 + "b=1"])


def test_a_sweep_has_so_many_points_at_most():
    values = ",".join(map(str, range(MAX_POINTS)))
    (axis,) = parse_sweeps([f"run.batch_size={values}"])
    assert len(axis.values) == MAX_POINTS
    with pytest.raises(UserError, match=f"{MAX_POINTS + 1} values"):
        parse_sweeps([f"run.batch_size={values},{MAX_POINTS}"])
    with pytest.raises(UserError, match=f"--sweep b: makes {2 * MAX_POINTS} points"):
        parse_sweeps([f"a={values}", "b=1,2"])


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"dim_cond": (1 << 32) + 1}, "model.dim_cond"),
        ({"register_tokens": {"x": 1 << 40}}, "model.register_tokens.x"),
        ({"depth": 513}, "model.depth"),
        ({"single_stream": {"depth": 512}}, "model.single_stream.depth"),
    ],
)
def test_a_size_that_no_machine_holds_is_refused_by_its_key(model, key):
    with pytest.raises(ConfigError, match=f"{key}: expected .* (4294967296|512)"):
        tiny(**model)


def test_as_many_blocks_as_are_allowed_are_allowed():
    assert tiny(depth=512).model.depth == 512 and tiny(dim_cond=1 << 32).model.dim_cond == 1 << 32


def test_sizes_that_multiply_to_too_much_are_named_with_the_config():
    config = tiny(dim_cond=1 << 32, modalities={"x": {"dim": 1 << 32}})
    with (
        pytest.raises(UserError, match=r"model: is larger than any machine.*model.dim_cond=4294967296"),
        possible(config),
    ):
        meta_model(config)
    with pytest.raises(RuntimeError, match="another"), possible(config):
        raise RuntimeError("another error")


def test_control_characters_are_spelled_out_and_letters_are_not():
    assert printable("a\x1b[31m\r深さ\n\udcff") == "a\\x1b[31m\\r深さ\n\\udcff"


def test_a_target_that_takes_no_file_is_refused_before_the_work(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    for path, why in {
        tmp_path / "fifo.json": "is not a regular file",
        tmp_path / f"{'x' * 300}.json": "File name too long",
        tmp_path / "none" / "r.json": "there is no folder",
        Path("/proc/r.json"): "takes no file",
        tmp_path: "is a folder",
    }.items():
        with pytest.raises(UserError, match=f"^--report .*{why}"):
            check_target(path, "--report")
    check_target(tmp_path / "new.json", "--report")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo.json", "loop.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("flops", "-c", "c.json", "--report", "c.json"),
        ("flops", "-c", "c.json", "--report", "./link.json"),
        ("export", "-c", "c.json", "--out", "c.json", "--force"),
        ("export", "-c", "c.json", "--out", "new.json", "--report", "new.json"),
        ("export", "-c", "c.json", "--weights", "w.json", "--out", "new", "--report", "w.json"),
        ("shape-check", "-c", "c.json", "--weights", "w.json", "--report", "w.json"),
        ("profile", "-c", "c.json", "--trace", "c.json"),
        ("profile", "-c", "c.json", "--trace", "t.json", "--report", "t.json"),
        ("profile", "-c", "c.json", "--trace", "b.json", "--baseline", "b.json"),
        ("profile", "-c", "c.json", "--report", "b.json", "--baseline", "b.json"),
        ("profile", "-c", "c.json", "--trace", "x.png", "--plot", "x.png"),
        ("profile", "-c", "c.json", "--plot", "link.png"),
        ("train-toy", "-c", "c.json", "--seeds", "2", "--plot", "link.png"),
        ("train-toy", "-c", "c.json", "--seeds", "2", "--plot", "x.png", "--run-dir", "x.png"),
    ],
    ids=" ".join,
)
def test_what_one_option_reads_or_writes_no_other_replaces(arguments, server, tmp_path):
    for name in ("c.json", "w.json"):
        (tmp_path / name).write_text(json.dumps(TINY))
    for name in ("link.json", "link.png"):
        (tmp_path / name).symlink_to("c.json")
    (tmp_path / "b.json").write_text('{"command": "profile", "results": []}')
    before = contents(tmp_path)
    ended = server.run(arguments, tmp_path)
    assert b"is the file that --" in ended.err
    assert ended.code == 2 and ended.err.count(b"error: ") == 1 and contents(tmp_path) == before


@pytest.mark.parametrize("images", ["1e308", "inf", "nan", "0", "1.5", "-1"])
def test_a_budget_is_a_number_that_stays_finite(images, server, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(TINY))
    ended = server.run(("flops", "-c", "c.json", "--images", images), tmp_path)
    assert ended.code == 2 and f"--images {images}: expected a whole number".encode() in ended.err


def test_a_baseline_of_many_values_is_refused_before_it_takes_memory(tmp_path):
    (tmp_path / "b.json").write_bytes(b'{"command": "profile", "results": [' + b"[]," * 3_000_000 + b"[]]}")
    with pytest.raises(UserError, match="is larger than 8 MB"):
        read_document(tmp_path / "b.json", "--baseline", "profile")


def test_what_the_environment_says_of_other_launchers_silences_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert is_main()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert not is_main()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE='two' in the environment"), processes(torch.device("cpu"), "ddp"):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self/cwd"), reason="a working directory that can be removed")
def test_a_working_directory_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert "the working directory is gone" in capsys.readouterr().err


def test_seeds_end_within_64_bits(server, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(TINY))
    ended = server.run(("train-toy", "-c", "c.json", "--seed", str((1 << 64) - 1), "--seeds", "2"), tmp_path)
    assert ended.code == 2 and b"--seeds 2: the last of them, 18446744073709551616" in ended.err


def test_a_file_is_read_up_to_a_limit_and_what_has_no_end_is_not(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "fifo")
    assert read_regular(tmp_path / "file", 3) == b"123"
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="it is"):
            read_regular(path, 3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"latency_ms": {"median": "fast"}}, "no number latency_ms.median"),
        ({"latency_ms": {"median": float("inf")}}, "no number latency_ms.median"),
        ({"latency_ms": {"median": 1.0, "ci_high": "x"}}, "no number latency_ms.ci_high"),
        ({"parameters": 10**400}, "no number parameters"),
        ({"memory_bytes": 7}, "no number memory_bytes.peak"),
        ({"mode": "train"}, "measured in mode 'train'"),
        ({"config": "other"}, "holds no x; its configs are other"),
    ],
)
def test_a_baseline_that_can_not_be_compared_is_refused_before_anything_is_measured(change, why):
    result = {"config": "x", "point": {}, "mode": "forward", "parameters": 1, "flops": 2}
    result |= {"latency_ms": {"median": 1.0, "ci_high": None}, "memory_bytes": {"peak": 3}}
    wanted = [{"config": "x", "point": {}, "mode": "forward"}]
    assert find_earlier(wanted, {"results": [result]}) == [result]
    with pytest.raises(UserError, match=why):
        find_earlier(wanted, {"results": [result | change]})

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.marks import slow_but
from tests.support.paths import ROOT
from tests.support.small_commands import small
from tests.support.small_configs import TINY

COMMON = {"command", "mmdit_version", "torch_version", "device", "dtype", "seed", "results"}
RESULTS = {
    "profile": {
        "config",
        "mode",
        "parameters",
        "flops",
        "latency_ms",
        "samples_per_s",
        "tokens_per_s",
        "achieved_flops_per_s",
        "ceiling",
        "utilization",
        "memory_bytes",
        "components",
    },
    "flops": {"config", "parameters", "forward_flops", "backward_flops", "components"},
    "shape-check": {"config", "ok", "parameters", "weight_bytes", "inputs", "outputs", "layers", "problems"},
    "export": {"config", "format", "files", "tensors", "parameters", "bytes", "verified", "max_abs_diff"},
}
UNUSED = {"export": "not used by export: run.batch_size (tiny.yaml:12:3), run.tokens (tiny.yaml:13:3)\n"}
OPTIONS = {"profile": ["--repeats", "2", "--max-seconds", "0.1"], "export": ["--out", "m.safetensors"]}


@pytest.fixture
def mmdit(tmp_path, monkeypatch, capfd, quick_ceilings, counted_once):
    """Runs the command line in this process: exit code, standard output, standard error."""
    from mmdit_cli.app import main

    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["mmdit", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.mark.parametrize("command", RESULTS)
def test_json_is_one_document_with_the_contracts_keys_and_the_report_is_the_same(command, mmdit):
    code, out, err = mmdit(
        command, "-c", "tiny.yaml", "--json", "--report", "r.json", "--seed", "3", *OPTIONS.get(command, [])
    )
    assert (code, err) == (0, UNUSED.get(command, ""))
    document = json.loads(out)
    assert set(document) >= COMMON and document["command"] == command and document["seed"] == 3
    (result,) = document["results"]
    assert set(result) >= RESULTS[command] and result["config"] == "tiny"
    assert json.loads(Path("r.json").read_text()) == document


def test_the_profiles_parts_have_the_contracts_keys(mmdit):
    _, out, _ = mmdit("profile", "-c", "tiny.yaml", "--json", *OPTIONS["profile"])
    (result,) = json.loads(out)["results"]
    assert set(result["latency_ms"]) >= {"median", "p10", "p90", "runs"}
    assert set(result["ceiling"]) >= {"gemm_flops_per_s", "bytes_per_s"}
    assert set(result["memory_bytes"]) >= {"weights", "peak"}
    assert set(result["components"][0]) >= {"name", "calls", "time_ms", "share", "flops", "parameters"}


@pytest.mark.parametrize("command", RESULTS)
def test_tables_are_printed_and_nothing_is_cut(command, mmdit):
    code, out, err = mmdit(command, "-c", "tiny.yaml", *OPTIONS.get(command, []))
    assert (code, err) == (0, UNUSED.get(command, ""))
    assert "tiny" in out and "…" not in out and "\x1b" not in out


def test_several_configs_stand_side_by_side(mmdit):
    code, out, _ = mmdit("flops", "-c", "tiny.yaml", "-c", "tiny.yaml", "--set", "model.depth=2", "--json")
    assert code == 0
    assert [r["parameters"] for r in json.loads(out)["results"]] == [json.loads(out)["results"][0]["parameters"]] * 2


def test_set_changes_a_value(mmdit):
    counts = [
        json.loads(mmdit("flops", "-c", "tiny.yaml", "--json", *changes)[1])["results"][0]["parameters"]
        for changes in ([], ["--set", "model.depth=3", "--set", "model.feedforward={mult: 2}"])
    ]
    assert counts[0] != counts[1]


def test_a_config_can_come_from_standard_input(mmdit, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TINY.encode())))
    code, out, _ = mmdit("flops", "-c", "-", "--json")
    assert code == 0 and json.loads(out)["results"][0]["config"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flops", "-c", "tny.yaml"], "did you mean tiny.yaml"),
        (["flops", "-c", "."], "folder|directory"),
        (
            ["flops", "-c", "tiny.yaml", "--set", "model.depht=2"],
            r"--set model.depht=2.*unknown key; did you mean depth",
        ),
        (["flops", "-c", "tiny.yaml", "--set", "model.depth=two"], "expected a whole number"),
        (["flops", "-c", "tiny.yaml", "--set", "run.tokens.txt=2"], "'txt' is no modality"),
        (["flops", "-c", "-", "-c", "-"], "standard input can be read once"),
        (["profile", "-c", "tiny.yaml", "--device", "tpu"], "--device tpu: expected cpu, cuda or cuda:N"),
        (["profile", "-c", "tiny.yaml", "--device", "cuda:99"], "--device cuda:99: "),
        (["profile", "-c", "tiny.yaml", "--dtype", "int8"], "--dtype int8: expected one of fp32, bf16, fp16"),
        (["flops", "-c", "tiny.yaml", "--report", "no/such/r.json"], "there is no folder no/such"),
        (["flops", "-c", "tiny.yaml", "--report", "."], "is a folder"),
        (["export", "-c", "tiny.yaml", "--out", "."], "is a folder"),
        (["export", "-c", "tiny.yaml", "--out", "m", "--weights", "none"], "no such file"),
        (["export", "-c", "tiny.yaml", "--out", "m", "--weights", "tiny.yaml"], "not a whole safetensors file"),
        (["train-toy", "-c", "tiny.yaml"], "train"),
        (["train-toy", "-c", "tiny.yaml", "--resume"], "--run-dir"),
        (["shape-check", "-c", "tiny.yaml", "--set", "model.modalities.text.input={kind: linear}"], "dim: missing"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_2(arguments, message, mmdit):
    import re

    code, out, err = mmdit(*arguments)
    assert code == 2 and out == ""
    assert re.search(message, err), err
    assert "Traceback" not in err and err.count("error: ") == 1
    assert all(line.startswith("not used by ") for line in err.partition("error: ")[0].splitlines())


@pytest.mark.parametrize(
    "arguments", [["flop"], ["flops"], ["flops", "-c", "tiny.yaml", "--wat"], ["profile", "--mode", "x"]]
)
def test_a_wrong_flag_is_exit_2_without_a_traceback(arguments, mmdit):
    code, out, err = mmdit(*arguments)
    assert code == 2 and out == "" and err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["flops", "-c", "tiny.yaml", "--fo\u202eo"],
        ["flops", "-c", "tiny.yaml", "ex\u2066tra\x1b[2J"],
        ["flops", "-c", "tiny.yaml", "--seed", "1\u202e"],
        ["fl\u2069ops"],
        ["--versi\u200fon"],
    ],
)
def test_marks_of_direction_are_spelled_out_in_a_wrong_flag_too(arguments, mmdit):
    code, out, err = mmdit(*arguments)
    assert code == 2 and not out and re.search(r"\\u2\d\w\w", err)
    assert all(sign.isprintable() or sign == "\n" for sign in err)


def test_a_failed_check_is_exit_1_and_still_shows_what_was_found(mmdit, monkeypatch):
    from mmdit_cli.shape_check import shapes

    monkeypatch.setattr(shapes, "_compare", lambda *_: ["the last block, image: got [1], wanted [2]"])
    code, out, err = mmdit("shape-check", "-c", "tiny.yaml", "--json")
    assert code == 1 and json.loads(out)["results"][0]["ok"] is False
    assert err == "error: the last block, image: got [1], wanted [2]\n"


def test_ctrl_c_is_exit_130_without_a_traceback(mmdit, monkeypatch):
    from mmdit_cli.model_parts import flop_count as flops

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(flops, "count_flops", interrupt)
    code, _, err = mmdit("flops", "-c", "tiny.yaml")
    assert code == 130 and "interrupted" in err and "Traceback" not in err


def test_an_unexpected_error_is_one_line_and_debug_shows_where(mmdit, monkeypatch):
    from mmdit_cli.model_parts import flop_count as flops

    monkeypatch.setattr(flops, "count_flops", lambda *_, **__: 1 / 0)
    code, _, err = mmdit("flops", "-c", "tiny.yaml")
    assert code == 1 and err.count("\n") == 1 and "ZeroDivisionError" in err and "--debug" in err
    assert "Traceback" in mmdit("flops", "-c", "tiny.yaml", "--debug")[2]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_a_device_without_memory_for_it_is_exit_2_whoever_says_so(text, mmdit, monkeypatch):
    from mmdit_cli.model_parts import flop_count as flops

    def fails(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr(flops, "count_flops", fails)
    code, _, err = mmdit("flops", "-c", "tiny.yaml")
    assert code == 2 and err.startswith("error: not enough memory for this")


@pytest.mark.slow
def test_a_reader_who_leaves_early_is_no_error():
    command = f"{sys.executable} -m mmdit_cli schema | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and done.returncode == 0


HELP = [["--help"], ["--version"], *([command, "--help"] for command in (*RESULTS, "train-toy"))]


@pytest.mark.parametrize("arguments", slow_but(HELP, ["--version"], ["profile", "--help"]))
def test_help_needs_neither_torch_nor_the_library(arguments):
    code = (
        f"import sys; sys.argv = ['mmdit', *{arguments!r}]\n"
        "from mmdit_cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'mmdit', 'matplotlib', 'numpy', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "mmdit" in done.stdout
    if arguments[0] in RESULTS or arguments[0] == "train-toy":
        assert f"Example: mmdit {arguments[0]}" in " ".join(done.stdout.replace("│", " ").split())


@pytest.mark.parametrize("columns", [40, 80])
def test_help_says_of_every_command_what_it_does_and_cuts_nothing(columns, mmdit, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = mmdit("--help")
    assert code == 0 and "..." not in out.partition("\n")[2] and max(map(len, out.splitlines())) <= max(50, columns)
    said = " ".join(out.split())
    for sentence in ("which component takes the time.", "a YAML file describes."):
        assert sentence in said


def three_commands(mmdit) -> list[str]:
    code, out, err = mmdit()
    assert (code, err) == (0, "") and max(map(len, out.splitlines())) <= 80
    return [line.partition("   ")[0].strip() for line in out.splitlines() if line.startswith("  mmdit ")]


def test_alone_it_shows_three_commands(mmdit):
    assert [shlex.split(line)[1] for line in three_commands(mmdit)] == ["flops", "profile", "train-toy"]


@pytest.mark.slow
def test_those_three_commands_work(mmdit):
    for line in three_commands(mmdit):
        assert mmdit(*shlex.split(small(line))[1:])[0] == 0, line


@pytest.mark.parametrize("columns", ["40", "80"])
@pytest.mark.parametrize("command", [*RESULTS, "train-toy"])
def test_help_shows_every_flag_whole_on_a_narrow_screen(command, columns, mmdit, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = mmdit(command, "--help")
    for flag in ("--config", "--set", "--device", "--dtype", "--seed", "--json", "--report"):
        assert flag in out
    assert code == 0 and max(map(len, out.splitlines())) <= max(50, int(columns))


@pytest.mark.parametrize(
    "name",
    slow_but(
        sorted(p.stem for p in (ROOT / "configs").glob("*.yaml")),
        "adaptive",
    ),
)
def test_every_shipped_config_passes_its_shape_check_and_is_counted(name, mmdit):
    path = str(ROOT / "configs" / f"{name}.yaml")
    code, out, err = mmdit("shape-check", "-c", path, "--json")
    assert code == 0 and json.loads(out)["results"][0]["config"] == name, err
    code, out, _ = mmdit("flops", "-c", path, "--json")
    (result,) = json.loads(out)["results"]
    assert code == 0 and sum(row["flops"] for row in result["components"]) == result["forward_flops"]


@pytest.mark.slow
def test_a_profile_is_compared_with_an_earlier_one(mmdit):
    quick = ("profile", "-c", "tiny.yaml", "--repeats", "2")
    assert mmdit(*quick, "--report", "old.json", "--trace", "trace.json")[0] == 0
    assert "attention" in Path("trace.json").read_text()
    code, out, err = mmdit(*quick, "--baseline", "old.json", "--tolerance", "100000%", "--json")
    assert code == 0, err
    assert {change["verdict"] for change in json.loads(out)["baseline"]} <= {"same", "better", "withheld"}
    code, out, err = mmdit(*quick, "--set", "model.depth=2", "--baseline", "old.json", "--tolerance", "100000%")
    assert code == 1 and "against the baseline" in out
    assert re.search(r"tiny: parameters is 1\.\d+ x the baseline's; tiny: FLOPs is", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "none.json"], "--baseline none.json: No such file"),
        (["--tolerance", "much"], "--tolerance much: expected a share such as 5%"),
        (["--trace", "no/where.json"], "--trace no/where.json: there is no folder no"),
        (["--trace", "t.json", "-c", "tiny.yaml"], "--trace: is of one config"),
        (["--report", "r.txt"], "--report r.txt: expected a name that ends in .json, .csv, .md"),
    ],
)
def test_a_profile_that_can_not_be_compared_is_refused_before_it_is_made(arguments, message, mmdit):
    code, out, err = mmdit("profile", "-c", "tiny.yaml", *arguments)
    assert code == 2 and out == "" and message in err

"""`mmdit profile` on the command line: sweeps, pictures, estimates, and what does not fit."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from mmdit_cli.errors import UserError
from tests.support.marks import slow_but
from tests.support.small_configs import TINY

QUICK = ["--repeats", "2", "--max-seconds", "0.1"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd, quick_ceilings):
    """Runs the command line in this process, in a folder with a tiny config."""
    from mmdit_cli.app import main

    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["mmdit", "profile", "-c", "tiny.yaml", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(code=stop.value.code, out=out, err=err)

    return command


def test_a_sweep_is_a_grid_with_its_growth_and_a_picture(run, tmp_path):
    sweep = ["--sweep", "run.tokens.image=16,64", "--sweep", "run.batch_size=1,2", "--plot", "s.png"]
    done = run(*sweep, *QUICK, "--report", "s.json")
    assert done.code == 0, done.err
    assert "tokens ^" in done.out and "batch size ^" in done.out
    document = json.loads((tmp_path / "s.json").read_text())
    points = [result["point"] for result in document["results"]]
    assert points == [{"run.tokens.image": n, "run.batch_size": b} for n in (16, 64) for b in (1, 2)]
    assert [result["tokens"]["image"] for result in document["results"]] == [16, 16, 64, 64]
    assert {(row["figure"], row["variable"]) for row in document["growth"]} >= {("time", "tokens")}
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_a_point_that_does_not_fit_is_left_out_and_the_rest_is_measured(run, monkeypatch):
    def check_fits(config, *how):
        if config.run.tokens["image"] > 32:
            raise UserError("8 MB are free")

    monkeypatch.setattr("mmdit_cli.memory.precheck.check_fits", check_fits)
    sweep = ["--sweep", "run.tokens.image=16,64,128"]
    done = run(*sweep, *QUICK, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert [result["tokens"]["image"] for result in document["results"]] == [16]
    assert "are free" in document["left_out"][1]["reason"] and len(document["left_out"]) == 2
    done = run("--sweep", "run.tokens.image=64,128", *QUICK)
    assert done.code == 2 and "are free" in done.err


@pytest.mark.slow
def test_a_baseline_of_another_dtype_is_refused_and_of_other_threads_not_judged(run, tmp_path):
    old = tmp_path / "old.json"
    assert run(*QUICK, "--report", "old.json").code == 0
    done = run(*QUICK, "--dtype", "bf16", "--baseline", "old.json")
    assert done.code == 2 and "measured in dtype 'fp32', and this run is in dtype 'bf16'" in " ".join(done.err.split())
    document = json.loads(old.read_text())
    document["threads"] += 1
    for result in document["results"]:
        result["latency_ms"] = {"median": 1e-6, "ci_low": 1e-6, "ci_high": 1e-6}
    old.write_text(json.dumps(document))
    done = run(*QUICK, "--baseline", "old.json")
    assert done.code == 0, done.err
    above, table = done.out.split("\nprofile")
    assert "what is measured is not judged" in " ".join(above.split()) and "withheld" in table


def test_threads_are_as_many_as_asked_for_and_stand_in_the_header(run, monkeypatch):
    import torch

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = torch.get_num_threads()
    try:
        done = run(*QUICK, "--threads", "2" if before == 1 else "1")
        assert done.code == 0, done.err
        assert torch.get_num_threads() != before and f"{torch.get_num_threads()} threads)" in done.out
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_an_estimate_says_whether_it_fits_and_the_largest_batch(run):
    done = run("--mode", "train", "--estimate", "--memory", "1MB", "--json")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    assert result["fits"] and result["largest_batch"] > result["batch_size"]
    at_most = run(
        "--mode", "train", "--estimate", "--memory", "1MB", "--set", f"run.batch_size={result['largest_batch']}"
    )
    assert "yes, " in at_most.out
    more = run(
        "--mode", "train", "--estimate", "--memory", "1MB", "--set", f"run.batch_size={result['largest_batch'] + 1}"
    )
    assert "no, " in more.out


@pytest.mark.slow
def test_an_estimate_of_training_is_of_train_toys_unless_told(run):
    bf16 = ["--mode", "train", "--estimate", "--dtype", "bf16", "--json"]
    toy, pure = (json.loads(run(*bf16, *more).out)["results"][0] for more in ([], ["--precision", "pure", "--no-ema"]))
    whole = {"precision": "mixed", "optimizer": "adamw", "ema": True, "trainable": None, "lora_rank": None}
    assert toy["training"] == whole
    assert toy["memory_bytes"]["weights"] == toy["memory_bytes"]["ema"] == 2 * pure["memory_bytes"]["weights"]
    shown = " ".join(run(*bf16[:-1]).out.split())
    assert "mixed: weights in float32, autocast bfloat16, AdamW, EMA" in shown and "--precision pure" in shown


@pytest.mark.parametrize(("device", "current"), [("cuda:1", [1]), ("cuda", [])])
def test_a_numbered_device_is_current_before_anything_is_made_on_it(device, current, run, monkeypatch):
    import torch

    from mmdit_cli.errors import UserError
    from mmdit_cli.memory import precheck
    from mmdit_cli.profile import grid_profile

    happened: list[object] = []

    def profile_grid(grid, settings, **more):
        happened.append(settings.device)
        raise UserError("measured")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", happened.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: name)
    monkeypatch.setattr(precheck, "free_memory", lambda device: None)
    monkeypatch.setattr(grid_profile, "profile_grid", profile_grid)
    assert "measured" in run("--device", device).err
    assert happened == [*current, torch.device(device)]


@pytest.mark.parametrize("device", slow_but(["cuda", "cuda:0", "cuda:99"], "cuda:99"))
def test_an_estimate_needs_no_device(device, run):
    done = run("--estimate", "--device", device, "--dtype", "bf16", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["device"] == device and document["results"][0]["memory_bytes"]["peak"] > 0
    wrong = run("--estimate", "--device", "cuda:128")  # of which torch would make cuda:-128
    assert wrong.code == 2 and "--device cuda:128: expected cpu, cuda or cuda:N" in wrong.err


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_what_would(run, monkeypatch):
    from mmdit_cli.memory import precheck as fit

    monkeypatch.setattr(fit, "free_memory", lambda device: 2_000_000)
    done = run("--set", "run.batch_size=4000", *QUICK)
    assert done.code == 2 and "needs" in done.err and "2 MB are free" in done.err
    wanted = int(done.err.split("--set run.batch_size=")[1].split()[0])
    assert wanted < 4000
    assert run("--set", f"run.batch_size={wanted}", *QUICK).code == 0
    assert run("--set", f"run.batch_size={wanted + 1}", *QUICK).code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "x.gif"], "--plot x.gif: expected a name that ends in .png"),
        (["--plot", "none/x.png"], "--plot none/x.png: there is no folder none"),
        (["--estimate", "--plot", "x.png"], "--estimate measures nothing"),
        (["--estimate", "--compile"], "--estimate measures nothing; leave out --compile"),
        (
            ["--estimate", "--cold", "--max-seconds", "10"],
            "--estimate measures nothing; leave out --max-seconds, --cold",
        ),
        (["--memory", "1GB", "--repeats", "2"], "--estimate measures nothing; leave out --repeats"),
        (["--estimate", "--tolerance", "5%"], "--estimate measures nothing; leave out --tolerance"),
        (["--tolerance", "5%"], "--tolerance is for --baseline"),
        (["--estimate", "--no-ema"], "--ema is for --estimate with --mode train"),
        (["--mode", "train", "--precision", "pure"], "--precision is for --estimate with --mode train"),
        (["--mode", "train", "--estimate", "--trainable", "x"], "--trainable x: no weight has such a name"),
        (["--memory", "lots"], "--memory: "),
        (["--threads", "99999"], "--threads 99999: this machine has "),
        (["--estimate", "--threads", "1"], "--estimate measures nothing; leave out --threads"),
        (["--sweep", "run.batch_size"], "expected KEY=V1,V2"),
        (["--sweep", "run.batch=1,2"], "unknown key"),
        (["--sweep", "run.batch_size=1,2", "--trace", "t.json"], "--trace: is of one config"),
        (["--set", "model.modalities.image.dim=4000000000"], "larger than any machine"),
    ],
)
def test_a_wrong_request_is_one_message(arguments, message, run):
    done = run(*arguments)
    assert done.code == 2 and message in " ".join(done.err.split()), done.err
    assert done.err.startswith("error: ") and not done.out

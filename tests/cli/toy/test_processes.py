"""Training in two gloo processes is training in one: the same losses, weights, checkpoints and words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mmdit
from mmdit.options import as_written
from mmdit.weights.checkpoints import EMA, OPTIMIZER, WEIGHTS, newest_checkpoint
from mmdit.weights.piece_files import PieceFiles
from mmdit_cli.export.preconditions import Export
from mmdit_cli.model_parts.processes import ALONE, Group
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy import training
from mmdit_cli.toy.trained_run import TrainedRun
from mmdit_cli.toy.trainer import Trainer
from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.toy import CPU, tiny

STEPS = 4
KINDS = ("ddp", "fsdp", "tp=2", "ulysses=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    train = {"steps": STEPS, "batch_size": 5, "evaluation_samples": 8, "evaluate_every": 2, "checkpoint_every": 2}
    content = as_written(tiny(sound=True))
    content["train"] = content.get("train", {}) | train
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def in_two(folder):
    """What two processes, started once, say of a run of each kind and of wrong requests: exit code, output and errors
    of either by name."""
    asked = {kind: ["--run-dir", kind, "--parallel", kind, "--json"] for kind in KINDS}
    asked["rows"] = ["--run-dir", "wrong", "--set", "train.batch_size=1"]
    asked["heads"] = ["--run-dir", "wrong", "--parallel", "tp=2", "--set", "model.heads=1"]
    muon = ["--set", "train.optimizer.kind=muon"]
    asked["ddp, muon"] = ["--run-dir", "ddp-muon", "--json", *muon]
    asked["fsdp, muon"] = ["--run-dir", "wrong", "--parallel", "fsdp", *muon]
    asked["size"] = ["--run-dir", "wrong", "--parallel", "tp=2,ulysses=2"]
    lines = json.dumps([["train-toy", "-c", "c.yaml", *more] for more in asked.values()])
    ports, env = free_ports(len(asked)), {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.one_of_several", f"{rank}.json", lines, *ports],
            cwd=folder,
            env={**env, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    try:
        assert [process.wait(timeout=600) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    said = [json.loads((folder / f"{rank}.json").read_text()) for rank in "01"]
    return dict(zip(asked, zip(*said, strict=True), strict=True))


def start(folder: Path, *arguments: str, size: int = 2) -> subprocess.CompletedProcess[str]:
    """By torchrun itself."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
    command = [sys.executable, *many, "-m", "mmdit_cli", "train-toy", "-c", "c.yaml", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint, problems = newest_checkpoint(run)
    assert checkpoint is not None and checkpoint.step == STEPS and not problems
    return load_file(checkpoint.whole(WEIGHTS))


@pytest.fixture(scope="module")
def alone(folder):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_picture", "_curves"):
            patch.setattr(training, name, lambda *_: None)
        training.train(load_tool_config(folder / "c.yaml"), device=CPU, run_dir=folder / "one")
    return folder / "one"


# starting processes takes half a minute; in the default run `tests/mmdit/parallel` does so
@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def together(request, folder, in_two):
    return request.param, folder / request.param, in_two[request.param]


def same_curve(a, b):
    assert len(a) == len(b) == STEPS
    assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
def test_two_processes_have_the_losses_and_weights_of_one(together, alone):
    _, run, done = together
    assert [code for code, _, _ in done] == [0, 0], done
    same_curve(losses(run), losses(alone))
    one, two = last_weights(alone), last_weights(run)
    assert one.keys() == two.keys()
    for name, x in one.items():
        torch.testing.assert_close(two[name], x, rtol=1e-3, atol=1e-4)


def test_only_the_first_process_speaks(together):
    _, _, ((_, out, err), other) = together
    (result,) = json.loads(out)["results"]  # one document
    assert result["steps"] == STEPS
    assert sum(f"{STEPS}/{STEPS} loss" in line for line in err.splitlines()) == 1
    assert other[1] == "" and "loss" not in other[2]


@pytest.mark.slow
def test_a_run_of_two_goes_on_in_one_and_a_run_of_one_in_two(together, alone, folder):
    """The last checkpoint is taken away, so that both begin at the one before."""
    kind, run, _ = together
    for source, size in ((run, 1), (alone, 2)):
        target = folder / f"{source.name}-{kind}-in-{size}"
        shutil.copytree(source, target)
        shutil.rmtree(target / f"checkpoint-{STEPS:08d}")
        spread = ["--parallel", kind] if size > 1 else []
        done = start(folder, "--run-dir", target.name, "--resume", *spread, size=size)
        assert done.returncode == 0, done.stderr
        same_curve(losses(target), losses(alone))
        for name, x in last_weights(alone).items():
            torch.testing.assert_close(last_weights(target)[name], x, rtol=1e-3, atol=1e-4)


def test_checkpoints_hold_the_same_tensors_whoever_wrote_them(together, alone):
    kind, run, _ = together
    for name in (WEIGHTS, EMA, OPTIMIZER):
        one, two = (newest_checkpoint(folder)[0].files(name) for folder in (alone, run))
        assert PieceFiles(one).specs == PieceFiles(two).specs
        assert len(one) == 1 and len(two) == (1 if kind == "ddp" else 2)


@pytest.mark.slow
@pytest.mark.parametrize("together", [kind for kind in KINDS if kind != "ddp"], indirect=True)
def test_what_takes_a_run_takes_one_whose_weights_were_shared(together, folder):
    """The averaged weights are joined into one file, in which the config is."""
    kind, run, _ = together
    (averaged,) = run.glob("checkpoint-*/ema.safetensors")  # of the last one, which was judged
    wanted = load_file(averaged)
    for opened in (averaged, run):
        state = mmdit.load(opened).state_dict()
        assert state.keys() == wanted.keys() and all(torch.equal(state[name], x) for name, x in wanted.items())
    copy = folder / f"copy-{kind}"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("ema.safetensors"))
    drawn = TrainedRun(copy)
    assert drawn.step == STEPS and all(torch.equal(drawn.model.state_dict()[name], x) for name, x in wanted.items())
    raw = Export(out=Path("x"), weights=copy, raw=True).weights_file()
    assert raw is not None and load_file(raw).keys() == wanted.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("rows", "2 processes need a row each"),
        (
            "heads",
            "--parallel tp=2: tensor=2: 2 processes do not divide the 1 heads of transformer.blocks.0.joint_attn",
        ),
        ("size", "--parallel tp=2,ulysses=2: 4 processes each time, but there are 2"),
        ("fsdp, muon", "train.optimizer.kind=muon: Muon takes whole matrices"),
    ],
)
def test_a_wrong_request_is_said_once(asked, message, in_two, folder):
    (code, out, err), other = in_two[asked]
    assert code == other[0] == 2 and out == other[1] == other[2] == ""
    assert err.count("error: ") == 1 and message in err
    assert not (folder / "wrong").exists()


@pytest.mark.slow
def test_two_processes_train_by_muon_as_one_does(in_two, folder, monkeypatch):
    assert [code for code, _, _ in in_two["ddp, muon"]] == [0, 0], in_two["ddp, muon"]
    for name in ("_picture", "_curves"):
        monkeypatch.setattr(training, name, lambda *_: None)
    config = load_tool_config(folder / "c.yaml", ["train.optimizer.kind=muon"])
    training.train(config, device=CPU, run_dir=folder / "one-muon")
    same_curve(losses(folder / "ddp-muon"), losses(folder / "one-muon"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hsdp", "tp=2,ulysses=2"])
def test_four_processes_under_torchrun_end_with_the_losses_of_one(kind, folder):
    """The last checkpoint is taken away and the run goes on alone: to the same end."""
    sizes = ["--set", "model.heads=4", "--set", "model.dim_head=4"]
    for name, size, more in (("alone-of-four", 1, []), (f"four-{kind}", 4, ["--parallel", kind])):
        done = start(folder, "--run-dir", name, *sizes, *more, size=size)
        assert done.returncode == 0, done.stderr
    run = folder / f"four-{kind}"
    same_curve(losses(run), losses(folder / "alone-of-four"))
    shutil.rmtree(run / f"checkpoint-{STEPS:08d}")
    assert start(folder, "--run-dir", run.name, "--resume", *sizes, size=1).returncode == 0
    same_curve(losses(run), losses(folder / "alone-of-four"))
    shutil.rmtree(folder / "alone-of-four")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.batch_size=1", "2 processes need a row each"),
        ("model.depht=1", "unknown key; did you mean depth?"),
    ],
)
def test_under_torchrun_a_wrong_request_is_said_once(setting, message, folder):
    done = start(folder, "--run-dir", "wrong", "--set", setting)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and message in done.stderr


def test_rows_are_all_of_the_batch_and_shares_add_up():
    group = Group()
    for size, batch in ((2, 5), (3, 64), (4, 4), (7, 9)):
        rows, shares = [], []
        group.size = size
        for group.rank in range(size):
            rows += range(batch)[group.rows(batch)]
            shares.append(group.share(batch))
        assert rows == list(range(batch)) and sum(shares) == pytest.approx(1)


def test_one_process_alone_has_the_whole_batch_and_its_own_model():
    config = tiny()
    trainer = Trainer(config, world_for(config), device=torch.device("cpu"), dtype=torch.float32, seed=0)
    assert trainer.group is ALONE and trainer.network is trainer.model
    drawn = trainer._draw()
    assert torch.equal(trainer._own_rows(*drawn)[0], drawn[0])


def world_for(config):
    from mmdit_cli.toy.data_fit import world_of

    return world_of(config)

"""Runs in processes of their own: what is trained at once, what a dead one leaves, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdit.options import as_written
from mmdit_cli.errors import UserError
from mmdit_cli.interrupts import interruptible
from mmdit_cli.toy.runs import Failure, PlannedRun, Run
from mmdit_cli.toy.side_by_side import SideBySide
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.trainer import Diverged
from mmdit_cli.toy.training import Interrupted
from tests.support.fake_runs import fake_train, named

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking, which is quick
CONFIG = named("a")
SOON = 30.0  # seconds in which what must happen has


def runs(folder: Path, count: int) -> list[PlannedRun]:
    return [PlannedRun(CONFIG, seed, folder / f"run{seed}") for seed in range(count)]


def trained(planned: PlannedRun) -> TrainResult:
    return fake_train({("a", planned.seed): 0.5 + planned.seed}, [])(planned)  # type: ignore[no-any-return]


def until(what: Any, patience: float = SOON) -> None:
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_as_many_runs_as_jobs_are_under_way_at_once_and_come_in_their_order(tmp_path: Path) -> None:
    def train(planned: PlannedRun, on_progress: Any, on_message: Any) -> TrainResult:
        (tmp_path / f"began{planned.seed}").touch()
        if planned.seed < 2:  # each waits for the other
            until(lambda: (tmp_path / f"began{1 - planned.seed}").exists())
        return trained(planned)

    runner = SideBySide(2, lambda slot: train, start="fork")
    outcomes = runner(runs(tmp_path, 3))
    assert [each.result.loss["last"] for each in outcomes if isinstance(each, Run)] == [0.5, 1.5, 2.5]
    assert [each.records[0]["step"] for each in outcomes if isinstance(each, Run)] == [30, 30, 30]


def test_a_process_that_dies_is_one_failure_and_leaves_the_others_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(planned: PlannedRun, on_progress: Any, on_message: Any) -> TrainResult:
        if planned.seed == 0:
            on_progress(1, 1, 0.25, 2.0, 0.0)
            os.kill(os.getpid(), signal.SIGKILL)
        if planned.seed == 1:
            raise Diverged("the loss is nan")
        if planned.seed == 2:
            raise RuntimeError("can't allocate\nmuch")
        on_message("hello")
        return trained(planned)

    outcomes = SideBySide(2, lambda slot: train, start="fork")(runs(tmp_path, 4))
    assert [type(each) for each in outcomes] == [Failure, Failure, Failure, Run]
    killed, diverged, broken = (each.message for each in outcomes if isinstance(each, Failure))
    assert killed == "its process was ended by SIGKILL, as the system does where memory is short"
    assert diverged == "the loss is nan" and broken == "its process ended by RuntimeError: can't allocate"
    err = capfd.readouterr().err
    assert "a, seed 0 (1/4) 1/1 loss 0.2500" in err and "a, seed 3: hello" in err


def test_a_wrong_request_stops_the_others_which_save(tmp_path: Path) -> None:
    def train(planned: PlannedRun, on_progress: Any, on_message: Any) -> TrainResult:
        if planned.seed == 0:
            until(lambda: (tmp_path / "began1").exists())
            raise UserError("--resume: not so")
        _until_interrupted(tmp_path, planned)
        return trained(planned)

    with pytest.raises(UserError, match="--resume: not so"):
        SideBySide(2, lambda slot: train, start="fork")(runs(tmp_path, 2))
    assert (tmp_path / "saved1").exists()


def test_ctrl_c_lets_every_run_save_and_says_where_each_was(tmp_path: Path) -> None:
    def stop_parent(seed: int) -> None:
        if seed == 1:
            until(lambda: (tmp_path / "began0").exists())
            os.kill(os.getppid(), signal.SIGINT)

    def train(planned: PlannedRun, on_progress: Any, on_message: Any) -> TrainResult:
        _until_interrupted(tmp_path, planned, then=lambda: stop_parent(planned.seed))
        return trained(planned)

    with interruptible(), pytest.raises(Interrupted) as stop:
        SideBySide(2, lambda slot: train, start="fork")(runs(tmp_path, 3))
    assert stop.value.where == f"interrupted in {tmp_path}: a, seed 0: at step 7; a, seed 1: at step 7"
    assert {path.name for path in tmp_path.glob("saved*")} == {"saved0", "saved1"}


@pytest.mark.slow
def test_the_program_trains_side_by_side_what_it_trains_in_turns_and_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    """Processes of their own throughout: two jobs, stopped in the middle, resumed, and held against one job."""
    for name, depth in (("a", 1), ("b", 2)):
        content = as_written(named(name, depth, steps=60, checkpoint_every=500)) | {"name": name}
        content["model"]["depth"] = depth
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    asked = [sys.executable, "-m", "mmdit_cli", "train-toy", "-c", "a.yaml", "-c", "b.yaml", "--seeds", "3", "--json"]
    start = partial(subprocess.Popen, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stopped = start([*asked, "--jobs", "2", "--run-dir", "two"])
    until(lambda: (tmp_path / "two" / "a-seed0" / "metrics.jsonl").exists(), 300)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130 and out == "", err
    assert "interrupted in two: a, seed 0: interrupted at step" in err and err.rstrip().endswith("--resume")
    assert "Traceback" not in err
    resumed = start([*asked, "--jobs", "2", "--run-dir", "two", "--resume"])
    in_turns = start([*asked, "--run-dir", "one"])
    found = {}
    for name, process in (("two", resumed), ("one", in_turns)):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        found[name] = json.loads(out)
    assert found["two"]["comparison"]["jobs"] == 2 and found["one"]["comparison"]["jobs"] == 1
    same = [[(r["config"], r["seed"], r["loss"], r["accuracy"]) for r in each["results"]] for each in found.values()]
    assert same[0] == same[1]


def _until_interrupted(folder: Path, planned: PlannedRun, then: Any = lambda: None) -> None:
    try:
        (folder / f"began{planned.seed}").touch()
        then()
        time.sleep(SOON)
    except KeyboardInterrupt:
        (folder / f"saved{planned.seed}").touch()
        raise Interrupted("at step 7", "") from None

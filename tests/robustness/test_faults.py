"""Faults lose nothing and end in one message: the suite of benchmarks/robust_faults.py, and what it rests on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from mmdit.weights import atomic as files
from mmdit.weights.locks import locked
from mmdit_cli import interrupts
from mmdit_cli.errors import UserError
from mmdit_cli.export.program_export import export_program
from mmdit_cli.profile.kernels import write_trace
from mmdit_cli.request.newest_checkpoint import newest_checkpoint
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from mmdit_cli.toy import checkpoints
from mmdit_cli.toy.run_folder import LOCK, described, safe_name
from mmdit_cli.toy.training import Interrupted, train
from tests.robustness import __main__ as robustness
from tests.robustness import faults as robust_faults
from tests.robustness.lab import COMMANDS, Lab
from tests.robustness.outcome import Outcome
from tests.support.paths import ROOT
from tests.support.toy import CPU, no_pictures, one_thread, same_bits, tiny, weights  # noqa: F401

QUICK = ("no permission", "in the way", "closed pipe", "locale")


@pytest.mark.parametrize("group", QUICK)
def test_a_case_of_each_quick_group_is_answered_well(group):
    (found,) = robust_faults.outcomes(seed=1, share=0.01, groups=(group,))
    assert (found.well, found.lost, found.why) == (True, False, "")


@pytest.mark.slow
def test_every_fault_is_answered_well_and_loses_nothing():
    found = list(robust_faults.outcomes())
    assert len(found) >= 80 and robustness.failures(found) == []


def test_the_seed_draws_the_moments_and_nothing_else():
    first, again, other = ([case[:2] for case in robust_faults.cases(seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert Counter(group for group, _ in first) == Counter(group for group, _ in other)
    assert len(set(first)) == len(first)


def test_rows_add_up_and_failures_say_why():
    found = [
        Outcome("a", "x", True, False, ""),
        Outcome("a", "y", False, True, "gone"),
        Outcome("b", "z", True, True, ""),
    ]
    rows = robustness.rows(found)
    assert [row.cells() for row in rows] == [("a", "2", "1", "1"), ("b", "1", "1", "1"), ("all", "3", "2", "2")]
    assert robustness.failures(found) == ["a: y: lost; gone", "b: z: lost; "]
    assert "| all | 3 | 2 | 2 |" in robustness.markdown(rows, [], 1.0)


# no network

OFFLINE = """
import json, socket, sys

opened = []

def hook(event, details):
    if event.startswith("socket.") and event != "socket.gethostname":  # which asks nobody
        opened.append(event)
        raise OSError("no network here, and none is needed")

sys.addaudithook(hook)
from mmdit_cli.app import main

for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["mmdit", *arguments]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    if code or opened:
        raise SystemExit(f"{arguments} ends with {code}, sockets: {opened}")
try:
    socket.socket()
    print("a socket opens all the same")
except OSError:
    print("offline")
"""


def test_no_command_opens_a_socket(tmp_path):
    Lab(tmp_path)  # the configs
    commands = [*COMMANDS.values(), ["configs"], ["train-toy", "--help"]]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["offline"]), done.stderr


# a file that can't be written whole


@contextmanager
def files_of(size: int):
    """No file grows beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small(folder: Path) -> ToolConfig:
    Lab(folder)
    return load_tool_config(folder / "tiny.yaml")


def test_a_program_that_does_not_fit_is_one_error_and_leaves_the_old_file(tmp_path):
    """torch's own writer ends the process."""
    config, out = small(tmp_path), tmp_path / "out.pt2"
    out.write_bytes(b"old")
    with files_of(20_000), pytest.raises(UserError, match=r"out.pt2: File too large"):
        export_program(config, format="pt2", out=out, force=True)
    assert out.read_bytes() == b"old" and not list(tmp_path.glob(".*"))


def test_a_trace_that_does_not_fit_is_an_error_and_leaves_the_old_file(tmp_path):
    """torch's own writer says nothing."""
    out = tmp_path / "trace.json"
    out.write_bytes(b"old")
    x = torch.randn(8, 8)
    call = lambda phase: [phase("forward"), *(x @ x for _ in range(500))]  # noqa: E731
    with files_of(20_000), pytest.raises(OSError, match="could not write the trace"):
        write_trace(call, [], CPU, out)
    assert out.read_bytes() == b"old" and not list(tmp_path.glob(".*"))
    write_trace(call, [], CPU, out)
    assert json.loads(out.read_bytes())["traceEvents"]


# what a killed process leaves


def killed_while_writing(folder: Path, code: str) -> list[str]:
    """The names in the folder after SIGKILL in the midst of a write."""
    script = f"import os, sys; from mmdit.weights.atomic import *; target = sys.argv[1]\n{code}"
    done = subprocess.run([sys.executable, "-c", script, str(folder / "out")], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("writer", ["replacing", "replacing_folder"])
def test_the_next_write_removes_what_a_killed_process_left(writer, tmp_path):
    left = killed_while_writing(tmp_path, f"with {writer}(target): os.kill(os.getpid(), 9)")
    assert len(left) == 1 and left[0].startswith(".mmdit-")
    files.write_atomic(tmp_path / "other", b"")
    assert os.listdir(tmp_path) == ["other"]


def test_the_temporary_of_a_living_process_stays(tmp_path):
    code = """import sys; from mmdit.weights.atomic import replacing
with replacing(sys.argv[1]) as t: print(t, flush=True); input()"""
    command = [sys.executable, "-c", code, str(tmp_path / "slow")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) as process:
        temporary = Path(process.stdout.readline().strip())
        files.write_atomic(tmp_path / "quick", b"")
        assert temporary.exists()
        process.communicate("\n")
    assert process.returncode == 0 and sorted(os.listdir(tmp_path)) == ["quick", "slow"]


def test_a_fifo_among_the_leftovers_is_left_alone_and_stops_nothing(tmp_path):
    os.mkfifo(tmp_path / ".mmdit-a.tmp")
    files.write_atomic(tmp_path / "out", b"content")
    assert sorted(os.listdir(tmp_path)) == [".mmdit-a.tmp", "out"]


def test_a_write_within_a_write_uses_the_outer_temporary(tmp_path):
    with files.replacing(tmp_path / "out") as outer:
        with files.replacing(outer) as inner:
            inner.write_bytes(b"content")
        assert inner == outer
        files.remove_leftovers(tmp_path)
        assert outer.exists()  # its lock is still that of the file
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"content"


def test_a_folder_moved_aside_by_a_killed_process_is_never_removed(tmp_path):
    """Where names can't be swapped, the old folder and the new one may be all that there is."""
    for name in (".mmdit-a.old", ".mmdit-a.tmp", ".mmdit-b.old"):
        (tmp_path / name).mkdir()
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mmdit-a.old", ".mmdit-a.tmp"]  # of b the new one is in its place


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_two_folders_swap_names_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._swap(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "b") == ["a"]
    assert not files._swap(tmp_path / "a", tmp_path / "missing")


def test_a_lock_is_held_once_and_is_no_longer_that_of_a_removed_file(tmp_path):
    path = tmp_path / "x"
    path.touch()
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (True, False)
    with locked(path) as again:
        assert again is True
    with locked(tmp_path / "missing") as none:
        assert none is False


# two runs, and one that goes on


@pytest.mark.usefixtures("no_pictures")
def test_a_second_run_in_a_folder_is_refused_while_the_first_goes_on(tmp_path):
    refusals = []

    def second(step, *rest):
        for resume in (False, True):
            with pytest.raises(
                UserError, match=rf"another run is under way in it \(process {os.getpid()} on "
            ) as caught:
                train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=resume)
            refusals.append(caught.value)

    train(tiny(steps=1), device=CPU, run_dir=tmp_path / "run", on_progress=second)
    assert len(refusals) == 2 and not (tmp_path / "run" / LOCK).exists()


@pytest.mark.usefixtures("no_pictures")
def test_the_lock_file_of_a_killed_run_is_in_nobodys_way(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("process 1 on nowhere")
    assert train(tiny(), device=CPU, run_dir=tmp_path / "run").steps == 6


@pytest.mark.usefixtures("no_pictures")
def test_a_change_is_refused_then_allowed_and_written_down(tmp_path):
    folder, messages = tmp_path / "run", []
    train(tiny(steps=4), device=CPU, run_dir=folder)
    with pytest.raises(UserError, match=r"steps was 4, is 6.*--allow-changes"):
        train(tiny(), device=CPU, run_dir=folder, resume=True)
    changed = dict(device=CPU, run_dir=folder, resume=True, on_message=messages.append)
    assert train(tiny(), allow_changes=True, **changed).steps == 6
    assert messages == ["going on from step 4 with changes: config.train.steps was 4, is 6"]
    identity, changes = described(folder)
    assert identity["config"]["train"]["steps"] == 6
    assert changes == [{"step": 4, "changes": ["config.train.steps was 4, is 6"]}]
    train(tiny(), **changed)  # it is the run's own config now
    assert len(messages) == 1 and described(folder)[1] == changes


@pytest.mark.parametrize(
    ("other", "why"),
    [(tiny(steps=2), "train.steps is 2, and .* has done 6"), (tiny(sound=True), "audio.* is missing in weights")],
)
@pytest.mark.usefixtures("no_pictures")
def test_a_change_that_does_not_fit_the_run_is_refused_all_the_same(other, why, tmp_path):
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "run")
    before = weights(whole)
    with pytest.raises(UserError, match=why):
        train(other, device=CPU, run_dir=tmp_path / "run", resume=True, allow_changes=True)
    assert same_bits(before, load_file(Path(whole.files["checkpoint"]).with_name("weights.safetensors")))


@pytest.mark.usefixtures("no_pictures")
def test_a_config_edited_before_the_first_checkpoint_is_noticed(tmp_path):
    def stop(step, *rest):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    assert newest_checkpoint(tmp_path / "run") == (None, [])
    with pytest.raises(UserError, match="seed was 0, is 1"):
        train(tiny(), device=CPU, seed=1, run_dir=tmp_path / "run", resume=True)


@pytest.mark.usefixtures("no_pictures")
def test_a_digit_changed_in_a_checkpoints_json_is_found(tmp_path):
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint-00000006" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"averaged": 5}))
    checkpoint, problems = newest_checkpoint(tmp_path / "run")
    assert checkpoint.step == 4 and "state.json does not match" in problems[0]
    del state["sha256"]["state.json"]  # as earlier versions wrote it
    path.write_text(json.dumps(state))
    assert newest_checkpoint(tmp_path / "run")[0].step == 6


@pytest.mark.usefixtures("no_pictures")
def test_a_users_copies_of_checkpoints_neither_count_nor_go(tmp_path):
    run = tmp_path / "run"
    train(tiny(steps=4), device=CPU, run_dir=run)
    for name in ("checkpoint-best", "checkpoint-old", "checkpoint-4"):
        shutil.copytree(run / "checkpoint-00000002", run / name)
    train(tiny(), device=CPU, run_dir=run, resume=True, allow_changes=True)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-00000004", "checkpoint-00000006", "checkpoint-4", "checkpoint-best", "checkpoint-old"
    ]  # fmt: skip


def forged(folder: Path, files: dict[str, bytes], **changes: object) -> None:
    """A checkpoint whose checksums are right and whose content is not."""
    state = json.loads((folder / "state.json").read_text()) | changes
    for name, content in files.items():
        (folder / name).write_bytes(content)
        state["sha256"][name] = hashlib.sha256(content).hexdigest()
    del state["sha256"]["state.json"]
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "changes", [{"step": float("inf")}, {"step": 5}, {"step": "6"}, {"averaged": "x"}, {"averaged": -1}], ids=str
)
@pytest.mark.usefixtures("no_pictures")
def test_a_state_that_says_nonsense_is_passed_over(changes, tmp_path):
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    forged(tmp_path / "run" / "checkpoint-00000006", {}, **changes)
    checkpoint, problems = newest_checkpoint(tmp_path / "run")
    assert checkpoint.step == 4 and len(problems) == 1 and "checkpoint-00000006 is damaged" in problems[0]


@pytest.mark.parametrize(
    ("name", "tensors", "why"),
    [
        ("weights.safetensors", None, "weights.safetensors: "),
        ("optimizer.safetensors", None, "optimizer.safetensors: "),
        ("optimizer.safetensors", {"0.x.y": torch.zeros(1)}, "0.x.y is of no parameter"),
        ("optimizer.safetensors", {"9999.step": torch.zeros(())}, "9999.step is of no parameter"),
        ("optimizer.safetensors", {"0.step": torch.zeros(())}, "0.exp_avg.* is missing"),
        ("optimizer.safetensors", {f"0.{k}": torch.zeros(3, 1) for k in ("step", "exp_avg", "exp_avg_sq")}, "is 3 x 1"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_of_something_else_is_one_message(name, tensors, why, tmp_path):
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    content = b"junk" if tensors is None else save(tensors)
    forged(tmp_path / "run" / "checkpoint-00000006", {name: content})
    with pytest.raises(UserError, match=f"checkpoint-00000006 does not fit the config: .*{why}"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[" * 100_000),
        ("config.yaml", "[" * 3000 + "]" * 3000),
        ("config.yaml", "train: !!set {a, b}\n"),
        ("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\n" + "c: [" + "*b, " * 30_000 + "]\n"),
        ("config.yaml", "train: 0x" + "f" * 20_000),
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.usefixtures("no_pictures")
def test_what_a_run_says_of_itself_is_read_without_trust(name, content, tmp_path):
    run = tmp_path / "run"
    train(tiny(steps=1), device=CPU, run_dir=run)
    (run / name).write_text(content)
    described(run)  # raises nothing; whatever it finds, a checkpoint says more
    assert train(tiny(steps=1), device=CPU, run_dir=run, resume=True).steps == 1


@pytest.mark.usefixtures("no_pictures")
def test_a_full_disk_says_where_it_stopped_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    save, calls = checkpoints.save_file, []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:
            raise checkpoints.SafetensorError("I/O error: No space left on device (os error 28)")
        save(*args)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match=r"No space left on device, at step 4; go on later with\nmmdit train-toy"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run")[0].step == 2
    assert same_bits(weights(train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)), weights(whole))


def test_a_name_that_the_system_can_not_write_gives_a_folder_that_it_can(monkeypatch):
    assert safe_name("模型/é") == "模型-é"

    def ascii_only(name):
        return name.encode("ascii")

    monkeypatch.setattr("os.fsencode", ascii_only)
    assert safe_name("a 模型") == "a" and safe_name("模型") == "run"


# signals


@pytest.mark.usefixtures("no_pictures")
def test_sigterm_saves_the_step_it_came_in_and_gives_its_handler_back(tmp_path):
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)

    def stop(step, *rest):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 3"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    assert interrupts.exit_code() == 143 and signal.getsignal(signal.SIGTERM) is before
    assert newest_checkpoint(tmp_path / "run")[0].step == 3
    assert same_bits(weights(train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)), weights(whole))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_once_and_names_its_exit_code(number, code):
    with pytest.raises(KeyboardInterrupt), interrupts.interruptible():
        assert interrupts.caught() == 0
        signal.raise_signal(number)
    assert (interrupts.caught(), interrupts.exit_code()) == (number, code)


def test_a_second_ctrl_c_soon_after_does_not_tear_the_clean_up_and_a_later_one_does(monkeypatch):
    def stopped_twice():
        with interrupts.interruptible():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGTERM)
                cleaned.append(interrupts.exit_code())

    cleaned: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        stopped_twice()
    assert cleaned == [130]
    monkeypatch.setattr(interrupts, "ECHO", 0.0)
    with pytest.raises(interrupts.Terminated):
        stopped_twice()
    assert cleaned == [130]


@pytest.mark.usefixtures("no_pictures")
def test_a_second_ctrl_c_soon_after_does_not_tear_a_step(tmp_path):
    def stop(step, *rest):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="step 3"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    assert newest_checkpoint(tmp_path / "run")[0].step == 3


def test_an_interrupt_that_a_destructor_swallows_comes_again():
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupts.interruptible():
        thing = Swallows()
        del thing
        threading.Event().wait(20)


def test_an_interrupt_that_an_import_made_an_error_of_is_still_one():
    code = """
import signal, sys
from mmdit_cli import __main__, app
def command():
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        raise ImportError("something")
app.app = command
__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (143, "error: terminated\n")

"""A run's folder: what it holds, and that a run stopped at any moment goes on to end with the same bits."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mmdit
from mmdit.config.yaml_text import to_yaml
from mmdit.options import as_data
from mmdit.weights.checkpoints import newest_checkpoint
from mmdit_cli.app import main
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from mmdit_cli.toy.run_folder import differences, resume_command
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.training import Interrupted, train
from tests.support.marks import slow_but
from tests.support.paths import ROOT
from tests.support.toy import CPU, same_bits, tiny, weights

Finished = tuple[ToolConfig, TrainResult]


def stop_after(step: int) -> Any:
    """A progress callback that sends Ctrl-C in the middle of a run."""

    def on_progress(now: int, steps: int, loss: float, rate: float, left: float) -> None:
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return on_progress


@pytest.fixture(scope="module", params=slow_but([False, True], False), ids=["image", "image and audio"])
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ToolConfig, TrainResult]:
    """A run with its pictures, which no test changes."""
    config = tiny(request.param, evaluate_every=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmdit_cli.toy.training.check_fits", lambda *what: None)
        return config, train(config, device=CPU, run_dir=tmp_path_factory.mktemp("runs") / "run")


def test_a_run_leaves_what_the_contract_names(finished: Finished) -> None:
    config, result = finished
    modalities = config.model.modalities.keys() - {"text"}
    assert result.steps == 6 and result.steps_per_s > 0
    assert set(result.loss) == {"first", "last"}
    assert set(result.accuracy) == set(result.chance) == set(result.held_out) == modalities
    assert set(result.files) == {"checkpoint", "samples", "loss_plot", "metrics", "progress"}
    assert all(Path(path).is_file() for path in result.files.values())
    assert all(accuracy == 1 for accuracy in result.oracle_real.values())


def test_the_checkpoint_is_a_model_that_load_rebuilds(finished: Finished) -> None:
    config, result = finished
    model = mmdit.load(result.files["checkpoint"])
    assert model.config == config.model
    assert same_bits(dict(model.state_dict()), load_file(result.files["checkpoint"]))


@pytest.mark.usefixtures("bare_training")
def test_the_folder_tells_the_whole_config_and_it_loads_again(tmp_path: Path) -> None:
    config = tiny()
    train(config, device=CPU, steps=3, run_dir=tmp_path / "run")
    assert load_tool_config(tmp_path / "run" / "config.yaml").train == replace(config.train, steps=3)
    assert load_tool_config(tmp_path / "run" / "config.yaml").model == config.model


@pytest.mark.usefixtures("bare_training")
def test_a_runs_config_is_whole_whatever_it_extended_and_the_run_goes_on_without_that(tmp_path: Path) -> None:
    parent, run = tmp_path / "base.yaml", tmp_path / "run"
    parent.write_text(to_yaml(as_data(tiny())))
    (tmp_path / "c.yaml").write_text("extends: base.yaml\nname: '1e5'\ntrain: {steps: 2, sampler: {steps: 1}}\n")
    train(load_tool_config(tmp_path / "c.yaml"), device=CPU, run_dir=run)
    wanted = load_tool_config(tmp_path / "c.yaml", ["train.steps=3"])
    parent.unlink()
    assert "extends" not in (run / "config.yaml").read_text()
    assert load_tool_config(run, ["train.steps=3"]) == wanted  # a name that looks like a number stays a name
    assert train(wanted, device=CPU, run_dir=run, resume=True, allow_changes=True).steps == 3


def test_metrics_hold_one_line_for_each_step(finished: Finished) -> None:
    run = Path(finished[1].run_dir)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "accuracy" in record] == [4, 6]
    assert (run / "progress" / "step-00000004.png").is_file()


def test_the_last_two_checkpoints_are_kept(finished: Finished) -> None:
    kept = sorted(path.name for path in Path(finished[1].run_dir).glob("checkpoint-*"))
    assert kept == ["checkpoint-00000004", "checkpoint-00000006"]


def test_nothing_in_a_run_is_a_pickle(finished: Finished) -> None:
    kinds = {path.suffix for path in Path(finished[1].run_dir).rglob("*") if path.is_file()}
    assert kinds - {".wav"} == {".safetensors", ".json", ".jsonl", ".yaml", ".png"}


@pytest.mark.usefixtures("bare_training")
def test_two_runs_of_one_seed_are_the_same_to_the_bit_and_another_seed_is_not(tmp_path: Path) -> None:
    first, again, other = (
        train(tiny(dropout=0.5, steps=2), device=CPU, seed=seed, run_dir=tmp_path / name)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert same_bits(weights(first), weights(again))
    assert not same_bits(weights(first), weights(other))


@pytest.mark.parametrize("step", slow_but([1, 2, 5], 2))
@pytest.mark.usefixtures("bare_training")
def test_an_interrupted_run_ends_with_the_bits_of_an_unbroken_one(step: int, tmp_path: Path) -> None:
    config = tiny(sound=True, dropout=0.5)
    whole = train(config, device=CPU, run_dir=tmp_path / "whole")
    folder = tmp_path / "broken"
    with pytest.raises(Interrupted):
        train(config, device=CPU, run_dir=folder, on_progress=stop_after(step))
    checkpoint, _ = newest_checkpoint(folder)
    assert checkpoint is not None and checkpoint.step == step
    resumed = train(config, device=CPU, run_dir=folder, resume=True)
    assert same_bits(weights(whole), weights(resumed))
    assert same_bits(load_file(whole.files["checkpoint"]), load_file(resumed.files["checkpoint"]))
    assert (resumed.loss, resumed.accuracy) == (whole.loss, whole.accuracy)


@pytest.mark.usefixtures("bare_training")
def test_a_run_keeps_the_command_that_began_it_and_those_that_went_on(tmp_path: Path) -> None:
    began, again, last = (["mmdit", "train-toy", word] for word in ("-c", "--resume", "--set"))
    for command, resume in ((began, False), (again, True)):
        with pytest.raises(Interrupted):
            step = 4 if resume else 2
            train(
                tiny(), device=CPU, run_dir=tmp_path, on_progress=stop_after(step), command_line=command, resume=resume
            )
    train(tiny(), device=CPU, run_dir=tmp_path, command_line=last, resume=True)
    about = json.loads((tmp_path / "run.json").read_text())
    assert (about["command_line"], about["resumed_by"]) == (began, [again, last])


@pytest.mark.usefixtures("bare_training")
def test_an_interrupt_says_which_command_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"go on with\nmmdit train-toy --resume --run-dir \S+ --device cpu$"):
        train(tiny(), device=CPU, seed=7, run_dir=tmp_path / "run", on_progress=stop_after(3))


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_that_command_goes_on_with_the_config_seed_and_dtype_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bf16 = dict(device=CPU, dtype=torch.bfloat16, seed=7, steps=5)
    whole = train(tiny(), run_dir=tmp_path / "whole", **bf16)
    folder = tmp_path / "a run"
    with pytest.raises(Interrupted):
        train(tiny(), run_dir=folder, on_progress=stop_after(3), **bf16)
    command = shlex.split(resume_command(folder, CPU))
    assert "--config" not in command

    def code_of(*more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capfd.readouterr().err

    code, err = code_of("--set", "model.depth=2")
    assert code == 2 and "config.model.depth was 1, is 2" in err
    assert code_of("--seed", "8")[0] == 2
    assert code_of()[0] == 0
    assert same_bits(load_file(folder / "checkpoint-00000005" / "weights.safetensors"), weights(whole))
    (folder / "config.yaml").unlink()
    code, err = code_of()
    assert code == 2 and "holds no config.yaml; give the run's --config" in err


@pytest.mark.usefixtures("bare_training")
def test_ctrl_c_never_tears_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    update = torch.optim.AdamW.step
    calls = []

    def interrupted_update(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)  # after the backward pass and before the update
        return update(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted_update)
    with pytest.raises(Interrupted, match="step 3"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert same_bits(weights(train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)), weights(whole))


@pytest.mark.usefixtures("bare_training")
def test_training_works_outside_of_the_main_thread(tmp_path: Path) -> None:
    results: list[TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(train(tiny(), device=CPU, run_dir=tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].steps == 6


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_the_handler_of_ctrl_c_is_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"],
        "weights.safetensors",
    ),
)
@pytest.mark.usefixtures("bare_training")
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(name: str, tmp_path: Path) -> None:
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "run")
    wanted = weights(whole)
    damaged = tmp_path / "run" / "checkpoint-00000006" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1 if name != "state.json" else 0x80
    damaged.write_bytes(bytes(content))
    messages: list[str] = []
    resumed = train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True, on_message=messages.append)
    assert len(messages) == 1 and "checkpoint-00000006" in messages[0]
    assert same_bits(weights(resumed), wanted)


@pytest.mark.usefixtures("bare_training")
def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    folder = tmp_path / "run"
    (folder / ".mmdit-0123456789ab.tmp").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0, "losses": {"image": 3.0}}\n{"step": 2, "lo')
    resumed = train(tiny(), device=CPU, run_dir=folder, resume=True)
    assert same_bits(weights(resumed), weights(whole))
    assert resumed.loss == whole.loss
    assert not list(folder.glob(".*"))


@pytest.mark.usefixtures("bare_training")
def test_a_finished_run_can_be_judged_again(tmp_path: Path) -> None:
    first = train(tiny(), device=CPU, run_dir=tmp_path / "run")
    again = train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)
    assert (again.loss, again.accuracy, again.files) == (first.loss, first.accuracy, first.files)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"steps": 9}, "config.train.steps was 6, is 9"),
        ({"dtype": torch.bfloat16}, 'dtype was "fp32", is "bf16"'),
    ],
)
@pytest.mark.usefixtures("bare_training")
def test_resuming_with_another_request_is_refused_and_says_what_differs(
    change: dict[str, Any], named: str, finished: Finished
) -> None:
    config, result = finished
    with pytest.raises(UserError, match=named):
        train(config, device=CPU, run_dir=Path(result.run_dir), resume=True, **change)
    assert (Path(result.run_dir) / "result.json").is_file()


def test_differences_name_keys_on_either_side() -> None:
    saved, wanted = {"a": {"b": 1, "gone": 2}}, {"a": {"b": 3, "new": 4}}
    assert differences(saved, wanted) == ["a.b was 1, is 3", "a.gone was 2, is null", "a.new was null, is 4"]


@pytest.mark.usefixtures("bare_training")
def test_a_folder_with_something_in_it_is_not_trained_in(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty"):
        train(tiny(), device=CPU, run_dir=tmp_path)


@pytest.mark.usefixtures("bare_training")
def test_there_is_nothing_to_resume_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        train(tiny(), device=CPU, run_dir=tmp_path / "none", resume=True)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    """SIGKILL at several moments of one run, each time resumed."""
    config = tiny(steps=400, checkpoint_every=10)
    whole = train(config, device=CPU, run_dir=tmp_path / "whole")
    folder = tmp_path / "run"
    (tmp_path / "config.json").write_text(json.dumps(as_data(config)))
    script = textwrap.dedent(
        """
        import json, sys, torch
        from pathlib import Path
        from mmdit.config.file import validate_mapping
        from mmdit_cli.request.tool_config import ToolConfig
        from mmdit_cli.toy.training import train
        torch.set_num_threads(int(sys.argv[3]))
        config = validate_mapping(json.loads(Path(sys.argv[1]).read_text()), ToolConfig, source="test")
        run = Path(sys.argv[2])
        show = lambda step, *rest: print(step, flush=True)
        train(config, device=torch.device("cpu"), run_dir=run, resume=run.is_dir(), on_progress=show)
        """
    )
    command = [sys.executable, "-c", script, tmp_path / "config.json", folder, str(torch.get_num_threads())]
    for lines in (3, 57, 90, 24, 131):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    resumed = train(config, device=CPU, run_dir=folder, resume=True)
    assert same_bits(weights(resumed), weights(whole))
    assert resumed.loss == whole.loss

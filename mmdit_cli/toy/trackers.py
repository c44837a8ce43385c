"""Experiment trackers that a run is told to as it goes: its config, numbers, pictures and sounds.

None of them is ever what a run depends on: one that fails is named once, and the run goes on without it.
"""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import numpy as np

from mmdit.config.yaml_text import to_yaml
from mmdit_cli.errors import UserError
from mmdit_cli.interrupts import caught

PROJECT = "mmdit-toy"
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class Tracked:
    """A run as trackers know it. `run_id` stays when it is resumed; `completed`: the steps that it then keeps. `config`
    is plain data, with `seed` and `dtype` beside."""

    folder: Path
    design: str
    seed: int
    run_id: str
    completed: int
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.design}-seed{self.seed}"


class Tracker(Protocol):
    """One that is told of a run; it begins, or goes on, when it is made."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers under names such as `losses/image`."""

    def show(self, step: int, files: Mapping[str, Path]) -> None:
        """Pictures (.png) and sounds (.wav) by name."""

    def close(self) -> None:
        """The run has ended, or was stopped."""


class TensorBoard:
    """Event files in the run's folder. Of a run that is resumed, what earlier files say of later steps is hidden."""

    def __init__(self, run: Tracked, on_message: OnMessage) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.events: Any = SummaryWriter(str(run.folder), purge_step=run.completed + 1)
        self.events.add_text("config", f"```yaml\n{to_yaml(dict(run.config))}```", run.completed)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.events.add_scalar(name, value, step)

    def show(self, step: int, files: Mapping[str, Path]) -> None:
        from matplotlib.image import imread

        for name, path in files.items():
            if path.suffix == ".png":
                self.events.add_image(name, imread(path), step, dataformats="HWC")
            else:
                with wave.open(str(path)) as sound:
                    samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32768
                    self.events.add_audio(name, samples, step, sample_rate=sound.getframerate())

    def close(self) -> None:
        self.events.close()


class OfPackage:
    """One whose `package` has runs with one `log` for all, as wandb's, and trackio's after it."""

    package: Any
    run: Any

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def show(self, step: int, files: Mapping[str, Path]) -> None:
        kinds = {".png": self.package.Image, ".wav": self.package.Audio}
        self.run.log({name: kinds[path.suffix](str(path)) for name, path in files.items()}, step=step)


class WeightsAndBiases(OfPackage):
    """`wandb`, offline where the variable WANDB_MODE does not say otherwise: in the run's folder, to be sent later."""

    def __init__(self, run: Tracked, on_message: OnMessage) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported: its own errors stay here
        self.package = import_module("wandb")
        mode = os.environ.get("WANDB_MODE", "offline")
        self.run = self.package.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(run.folder.resolve()),
            id=run.run_id,
            name=run.name,
            group=run.design,
            config=dict(run.config),
            allow_val_change=True,
            mode=mode,
            resume="allow",
            reinit="create_new",  # whatever run of the program's own, or of a design before, is open
            settings={"console": "off", "silent": True},
        )
        if mode == "offline":
            kept = f"{quote(str(run.folder))}/wandb/offline-run-*-{run.run_id}"
            on_message(f"wandb: kept offline; send it by: wandb sync {kept}")

    def close(self) -> None:
        self.run.finish()


class Trackio(OfPackage):
    """`trackio`, in its local database, where its variables do not name another place."""

    def __init__(self, run: Tracked, on_message: OnMessage) -> None:
        self.package = import_module("trackio")
        with redirect_stdout(io.StringIO()):  # where a document may go
            self.run = self.package.init(
                project=PROJECT,
                name=f"{run.name}-{run.run_id}",  # by which it is found again
                group=run.design,
                config=dict(run.config),
                resume="allow",
                embed=False,
            )
        on_message(f"trackio: see it by: trackio show --project {PROJECT}")

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self.package.finish()


KINDS: Mapping[str, Callable[[Tracked, OnMessage], Tracker]] = {  # by the name of its package, and of its extra
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WeightsAndBiases,
}


class Trackers:
    """All that a run is told to. One that fails is told nothing more, and `on_message` why."""

    def __init__(self, on_message: OnMessage = lambda text: None) -> None:
        self.on_message, self.told = on_message, dict[str, Tracker]()

    def start(self, kinds: Iterable[str], run: Tracked) -> None:
        """Tell these of the run as well."""
        for kind in kinds:
            try:
                self.told[kind] = KINDS[kind](run, self.on_message)
            except Exception as problem:
                if caught():  # an import that Ctrl-C came into may tell it as an error of its own
                    raise KeyboardInterrupt from None
                self._say(kind, problem)

    def log(self, record: Mapping[str, Any]) -> None:
        """A record of the metrics."""
        numbers = dict(_numbers(record))
        self._each(lambda tracker: tracker.log(record["step"], numbers))

    def show(self, step: int, files: Mapping[str, Path]) -> None:
        """See `Tracker`; files that are not there are left out."""
        there = {name: path for name, path in files.items() if path.is_file()}
        if there:
            self._each(lambda tracker: tracker.show(step, there))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self.told.clear()

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for kind, tracker in [*self.told.items()]:
            try:
                tell(tracker)
            except Exception as problem:
                del self.told[kind]
                self._say(kind, problem)
                with suppress(Exception):  # so that no later run is taken for this one
                    tracker.close()

    def _say(self, kind: str, problem: Exception) -> None:
        why = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        self.on_message(f"{kind} is told nothing more ({why}); the run goes on, and its folder has all of it")


def check_trackers(kinds: Sequence[str]) -> None:
    """Raises UserError where one is not known, or its package is not installed."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--track {kind}: expected {', '.join(KINDS)}")
        found = find_spec(kind)
        if found is None or (found.origin is None and found.submodule_search_locations):  # a mere folder of that name
            option = "--tensorboard" if kind == "tensorboard" else f"--track {kind}"
            raise UserError(f"{option} needs a package: pip install 'mmdit-cli[{kind}]'")


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record under names such as `losses/image`."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and f"{prefix}{key}" != "step":
            yield f"{prefix}{key}", value

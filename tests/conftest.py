"""What every test may use: one thread for each process, seeded draws, quick measurements."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

# tests run side by side, and threads that wait for each other make small work slow; before torch is imported, and for
# the processes that tests start as well
os.environ.setdefault("OMP_NUM_THREADS", "1")
# every process that tests start imports the same modules, and would compile them anew where nobody keeps them
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest

if TYPE_CHECKING:  # the process that hands out the tests waits for nothing
    import torch

sys.dont_write_bytecode = False
gc.set_threshold(20_000, 20, 20)  # imports make little garbage, and would be looked through a hundred times
gc.disable()  # until all tests are collected, which keeps nearly all that it makes


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """None for single tests, whose imports would take longer than they do; more than eight wait for the slowest."""
    few = config.args and all("::" in argument for argument in config.args)
    return 0 if few else min(os.cpu_count() or 1, 8)


def pytest_configure(config: pytest.Config) -> None:
    """A worker has said all: to take apart what it has imported takes seconds, for which everyone waits."""
    if _is_worker(config):
        atexit.register(os._exit, 0)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_collection_finish() -> None:
    """What has been imported stays, and is too much to be looked through by every garbage collection."""
    _freeze()
    gc.enable()


def pytest_runtest_teardown() -> None:
    """The same of what a test was the first to import: torch's compiler, diffusers, matplotlib."""
    if len(sys.modules) > _frozen_modules + 100:
        _freeze()


_frozen_modules = 0


def _freeze() -> None:
    global _frozen_modules
    _frozen_modules = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """So that what libraries hold is freed, of which some complain otherwise."""
    if not _is_worker(session.config):
        gc.unfreeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.default_generator.manual_seed(20240305)  # the CPU's alone, which is a hundred times quicker


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """Files are written whole or not at all, also where the power goes; here it does not."""
    with pytest.MonkeyPatch.context() as patch:
        check = lambda file: os.fstat(getattr(file, "fileno", lambda: file)()) and None  # noqa: E731  # is it open?
        patch.setattr(os, "fsync", check)
        yield


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is a GPU, which commands would take."""
    monkeypatch.setattr("mmdit_cli.request.request.first_device", lambda: "cpu")


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory: pytest.TempPathFactory) -> torch.device:
    """A CUDA device for what runs under `FakeTensorMode`, whether or not the machine has one."""
    import torch

    from tests.support import fake_cuda

    if not torch.cuda._is_compiled():
        folder = tmp_path_factory.getbasetemp()
        fake_cuda.register_guard(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
    return fake_cuda.DEVICE


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The machine's limits from small products and streams, in no time, and none that another test has kept."""
    from tests.support.ceilings import make_quick

    make_quick(monkeypatch, tmp_path_factory.mktemp("cache"))


_counted: dict[str, Any] = {}


@pytest.fixture
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are asked for the same model again and again count its FLOPs once."""
    from mmdit_cli.model_parts import flop_count

    count = flop_count.count_flops

    def kept(config: object, **options: object) -> object:
        key = repr((config, sorted(options.items())))
        if key not in _counted:
            _counted[key] = count(config, **options)
        return replace(_counted[key])

    monkeypatch.setattr(flop_count, "count_flops", kept)


@pytest.fixture
def bare_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing, and estimating memory, take longer than a tiny run; the tests of plots and of memory hold them."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("mmdit_cli.toy.training.check_fits", lambda *what: None)
    monkeypatch.setattr("mmdit_cli.toy.training._picture", lambda samples, path, trainer: None)
    monkeypatch.setattr("mmdit_cli.toy.training._curves", lambda records, path, trainer: None)
    monkeypatch.setattr("mmdit_cli.toy.training._over_training", lambda shown, path, trainer: None)
    monkeypatch.setattr("mmdit_cli.toy.plots.comparison_plot", lambda *runs, **more: Figure(figsize=(2, 1)))


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Runs it in a folder of its own: exit code, standard output, standard error."""
    from mmdit_cli.app import main

    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["mmdit", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=stop.value.code or 0, stdout=out, stderr=err)

    return command

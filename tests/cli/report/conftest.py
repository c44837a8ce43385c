"""Real results, small, of every kind that a page shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from mmdit.config.yaml_text import to_yaml
from mmdit.options import as_data
from tests.support.browser import CHROMIUM, chromium
from tests.support.ceilings import make_quick
from tests.support.command_lines import in_this_process
from tests.support.small_configs import TINY
from tests.support.toy import tiny

EVIL = "<script>document.title='seized'</script> & \"it's\""
QUICK = "--repeats 3 --max-seconds 0"


def run(line: str) -> None:
    code, out, err = in_this_process(line)
    assert code == 0, out + err


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents of `profile` and `flops`, and a comparison of toy runs."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick(patch, tmp_path_factory.mktemp("cache"))
        (folder / "tiny.yaml").write_text(TINY)
        (folder / "evil.yaml").write_text(TINY.replace("name: tiny", f"name: {json.dumps(EVIL)}"))
        for name in ("a", "b"):
            config = tiny(steps=4, evaluate_every=2, evaluation_samples=4, sampler={"steps": 1})
            (folder / f"{name}.yaml").write_text(to_yaml(as_data(config) | {"name": name}))
        run(f"mmdit profile -c tiny.yaml -c evil.yaml {QUICK} --report profile.json")
        run("mmdit flops -c evil.yaml -c tiny.yaml --report flops.json")
        run("mmdit train-toy -c a.yaml -c b.yaml --seeds 2 --run-dir compared")
    return folder


def quick(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Ceilings from small products, no look at the memory, and pictures without their drawing."""
    from mmdit_cli.toy import plots, training

    make_quick(patch, cache)
    patch.setattr(training, "check_fits", lambda *what: None)
    for name in ("sample_plot", "curve_plot", "comparison_plot"):
        patch.setattr(plots, name, lambda *args, **options: Figure(figsize=(2, 1)))


@pytest.fixture(scope="session")
def report(results: Path) -> Path:
    """The page of all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(results)
        run("mmdit report profile.json flops.json compared --out all.html")
    return results / "all.html"


@pytest.fixture(scope="session")
def full_report(results: Path) -> Path:
    """The page of every kind of result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(results)
        quick(patch, results)
        run(f"mmdit profile -c tiny.yaml --sweep run.tokens.image=4,8,16 {QUICK} --report sweep.json")
        run("mmdit profile -c tiny.yaml --mode train --estimate --memory 1GB --report estimate.json")
        run("mmdit shape-check -c evil.yaml --report shapes.json")
        run("mmdit export -c tiny.yaml --out tiny.safetensors --report export.json")
        (results / "c.yaml").write_text(to_yaml(as_data(tiny(True)) | {"name": EVIL}))
        run("mmdit train-toy -c c.yaml --run-dir alone")
        names = "profile.json sweep.json estimate.json flops.json shapes.json export.json compared alone"
        run(f"mmdit report {names} --out full.html")
    return results / "full.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; the tests are skipped where there is none (`.ci/run` brings it)."""
    pytest.importorskip("playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    with chromium() as found:
        yield found

"""The package as it is built and installed: whole, with its configs, and at work far from its source."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path
from site import getsitepackages

import pytest

import mmdit
from mmdit.config.file import ConfigError
from mmdit.config.shipped import find_shipped, shipped_configs
from tests.support.paths import ROOT

SOURCE = ("mmdit", "mmdit_cli", "configs")
WANTED = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in SOURCE
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".yaml", ".typed", ".json")
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has that the package is built of."""
    source = tmp_path_factory.mktemp("source")
    for folder in SOURCE:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel, which was built from the sdist, as `python -m build` does."""
    source, dist = clone, tmp_path_factory.mktemp("dist")
    backend = "from setuptools import build_meta as b; import sys; getattr(b, sys.argv[1])(sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", backend, "build_sdist", str(dist)], cwd=source, check=True, capture_output=True
    )
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4, 3.10.12
        archive.extractall(dist / "unpacked", **safely)
    (unpacked,) = (dist / "unpacked").iterdir()
    subprocess.run(
        [sys.executable, "-c", backend, "build_wheel", str(dist)], cwd=unpacked, check=True, capture_output=True
    )
    return dist


def test_the_wheel_and_the_sdist_hold_every_module_and_config(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = {name.replace("mmdit/configs/", "configs/") for name in zipfile.ZipFile(wheel).namelist()}
    assert set(WANTED) - inside == set()
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert set(WANTED) - packed == set()


@pytest.mark.slow
@pytest.mark.parametrize("of", ["clone", "wheel"])
def test_uvx_runs_it_from_a_clone_and_from_the_wheel(of, clone, built, tmp_path):
    """The packages that it needs are those that are here: each is overridden away, so that nothing is downloaded."""
    from uv import find_uv_bin

    needed = [re.split("[<>=]", line)[0] for line in requires("mmdit-cli") or () if "extra" not in line]
    (tmp_path / "none.txt").write_text("".join(f"{name}; python_version < '3'\n" for name in needed))
    source = clone if of == "clone" else next(built.glob("*.whl"))
    environment = {"PYTHONPATH": os.pathsep.join(getsitepackages()), "UV_CACHE_DIR": str(tmp_path / "cache")}
    run = [find_uv_bin(), "tool", "run", "--offline", "--no-build-isolation", "--overrides", "none.txt"]
    run += ["--python", sys.executable]
    for command in (["--from", str(source), "mmdit"], [str(source)]):
        done = subprocess.run(
            [*run, *command, "flops", "-c", "two-modality", "--json"],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["results"][0]["parameters"] == 17_524_736


@pytest.mark.slow
def test_installed_elsewhere_it_finds_its_configs(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "two-modality").mkdir()  # a folder of that name is no config

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        command = [sys.executable, "-m", "mmdit_cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    listed = json.loads(run("configs", "--json"))["results"]
    assert {each["config"] for each in listed} == set(shipped_configs())
    assert all(each["file"].startswith(str(tmp_path / "site")) for each in listed)
    counted = json.loads(run("flops", "--config", "two-modality", "--json"))["results"]
    assert counted[0]["parameters"] == 17_524_736
    counted = json.loads(run("flops", "--config", "ablations/weights/shared", "--json"))["results"]  # which extends two
    assert counted[0]["parameters"] == 326_768
    (tmp_path / "mine.yaml").write_text("extends: two-modality\nmodel: {depth: 1}\n")
    assert "\n  depth: 1\n" in run("configs", "mine.yaml", "--resolved")
    assert run("configs", "sd3-medium") == (ROOT / "configs/sd3-medium.yaml").read_text()


def test_configs_are_found_by_name_and_files_of_that_name_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(shipped_configs()) >= {"two-modality", "flux.1-dev", "ablations/qk-norm/qk-norm"}
    assert find_shipped("sd3-medium") == ROOT / "configs/sd3-medium.yaml"
    assert find_shipped("sd3-medium.yaml") is None and find_shipped("./sd3-medium") == find_shipped("sd3-medium")
    assert mmdit.build("two-modality").config.depth == 2
    Path("two-modality").write_text("name: [")
    with pytest.raises(ConfigError, match="two-modality:1"):
        mmdit.build("two-modality")


@pytest.mark.slow
def test_the_list_has_the_sizes_of_the_published_networks():
    from mmdit_cli.commands.shipped_sizes import shipped_sizes

    sizes = {size.config: size for size in shipped_sizes()}
    assert set(sizes) == set(shipped_configs())
    known = {"sd3-medium": 2_028_328_000, "sd3.5-large": 8_056_627_520, "flux.1-dev": 11_901_408_320}
    assert {name: sizes[name].parameters for name in known} == known
    assert sizes["flux.1-dev"].blocks == 19 + 38 and sizes["flux.1-dev"].tokens == {"text": 512, "image": 4096}
    assert sizes["sd3-medium"].about == "Stable Diffusion 3 Medium (Esser et al. 2024)"
    assert all(size.about for size in sizes.values())

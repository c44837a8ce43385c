"""The common options are declared once, and every command gets the request that they make."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mmdit_cli.request.flags import COMMON, OneConfig, common_options
from mmdit_cli.request.request import Request, make_request


def run(command, *arguments: str):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_command_gets_its_request_and_its_own_options():
    got = []

    @common_options("count")
    def command(request: Request, times: Annotated[int, typer.Option("--times")] = 1) -> None:
        got.append((request, times))

    done = run(command, "-c", "a.yaml", "-c", "b.yaml", "--set", "x=1", "--seed", "7", "--json", "--times", "3")
    assert done.exit_code == 0, done.output
    assert got == [(Request("count", ["a.yaml", "b.yaml"], ["x=1"], "cpu", "fp32", 7, True, None), 3)]
    assert list(signature(command).parameters) == ["config", "times", *COMMON]


def test_an_option_of_its_own_stands_in_the_common_ones_place():
    got = []

    @common_options("write", config=OneConfig)
    def command(request: Request, dtype: Annotated[str | None, typer.Option("--dtype")] = None) -> None:
        got.append((request.configs, request.dtype, dtype))

    assert run(command, "-c", "a.yaml").exit_code == run(command, "-c", "a.yaml", "--dtype", "bf16").exit_code == 0
    assert got == [(["a.yaml"], "fp32", None), (["a.yaml"], "bf16", "bf16")]
    assert list(signature(command).parameters) == ["config", *COMMON]


def test_a_command_may_have_some_of_them_alone():
    @common_options("list", config=None, only=("json", "report"))
    def command(request: Request, name: Annotated[str, typer.Argument()] = "all") -> None:
        assert (request.json, request.report, request.configs) == (True, None, [])

    assert run(command, "--json", "x").exit_code == 0
    assert run(command, "--seed", "1").exit_code == 2


@pytest.mark.parametrize("seed", [1 << 64, -(1 << 63) - 1])
def test_a_seed_that_torch_does_not_take_is_refused(seed):
    from mmdit_cli.errors import UserError

    with pytest.raises(UserError, match="64 bits"):
        make_request("count", [], None, "cpu", "fp32", seed, False, Path("x.json"))


@pytest.mark.parametrize(("command", "found"), [("profile", "cuda"), ("train-toy", "cuda"), ("flops", "cpu")])
def test_what_a_device_does_is_done_on_the_gpu_that_there_is(command, found, monkeypatch):
    monkeypatch.setattr("mmdit_cli.request.request.first_device", lambda: "cuda")
    request = make_request(command, [], None, None, "fp32", 0, False, None)
    assert request.named_device.type == found
    assert make_request(command, [], None, "cpu", "fp32", 0, False, None).named_device.type == "cpu"
    monkeypatch.setattr("mmdit_cli.output.document.device_name", lambda device: device)
    assert request.document([])["device"] == found

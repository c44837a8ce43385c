"""The options that every subcommand has, declared once; nothing heavy is imported here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmdit_cli.errors import UserError

if TYPE_CHECKING:
    import torch

    from mmdit_cli.request.tool_config import ToolConfig

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", metavar="FILE", help="The model's YAML file; - is standard input.")
]
ConfigsOption = Annotated[
    list[str],
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file (- is standard input). Repeat to compare."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a config value: --set model.depth=4. Repeatable."),
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option("--sweep", metavar="KEY=V1,V2", help="Take each value of a key in turn. Repeat for a grid."),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")]
DtypeOption = Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="fp32, bf16 or fp16.")]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of weights and inputs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Also write a .json, .csv or .md file.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

LayoutName = Literal["mmdit", "diffusers", "stability", "flux", "lucidrains"]
LAYOUTS = "mmdit, diffusers, stability, flux or lucidrains"

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Request:
    """What every subcommand was asked: configs, device, dtype, seed, and where the result goes."""

    command: str
    configs: list[str]
    overrides: list[str]
    device: str
    dtype: str
    seed: int
    json: bool
    report: Path | None

    def load_configs(self) -> list[ToolConfig]:
        """Raises ConfigError where a config is wrong."""
        from mmdit_cli.request.tool_config import load_tool_config

        if self.configs.count("-") > 1:
            raise UserError("--config -: standard input can be read once")
        return [load_tool_config(path, self.overrides) for path in self.configs]

    @property
    def torch_device(self) -> torch.device:
        """Raises UserError where there is no such device."""
        import torch

        kind, colon, index = self.device.partition(":")
        numbered = kind == "cuda" and index.isascii() and index.isdecimal() and len(index) < 10
        if kind not in ("cpu", "cuda") or (colon and not numbered):
            raise UserError(f"--device {self.device}: expected cpu, cuda or cuda:N")
        if kind == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if not count:
                raise UserError(f"--device {self.device}: torch {torch.__version__} sees no CUDA device; use cpu")
            if int(index or 0) >= count:
                raise UserError(f"--device {self.device}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Raises UserError where the name is not known."""
        import torch

        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}")
        dtype: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return dtype


def make_request(
    command: str,
    config: str | list[str],
    overrides: list[str] | None,
    device: str,
    dtype: str,
    seed: int,
    json: bool,
    report: Path | None,
) -> Request:
    """Check what can be checked without torch, and where the report will go, before any work is done.

    Raises:
        UserError: the seed is none of torch's, or the report can't be written or would replace a config.
    """
    if not -(1 << 63) <= seed < 1 << 64:
        raise UserError(f"--seed {seed if abs(seed) < 1 << 70 else 'of many digits'}: expected a number of 64 bits")
    configs = [config] if isinstance(config, str) else config
    if report is not None:
        check_report(report, configs)
    return Request(command, configs, [_as_utf8(text) for text in overrides or []], device, dtype, seed, json, report)


def _as_utf8(text: str) -> str:
    """What was typed, where the locale (such as C) reads the command line as ASCII; configs are UTF-8 in any case."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def check_report(path: Path, configs: list[str]) -> None:
    """Refuse a report that could not be written or would replace a config, before the work rather than after it."""
    from mmdit_cli.output.document import check_apart, check_target
    from mmdit_cli.output.renderings import check_suffix

    check_target(path, "--report")
    check_suffix(path)
    check_apart(report=path, config=configs)

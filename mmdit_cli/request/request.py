"""What a command was asked, and how its results are shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdit_cli.errors import UserError
from mmdit_cli.output.console import stdout
from mmdit_cli.output.document import make_document, print_json
from mmdit_cli.output.renderings import SUFFIXES, render
from mmdit_cli.request.targets import check_apart, check_target, writing

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType

    from mmdit_cli.request.tool_config import ToolConfig

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Request:
    """Configs, device, dtype, seed, and where the result goes: what every command is asked."""

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

        self.check_standard_input()
        return [load_tool_config(path, self.overrides) for path in self.configs]

    def check_standard_input(self) -> None:
        """Raises UserError where two configs are to be read from it."""
        if self.configs.count("-") > 1:
            raise UserError("--config -: standard input can be read once")

    @property
    def torch_device(self) -> torch.device:
        """The device; one with a number is the current one from here on, for seeds, events and libraries that ask for
        no other. Plain `cuda` leaves that open: each of torchrun's processes takes its own.

        Raises UserError where there is no such device.
        """
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
            if index:
                torch.cuda.set_device(int(index))
        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Raises UserError where the name is not known."""
        import torch

        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}")
        dtype: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return dtype

    def document(self, results: Sequence[Any], **extra: Any) -> dict[str, Any]:
        """The results, and what stands beside them, as plain data."""
        return make_document(self.command, results, device=self.device, dtype=self.dtype, seed=self.seed, **extra)

    def show(
        self,
        results: Sequence[Any],
        tables: Callable[[int], Sequence[RenderableType]],
        *,
        headed: bool = True,
        **extra: Any,
    ) -> None:
        """Print the tables (made for a width), or where `--json` asks for it the document, and write `--report`.

        Args:
            headed: say above the tables what the figures were made with.

        Raises:
            UserError: the report can't be written.
        """
        document = self.document(results, **extra)
        if not self.json:
            from mmdit_cli.output.tables import header

            console = stdout()
            if headed:
                console.print(header(document))
            for table in tables(console.width):
                console.print(table)
        if self.report is not None:
            from mmdit.weights.atomic import write_atomic

            with writing("--report", self.report):
                write_atomic(self.report, render(document, self.report.suffix).encode())
        if self.json:
            print_json(document)


def make_request(
    command: str,
    configs: list[str],
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
    if report is not None:
        check_target(report, "--report", suffixes=SUFFIXES)
        check_apart({"config": configs}, report=report)
    return Request(command, configs, [_as_utf8(text) for text in overrides or []], device, dtype, seed, json, report)


def _as_utf8(text: str) -> str:
    """What was typed, where the locale (such as C) reads the command line as ASCII; configs are UTF-8 in any case."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text

"""What a command was asked, and how its results are shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdit_cli.errors import UserError
from mmdit_cli.output.console import is_main, message, stdout
from mmdit_cli.output.document import make_document, print_json
from mmdit_cli.output.renderings import SUFFIXES, render
from mmdit_cli.request.targets import check_apart, check_target, writing
from mmdit_cli.request.typed import typed_command

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from mmdit.config.yaml_document import ConfigError, Document
    from mmdit_cli.request.tool_config import ToolConfig

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MOST_DEVICES = 128  # torch wraps greater numbers


SECTIONS = ("run", "train")
FOUND = "a GPU, or else cpu"  # the device of who asked for none
GPU_FIRST = ("profile", "train-toy")  # commands whose work a device does
NAMED = 4  # settings in a message
READS = {  # by command: what it uses of a config's `run` and `train`, sections or keys
    "profile": ("run",),
    "flops": ("run",),
    "plan": ("run",),
    "shape-check": ("run",),
    "train-toy": ("train",),
    "export": ("run.mask",),
}


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
    unused: dict[str, str] = field(default_factory=dict, compare=False)  # keys that the command won't use, in words
    beside: dict[str, Any] = field(default_factory=dict, compare=False)  # what the document has beside the results
    footnotes: list[str] = field(default_factory=list, compare=False)  # what is said of it under the tables
    read: list[dict[str, Any]] = field(default_factory=list, compare=False)  # the configs that were loaded, whole

    def load_configs(self) -> list[ToolConfig]:
        """Raises ConfigError where a config is wrong."""
        configs = []
        for (config,) in self.load_points():
            if isinstance(config, ValueError):
                raise config
            configs.append(config)
        return configs

    def load_points(
        self, points: Sequence[Sequence[str]] = ((),), option: str = "--sweep"
    ) -> list[list[ToolConfig | ConfigError]]:
        """Each config at each point of a sweep, which the option spans, or what is wrong with it there.

        Raises:
            ConfigError: a file can't be read.
        """
        from mmdit.config.file import load_points
        from mmdit.config.shipped import is_shipped
        from mmdit.options import as_data
        from mmdit_cli.request.tool_config import FedConfig, ToolConfig

        schema = FedConfig if "run" in READS[self.command] else ToolConfig
        loaded = []
        for path in self.configs:
            note = partial(self._note_unused, is_shipped(path) or _of_run(path))
            text = config_within(path)
            loaded.append(
                load_points(
                    path, schema, overrides=self.overrides, points=points, option=option, on_document=note, text=text
                )
            )
        right = ([config for config in each if not isinstance(config, ValueError)] for each in loaded)
        self.read[:] = [as_data(each[0]) for each in right if each]
        return loaded

    def _note_unused(self, shipped: bool, document: Document) -> None:
        """Keep what someone set, in a file of their own or on the command line, and the command won't use."""
        read = READS[self.command]
        for path, place in document.keys.items():
            key = ".".join(map(str, path))
            others = place.line and (shipped or place.source != document.source)  # or of what it extends
            if len(path) != 2 or path[0] not in SECTIONS or {path[0], key} & {*read} or others:
                continue
            twin = f"; {read[0]}.{path[1]} is" if path[1] == "batch_size" and read[0] in SECTIONS else ""
            self.unused[key] = f"{key} ({place}){twin}"

    def say_unused(self) -> None:
        """Name the settings that are not used, once."""
        if self.unused and is_main():
            more = f", and {len(self.unused) - NAMED} more" if len(self.unused) > NAMED else ""
            message(f"not used by {self.command}: {', '.join([*self.unused.values()][:NAMED])}{more}")
        self.unused.clear()

    @property
    def named_device(self) -> torch.device:
        """The device, which need not be there. Raises UserError where the name is none."""
        import torch

        if self.device == FOUND:
            return torch.device(first_device())
        kind, colon, index = self.device.partition(":")
        numbered = kind == "cuda" and index.isascii() and index.isdecimal() and len(index) < 4
        if kind not in ("cpu", "cuda") or (colon and not (numbered and int(index) < MOST_DEVICES)):
            raise UserError(f"--device {self.device}: expected cpu, cuda or cuda:N")
        return torch.device(kind, int(index)) if index else torch.device(kind)

    @property
    def torch_device(self) -> torch.device:
        """The device; one with a number is the current one from here on, for seeds, events and libraries that ask for
        no other. Plain `cuda` leaves that open: each of torchrun's processes takes its own.

        Raises UserError where there is no such device.
        """
        import torch

        device = self.named_device
        if device.type == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if not count:
                raise UserError(f"--device {self.device}: torch {torch.__version__} sees no CUDA device; use cpu")
            if (device.index or 0) >= count:
                raise UserError(f"--device {self.device}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
            if device.index:
                torch.cuda.set_device(device.index)
        return device

    @property
    def torch_dtype(self) -> torch.dtype:
        """Raises UserError where the name is not known."""
        return self.dtype_beside()

    def dtype_beside(self, *others: str) -> torch.dtype:
        """The same of a command that takes `others` as well, which a message names."""
        import torch

        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: expected one of {', '.join((*DTYPES, *others))}")
        dtype: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return dtype

    def document(self, results: Sequence[Any], **extra: Any) -> dict[str, Any]:
        """The results, and what stands beside them, as plain data."""
        return make_document(
            self.command,
            results,
            device=str(self.named_device),
            dtype=self.dtype,
            seed=self.seed,
            command_line=typed_command(),
            configs=self.read,
            **self.beside,
            **extra,
        )

    def show(
        self,
        results: Sequence[Any],
        tables: Callable[[int], Sequence[RenderableType]],
        *,
        headed: bool = True,
        picture: tuple[Path, Callable[[], Figure]] | None = None,
        configs: Iterable[ToolConfig] = (),
        **extra: Any,
    ) -> None:
        """Print the tables (made for a width), or the document where `--json` asks for it. `--report` and the picture
        come last, so that what was measured is seen even where they can't be written.

        Args:
            headed: say above the tables what the figures were made with.
            picture: where `--plot` goes, and what draws it.
            configs: those that the figures are of, where they depend on `run.tokens`, whose defaults are said then.

        Raises:
            UserError: the report or the picture can't be written; the other one is.
        """
        document = self.document(results, **extra)
        self.say_unused()
        if self.json:
            print_json(document)
        else:
            from mmdit_cli.output.tables import header, note
            from mmdit_cli.request.tool_config import tokens_by_default

            console = stdout()
            if headed:
                console.print(header(document))
            if taken := tokens_by_default(configs):
                console.print(note(taken))
            for table in [*tables(console.width), *map(note, self.footnotes)]:
                console.print(table)
        try:
            if self.report is not None:
                from mmdit.weights.atomic import write_atomic

                with writing("--report", self.report):
                    write_atomic(self.report, render(document, self.report.suffix).encode())
        finally:
            if picture is not None:
                from mmdit_cli.output.figures import save_figure

                path, draw = picture
                with writing("--plot", path):
                    save_figure(draw(), path)


def make_request(
    command: str,
    configs: list[str],
    overrides: list[str] | None,
    device: str | None,
    dtype: str,
    seed: int,
    json: bool,
    report: Path | None,
) -> Request:
    """Check what can be checked without torch, and where the report will go, before any work is done.

    Raises:
        UserError: the seed is none of torch's, standard input is to be read twice, or the report can't be written or
            would replace a config.
    """
    if not -(1 << 63) <= seed < 1 << 64:
        raise UserError(f"--seed {seed if abs(seed) < 1 << 70 else 'of many digits'}: expected a number of 64 bits")
    if configs.count("-") > 1:
        raise UserError("--config -: standard input can be read once")
    if report is not None:
        check_target(report, "--report", suffixes=SUFFIXES)
        check_apart({"config": configs}, report=report)
    device = device or (FOUND if command in GPU_FIRST else "cpu")
    dtype = {torch_name: name for name, torch_name in DTYPES.items()}.get(dtype.removeprefix("torch."), dtype)
    return Request(command, configs, [_as_utf8(text) for text in overrides or []], device, dtype, seed, json, report)


def first_device() -> str:
    """The kind of device that is taken where none is named."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _of_run(path: str) -> bool:
    """Whether a run's config is named, which the tool wrote itself."""
    own = os.path.basename(path) == "config.yaml" and os.path.isfile(os.path.join(os.path.dirname(path), "run.json"))
    return own or os.path.isdir(path)


def _as_utf8(text: str) -> str:
    """What was typed, where the locale (such as C) reads the command line as ASCII; configs are UTF-8 in any case."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def config_within(path: str) -> bytes | None:
    """The config that weights hold, which `mmdit.save` wrote; None where the path is no weights'.

    Raises:
        mmdit.weights.saved_model.CheckpointError: they can't be read, or hold none.
    """
    from mmdit.config.diffusers_config import config_file

    shards = os.path.isdir(path) and os.path.isfile(os.path.join(path, "config.json")) and config_file(path) is None
    if not (shards or (path.endswith(".safetensors") and os.path.isfile(path))):
        return None
    from mmdit.options import as_data
    from mmdit.weights.reader import WeightFiles
    from mmdit.weights.saved_model import read_config

    with WeightFiles(path) as files:
        name = files.metadata.get("config_name") or Path(path).stem
        return json_text({"name": name, "model": as_data(read_config(files).model)}).encode()

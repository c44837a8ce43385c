"""The document of a command: what the contract says every one has, and the same results that its tables show."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from mmdit_cli import __version__
from mmdit_cli.output.renderings import to_json


def make_document(
    command: str,
    results: Sequence[Any],
    *,
    device: str,
    dtype: str,
    seed: int,
    command_line: Sequence[str] = (),
    configs: Sequence[Mapping[str, Any]] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Results, and what stands beside them, as plain data.

    Args:
        command_line: what was typed.
        configs: whole, as data, those of the results.
    """
    import torch

    return {
        "command": command,
        "mmdit_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "seed": seed,
        **{key: _plain(value) for key, value in extra.items()},
        "command_line": list(command_line),
        "configs": _plain(list(configs)),
        "results": [_plain(result) for result in results],
    }


def device_name(device: str) -> str:
    """The processor's or the card's own name."""
    import torch

    if device.startswith("cuda"):
        here = (torch.device(device).index or 0) < torch.cuda.device_count()
        return torch.cuda.get_device_name(device) if here else "not on this machine"
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "cpu"


def print_json(document: dict[str, Any]) -> None:
    """Write the document, and nothing else, to standard output."""
    text = to_json(document)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a locale such as C: the same document, spelled in ASCII
        text = to_json(document, ascii=True)
    sys.stdout.write(text)
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """Dataclasses, paths and numbers to what JSON can say; a number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value

"""What a finished run gave; its folder keeps it, so that a comparison that is resumed need not judge it again."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from mmdit.config.regular_file import read_regular
from mmdit.options import as_data
from mmdit.weights.atomic import write_atomic
from mmdit.weights.checkpoints import LONGEST
from mmdit_cli.model_parts.compiling import CompileGain
from mmdit_cli.output.run_files import RESULT
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.data import Coverage
from mmdit_cli.toy.resume import with_defaults
from mmdit_cli.toy.run_folder import described, differences
from mmdit_cli.toy.trainer import DTYPES

AVERAGED = 20  # steps that the first and the last loss are means of


@dataclass(frozen=True)
class TrainResult:
    """A finished run, scored with the averaged weights.

    Accuracies are shares of samples whose attributes the judge reads back all right: on captions as training showed
    them, and `held_out` on those it never did; by modality, or of scenes by category of caption, with their mean.
    `agreement`: in every modality at once. `any_to_any`: see there. `coverage`: of what captions leave free, by
    attribute. `compile_gain`: of a forward and a backward pass, where the network is compiled. `loss`: the means over
    the `first` and over the `last` `loss_steps` steps.
    """

    config: str
    steps: int
    parameters: int
    loss: dict[str, float]
    accuracy: dict[str, float]
    held_out: dict[str, float]
    chance: dict[str, float]
    agreement: float
    per_attribute: dict[str, dict[str, float]]
    oracle_real: dict[str, float]
    oracle_noise: dict[str, float]
    samples: int
    steps_per_s: float
    run_dir: str
    files: dict[str, str]
    seed: int = 0
    any_to_any: dict[str, float] = field(default_factory=dict)
    compile_gain: CompileGain | None = None
    coverage: dict[str, Coverage] = field(default_factory=dict)
    loss_steps: int = AVERAGED

    @property
    def mean_accuracy(self) -> float:
        """Over modalities, or over the categories of scenes."""
        return self.accuracy.get("mean", statistics.fmean(self.accuracy.values()))


def keep_result(folder: Path, result: TrainResult) -> None:
    """Write it, with the names that its files have in the folder.

    Raises:
        OSError: it can't be written.
    """
    files = {key: str(Path(path).relative_to(folder)) for key, path in result.files.items()}
    write_atomic(folder / RESULT, json.dumps(asdict(replace(result, run_dir="", files=files)), indent=2).encode())


def forget_result(folder: Path) -> None:
    """The run goes on, so that it has none."""
    (folder / RESULT).unlink(missing_ok=True)


def kept_result(folder: Path, config: ToolConfig, seed: int, dtype: torch.dtype) -> TrainResult | None:
    """The result of a run that has finished as it is wanted now; None where it has not, or its files are gone."""
    started, _ = described(folder)
    wanted = {"seed": seed, "dtype": DTYPES.get(dtype), "config": as_data(config)}
    if started is None or differences(with_defaults(started), wanted):
        return None
    try:
        result = TypeAdapter(TrainResult).validate_json(read_regular(folder / RESULT, LONGEST))
    except (OSError, ValueError):
        return None
    files = {key: folder / path for key, path in result.files.items()}
    if not all(files[key].is_file() for key in ("checkpoint", "metrics")):
        return None
    return replace(result, run_dir=str(folder), files={key: str(path) for key, path in files.items()})

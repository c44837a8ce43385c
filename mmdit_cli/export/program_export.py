"""Exporting programs: `torch.export`'s pt2 and ONNX, compared with the model before the file stands."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mmdit.weights.atomic import replacing, replacing_folder
from mmdit.weights.saved_model import own_metadata
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.export.preconditions import Export, Progress, check_room
from mmdit_cli.export.program import (
    TRACED,
    Flat,
    Run,
    Signature,
    awake,
    example_call,
    output_difference,
    torch_can,
    trace,
    traceable,
)
from mmdit_cli.export.weights_export import ExportResult, fresh_or_read
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.inputs import outputs_by_name
from mmdit_cli.request.targets import check_target, writing
from mmdit_cli.request.tool_config import ToolConfig

OPSET = 20  # of ONNX; 23 and later have an Attention of their own, for which onnxruntime wants masks expanded
ONE_FILE = 2_000_000_000  # bytes, about what one protobuf message may hold
GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
EXTRA = "mmdit.json"  # within a pt2 file


def export_program(config: ToolConfig, asked: Export, *, format: str) -> ExportResult:
    """Write a model as a program that runs without this package, for any batch and any number of tokens.

    A pt2 file (`torch.export.load(path).module()`) is called as the model is, on the device that it was made on. An
    ONNX file takes the tensors one by one, named after their modalities (`text`, `text_mask`, ..., `timestep`), and
    gives `image_out`. Masks are inputs for the modalities that the config's `run.mask` names.

    Args:
        asked: its `out` is a file; of `onnx` a name that does not end in `.onnx` is that of a folder, which gets the
            graph and its weights apart, as more than 2 GB must be.
        format: `pt2` or `onnx`.

    Raises:
        UserError: an extra is missing, the file can't be written, or torch can't export the model.
        CheckFailed: the program's outputs differ by more than the dtype allows; no file is left, an old one is as it
            was.
    """
    out, force, device, dtype = asked.out, asked.force, asked.device, asked.weights_dtype
    folder = format == "onnx" and out.suffix != ".onnx"
    if format == "onnx":
        _check_onnx(dtype, device)
    check_target(out, "--out", force=force, example=f"model.{format}", folder=folder, other=not_a_program)
    file = asked.weights_file()
    check_room(config, out, dtype=dtype, device=device, file=file)
    asked.on_progress("building" if file is None else "reading", 0, None)
    model = traceable(fresh_or_read(config.model, file, asked))
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    if format == "onnx" and not folder and size > ONE_FILE:
        raise UserError(
            f"--out {out}: an ONNX file holds 2 GB at most, and the weights take {bytes_(size)}; name a folder, "
            f"which gets {GRAPH} and {WEIGHTS}"
        )
    about = asked.about(config, file)
    if format == "pt2":  # whose graph makes its own tensors, and names the device
        about["device"] = str(device)
        asked.on_message(f"{out} is a program for {device}; for another device export it there, by --device")
    call = example_call(config, TRACED, **asked.drawn)
    make = _Pt2 if format == "pt2" else _Onnx
    program = make(model, config, call, own_metadata(config.model) | about, asked.on_progress)
    target = replacing_folder(out, force=force, other=not_a_program) if folder else replacing(out, force=force)
    with writing("--out", out):
        with awake(model) as asleep:
            differences = [program.difference(program.current(), asked)] if asleep else []
        with target as temporary:
            asked.on_progress("writing", 0, None)
            program.write(temporary)
            asked.on_progress("comparing", 0, None)
            differences.append(program.difference(program.read(temporary), asked))
            names = [GRAPH, WEIGHTS] if folder else []
            written = sum(path.stat().st_size for path in ([temporary / n for n in names] or [temporary]))
    return ExportResult(
        config=config.name,
        format=format,
        files=[str(out / name) for name in names] or [str(out)],
        source=about["source"],
        tensors=len(model.state_dict()),
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=written,
        verified=True,
        max_abs_diff=max(differences),
        sha256=None,
        inputs=program.inputs,
        outputs=program.outputs,
    )


class _Program(ABC):
    """A traced model: how it is written, read again and called."""

    def __init__(
        self, model: nn.Module, config: ToolConfig, call: dict[str, Any], metadata: Mapping[str, str], told: Progress
    ) -> None:
        self.model, self.config, self.call, self.metadata = model, config, call, metadata
        self.signature = Signature.of(config, call)
        self.dims = self.signature.dims()
        told("tracing", 0, None)
        self.traced = self.trace()

    @abstractmethod
    def trace(self) -> ExportedProgram: ...

    @abstractmethod
    def write(self, path: Path) -> None: ...

    @abstractmethod
    def read(self, path: Path) -> Run: ...

    @abstractmethod
    def current(self) -> Run:
        """The program with the weights that the model has now."""

    def difference(self, run: Run, asked: Export) -> float:
        """The largest one to the model's outputs."""

        def eager(call: Mapping[str, Any]) -> dict[str, Tensor]:
            return outputs_by_name(self.config, self.model(**call))

        return output_difference(eager, run, self.config, **asked.drawn)

    @property
    def inputs(self) -> dict[str, list[str]]:
        """Each tensor's sizes: numbers, and the names of those that may vary."""
        tensors = self.signature.flatten(self.call)
        return {
            name: [_size_name(self.dims[name].get(axis), length) for axis, length in enumerate(x.shape)]
            for name, x in tensors.items()
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name.removesuffix("_out") for name in self.signature.outputs)


class _Pt2(_Program):
    def trace(self) -> ExportedProgram:
        return trace(self.model, (), self.call, self.signature.nested(self.dims))

    def write(self, path: Path) -> None:
        with _Whole(path, "w") as file:
            torch.export.save(self.traced, file, extra_files={EXTRA: json.dumps(dict(self.metadata))})
        if file.error is not None:
            raise file.error

    def read(self, path: Path) -> Run:
        with path.open("rb") as file:
            program = torch.export.load(file)
        mine, theirs = self.model.state_dict(), program.state_dict
        wrong = [name for name, x in mine.items() if name in theirs and not torch.equal(x, theirs[name])]
        if wrong:
            raise CheckFailed(f"verification failed: {len(wrong)} tensors came back changed, {wrong[0]} first")
        return self._called(program)

    def current(self) -> Run:
        return self._called(self.traced)

    def _called(self, program: ExportedProgram) -> Run:
        run = program.module()
        return lambda call: outputs_by_name(self.config, run(**call))


class _Whole(io.FileIO):
    """Takes everything and keeps the first error: torch's writer aborts the process where its last write fails."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.error = error
        return size


class _Onnx(_Program):
    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.signature.outputs)

    def trace(self) -> ExportedProgram:
        flat = Flat(self.model, self.signature).eval()
        tensors = tuple(self.signature.flatten(self.call).values())
        return trace(flat, tensors, {}, (tuple(self.dims.values()),))

    def convert(self) -> Any:
        with torch_can("write this model as ONNX"), quiet_exporter():
            made: Any = torch.onnx.export(
                self.traced,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(self.signature.paths),
                output_names=self.signature.outputs,
                verbose=False,
            )
            if hasattr(made, "rename_axes"):  # torch 2.9; the graph would have them as s53
                made.rename_axes(self._size_names(made.model.graph.inputs))
            return made

    def _size_names(self, inputs: Any) -> dict[str, str]:
        """What the sizes that may vary are called, by what torch calls them."""
        names = {}
        for given in inputs:
            for axis, dim in self.dims[given.name].items():
                symbol = re.search(r"\bs\d+\b", str(getattr(given.shape[axis], "value", "")))
                if symbol and (name := getattr(getattr(dim, "root", dim), "__name__", None)):
                    names[symbol[0]] = name
        return names

    def write(self, path: Path) -> None:
        made = self.convert()
        made.model.metadata_props.update(self.metadata)
        if path.is_dir():
            made.save(path / GRAPH, external_data=True)
        else:
            made.save(path)

    def read(self, path: Path) -> Run:
        return self._session(str(path / GRAPH if path.is_dir() else path))

    def current(self) -> Run:
        buffer = io.BytesIO()
        self.convert().save(buffer)
        return self._session(buffer.getvalue())

    def _session(self, model: str | bytes) -> Run:
        import onnxruntime

        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, quiet, providers=["CPUExecutionProvider"])
        taken = {each.name for each in session.get_inputs()}

        def run(call: Mapping[str, Any]) -> dict[str, Tensor]:
            given = {name: x.numpy(force=True) for name, x in self.signature.flatten(call).items() if name in taken}
            found = session.run(self.signature.outputs, given)
            return dict(zip(super(_Onnx, self).outputs, map(torch.from_numpy, found), strict=True))

        return run


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without its notes on packages that no model here needs, and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def not_a_program(folder: Path) -> str | None:
    """What lies in a folder beside an exported graph and its weights."""
    return next((path.name for path in sorted(folder.iterdir()) if path.name not in (GRAPH, WEIGHTS)), None)


def _check_onnx(dtype: torch.dtype, device: torch.device) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'mmdit-cli[onnx]'")
    if dtype == torch.bfloat16:
        raise UserError(
            "--format onnx: onnxruntime has no bf16 on the CPU, so it could not be compared; use fp16 or fp32"
        )
    if device.type != "cpu":
        raise UserError(f"--format onnx is compared on the CPU; leave --device {device} out")


def _size_name(dim: Any, length: int) -> str:
    if dim is None:
        return str(length)
    return getattr(dim, "__name__", None) or "any"

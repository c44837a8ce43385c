"""Every layer's shapes, found on the meta device, and whether each modality comes out as it should."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.options import LinearOutput, ModelOptions, PatchInput, PatchOutput
from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.model_parts.follower import tensors_of
from mmdit_cli.model_parts.tensor_bytes import total_bytes
from mmdit_cli.request.inputs import ModelInputs, example_inputs, outputs_by_name
from mmdit_cli.request.size_limits import is_overflow, possible, too_large
from mmdit_cli.request.tool_config import ToolConfig

Shape = list[int]


@dataclass(frozen=True)
class LayerShapes:
    """One module: the shapes of the tensors that went in and came out, and its parameters."""

    name: str
    kind: str
    inputs: list[Shape]
    outputs: list[Shape]
    parameters: int


@dataclass(frozen=True)
class ShapesResult:
    """What a shape check found. `ok` is False where there are `problems`; `notes` and `advice` are no fault."""

    config: str
    ok: bool
    parameters: int
    weight_bytes: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    layers: list[LayerShapes]
    problems: list[str]
    notes: list[str]
    advice: list[str] = field(default_factory=list)  # on shapes that are right and of no use
    weights: Any = None  # a WeightsCheck, where a file was checked


def check_shapes(config: ToolConfig, *, dtype: torch.dtype = torch.float32) -> ShapesResult:
    """Run a config's model on the meta device and compare what comes out with what should.

    Raises:
        UserError: the model or its inputs are larger than any machine.
    """
    with possible(config):
        return check_model(meta_model(config, dtype), config, dtype=dtype)


def check_model(model: nn.Module, config: ToolConfig, *, dtype: torch.dtype = torch.float32) -> ShapesResult:
    """The same for a model on the meta device that was built from the config."""
    inputs = example_inputs(config, device="meta", dtype=dtype)
    outputs: dict[str, Tensor] = {}
    problems, notes = [], []
    with _recorded(model) as (layers, running):
        try:
            outputs = outputs_by_name(config, model(**inputs.kwargs))
        except (ValueError, RuntimeError) as error:
            if is_overflow(error):
                raise too_large(config) from error
            problems.append(f"{running[-1] if running else 'model'}: {_first_line(error)}")
        else:
            problems = _compare(config, inputs, outputs)
            notes = _unused_parameters(model, outputs)
    return ShapesResult(
        config=config.name,
        ok=not problems,
        parameters=sum(p.numel() for p in model.parameters()),
        weight_bytes=total_bytes(model.parameters()),
        inputs={name: list(x.shape) for name, x in inputs.by_modality.items()},
        outputs={name: list(x.shape) for name, x in outputs.items()},
        layers=layers,
        problems=problems,
        notes=notes,
        advice=_unread(config.model),
    )


def expected_output(config: ToolConfig, name: str, given: Shape) -> Shape | None:
    """The shape a modality must come out with: its output head's, or the tokens it went in with; None if discarded."""
    modality = config.model.modalities[name]
    if name in config.model.discard:
        return None
    if isinstance(modality.output, PatchOutput):
        return [given[0], modality.output.channels, *given[2:]]
    tokens = [given[0], config.tokens_of(name)]
    return [*tokens, modality.output.dim if isinstance(modality.output, LinearOutput) else modality.dim]


def _compare(config: ToolConfig, inputs: ModelInputs, outputs: dict[str, Tensor]) -> list[str]:
    problems = []
    for name, modality in config.model.modalities.items():
        x, end, head = inputs.by_modality[name], modality.input, modality.output
        if isinstance(end, PatchInput) and head is None and name not in config.model.discard:
            output = f"output: {{kind: patches, channels: {end.channels}}}"
            problems.append(f"{name}: goes in as a picture and comes out as tokens; give it {output}, or discard it")
        wanted, got = expected_output(config, name, list(x.shape)), outputs.get(name)
        if wanted is None and got is not None:
            problems.append(f"{name}: is discarded, but came out with {list(got.shape)}")
        elif wanted is not None and got is None:
            problems.append(f"{name}: did not come out, wanted {wanted}")
        elif wanted is not None and got is not None and list(got.shape) != wanted:
            layer = f"outputs.{name}" if config.model.modalities[name].output else "the last block"
            problems.append(f"{layer}, {name}: got {list(got.shape)}, wanted {wanted}")
    return problems


def _unread(model: ModelOptions) -> list[str]:
    """Modalities beside those with an output head that come out as tokens."""
    headed = [name for name, modality in model.modalities.items() if modality.output is not None]
    unread = [name for name in model.names if headed and name not in headed and name not in model.discard]
    return [
        f"{name}: comes out as tokens that no output head reads. Unless you do, no gradient reaches what the last "
        f"block does for it alone, at which DDP stops; set discard: [{name}], or give it an output"
        for name in unread
        if not isinstance(model.modalities[name].input, PatchInput)
    ]


def _unused_parameters(model: nn.Module, outputs: dict[str, Tensor]) -> list[str]:
    """Parameters that no output depends on: those at no leaf of the outputs' graph."""
    used, seen = set(), set()
    nodes = [x.grad_fn for x in outputs.values()]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        used.add(id(getattr(node, "variable", None)))
        nodes += [parent for parent, _ in node.next_functions]
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [f"no gradient reaches {name}" for name, parameter in trained if id(parameter) not in used]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[tuple[list[LayerShapes], list[str]]]:
    """The shapes of every module's call that ends in here, and the modules that run, the innermost one last."""
    layers: list[LayerShapes] = []
    running: list[str] = []
    handles: list[Any] = []

    def leave(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        running.pop()
        parameters = sum(p.numel() for p in module.parameters())
        layers.append(LayerShapes(name, type(module).__name__, _shapes([args, kwargs]), _shapes(output), parameters))

    for name, module in model.named_modules():
        if name:
            handles += [
                module.register_forward_pre_hook(lambda m, a, name=name: running.append(name)),
                module.register_forward_hook(partial(leave, name), with_kwargs=True),
            ]
    try:
        yield layers, running
    finally:
        for handle in handles:
            handle.remove()


def _shapes(value: Any) -> list[Shape]:
    return [list(x.shape) for x in tensors_of(value)]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

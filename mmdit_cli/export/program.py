"""A model as a program (`torch.export`): what it takes, which sizes may vary, and that it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import (
    MappingKey,
    SequenceKey,
    TreeSpec,
    tree_flatten_with_path,
    tree_leaves,
    tree_map_only,
    tree_unflatten,
)

from mmdit.config.yaml_document import one_line
from mmdit.options import PatchInput
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig, is_video, reach

Path_ = tuple[str | int, ...]  # where a tensor stands in the arguments of a call
Run = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]  # from a call's arguments to outputs by modality

FREE = 3  # least bound of a size that may vary: torch takes 0 and 1 apart, so that two sizes leave no choice
MOST_BATCH, MOST_TOKENS, MOST_PATCHES = 1 << 16, 1 << 20, 1 << 12  # bounds of sizes that nothing else bounds
TRACED = (2, 7, (4, 6))  # batch, tokens of a sequence, rows and columns of patches; 0 and 1 would be special sizes
TRIED = ((1, 5, (3, 2)), (3, 12, (2, 5)), (2, 3, (5, 4)))  # other ones, in which program and model are compared

# Kernels of a program may add up in another order than the model's. Shares of the largest output.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Signature:
    """The tensors of a call by their names in a program without nesting, and where each stands in the arguments.

    `text` is a modality, `text_mask` its mask, `image_reference_0` one of its references; the others have the names of
    the model's arguments.
    """

    config: ToolConfig
    paths: dict[str, Path_]
    places: tuple[str | None, ...]  # the names in the order of the arguments; None: left out
    structure: TreeSpec

    @classmethod
    def of(cls, config: ToolConfig, call: Mapping[str, Any]) -> Signature:
        leaves, structure = tree_flatten_with_path(call)
        paths: dict[str, Path_] = {}
        places: list[str | None] = []
        for keys, leaf in leaves:
            if leaf is None:
                places.append(None)
                continue
            path = tuple(key.key if isinstance(key, MappingKey) else cast(SequenceKey[Any], key).idx for key in keys)
            modality, is_mask = _modality(path, tuple(config.model.inputs))
            name = str(path[0]) if modality is None else _of_modality(modality, path) + "_mask" * is_mask
            while name in paths:  # a modality that is called as an argument is
                name += "_"
            paths[name] = path
            places.append(name)
        return cls(config, paths, tuple(places), structure)

    @property
    def outputs(self) -> list[str]:
        """Names of what comes out: those of the modalities are taken, and a graph has one name for one tensor."""
        kept = [name for name in self.config.model.modalities if name not in self.config.model.discard]
        return [f"{name}_out" for name in kept]

    def flatten(self, call: Mapping[str, Any]) -> dict[str, Tensor]:
        """A call's tensors by name."""
        return {name: x for name, x in zip(self.places, tree_leaves(call), strict=True) if name is not None}

    def nested(self, by_name: Mapping[str, Any]) -> Any:
        """What there is by name, in the places that the tensors have in a call."""
        return tree_unflatten([None if name is None else by_name[name] for name in self.places], self.structure)

    def dims(self) -> dict[str, dict[int, Any]]:
        """Which sizes may vary, by tensor and dimension."""
        batch = Dim("batch", min=1, max=MOST_BATCH)
        made: dict[str, Any] = {}
        return {name: {0: batch, **self._own_dims(path, made)} for name, path in self.paths.items()}

    def _own_dims(self, path: Path_, made: dict[str, Any]) -> dict[int, Any]:
        modality, is_mask = _modality(path, tuple(self.config.model.inputs))
        if modality is None:
            return {}
        end = self.config.model.inputs[modality]
        if isinstance(end, PatchInput) and is_mask:
            return {1: Dim.AUTO}  # rows x columns
        if _most(end) < FREE:
            return {}

        def dim(of: str, times: int = 1) -> Any:
            name = f"{_of_modality(str(modality), path)}_{of}"
            free = made.setdefault(name, Dim(name, min=1, max=_most(end)))
            return free if times == 1 else times * free

        if isinstance(end, PatchInput):
            sides = ("frames", "rows", "columns")[-len(end.sizes) :]
            free = {2 + i: (side, size) for i, (side, size) in enumerate(zip(sides, end.sizes, strict=True))}
            if path[0] == "references" and "frames" in sides:
                del free[2]  # one, which torch takes apart
            return {i: dim(*side) for i, side in free.items()}
        return {1: dim("tokens")}


class Flat(nn.Module):
    """The model called with its tensors one by one, in the order of a signature."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model, self.signature = model, signature

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        call = self.signature.nested(dict(zip(self.signature.paths, tensors, strict=True)))
        return tuple(outputs_by_name(self.signature.config, self.model(**call)).values())


def traceable(model: nn.Module) -> nn.Module:
    """The model as it is traced: padded, for packing reads the masks' values, which a program has not."""
    for module in model.modules():
        if getattr(module, "varlen", False):
            setattr(module, "varlen", False)  # noqa: B010
    return model.eval()


def example_call(config: ToolConfig, size: tuple[int, int, tuple[int, int]], **options: Any) -> dict[str, Any]:
    """Random arguments of a batch of so many samples, tokens, and rows and columns of patches, as far as they go.

    Masks are of the modalities that the config's `run.mask` names, drawn token by token; the last sample of a batch
    has none valid, where that is not all of them.
    """
    batch, length, grid = size
    tokens = {name: _tokens(end, length, grid) for name, end in config.model.inputs.items()}
    videos = [name for name, end in config.model.inputs.items() if is_video(end)]
    small = replace(config.run, tokens=tokens, frames=dict.fromkeys(videos, length), batch_size=batch)
    padded = replace(config.model, varlen=False)
    call = example_inputs(replace(config, run=small, model=padded), **options).kwargs
    generator = torch.Generator().manual_seed(options.get("seed", 0) + 1)

    def redrawn(x: Tensor) -> Tensor:
        if x.dtype != torch.bool:
            return x
        mask = torch.rand(x.shape, generator=generator) < 0.6
        mask[-1] = mask[-1] & (batch == 1)
        return mask.to(x.device)

    drawn: dict[str, Any] = tree_map_only(Tensor, redrawn, call)
    return drawn


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> ExportedProgram:
    """`torch.export` without gradients.

    Raises:
        UserError: torch can't make a program of this model.
    """
    with torch_can("trace this model"), torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)


@contextmanager
def torch_can(what: str) -> Iterator[None]:
    """Turn an error of torch's exporters, which share no class, into one line with its first cause.

    Raises:
        UserError: it can't.
    """
    try:
        yield
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = (str(first).strip() or type(first).__name__).splitlines()[0]
        raise UserError(f"--format: torch {torch.__version__} can't {what}: {one_line(reason, 300)}") from error


@contextmanager
def awake(model: nn.Module) -> Iterator[bool]:
    """Draw the parameters that are all zero, and zero them again: through the closed gates of fresh weights a program
    that computes anything would look right. Tells whether there were any."""
    asleep = [p for p in model.parameters() if p.numel() and not p.any()]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in asleep:
                drawn = torch.randn(parameter.shape, generator=generator) * 0.2 * parameter.shape[-1] ** -0.5
                parameter.copy_(drawn)
        yield bool(asleep)
    finally:
        with torch.no_grad():
            for parameter in asleep:
                parameter.zero_()


def output_difference(
    model: Run, program: Run, config: ToolConfig, *, dtype: torch.dtype, device: torch.device, seed: int
) -> float:
    """The largest difference between the outputs of a model and of its program, on fresh inputs of other sizes.

    Raises:
        CheckFailed: it is over the dtype's tolerance.
    """
    largest = 0.0
    for index, size in enumerate(TRIED):
        call = example_call(config, size, device=device, dtype=dtype, seed=seed + 1 + index)
        with torch.inference_mode():
            wanted, got = model(call), program(call)
        for name, x in wanted.items():
            difference = (x.double().cpu() - got[name].double().cpu()).abs().max().item()
            scale = max(x.abs().max().item(), 1.0)
            if not difference <= TOLERANCE[dtype] * scale:
                raise CheckFailed(
                    f"verification failed: the program's {name} differs by up to {difference:g} (outputs reach "
                    f"{scale:g}) for a batch of {size[0]}"
                )
            largest = max(largest, difference)
    return largest


def _most(end: Any) -> int:
    """Tokens of a sequence, or rows and columns of an image, that an input takes at most."""
    return reach(end) or (MOST_PATCHES if isinstance(end, PatchInput) else MOST_TOKENS)


def _tokens(end: Any, length: int, grid: tuple[int, int]) -> int:
    if isinstance(end, PatchInput):
        return min(grid[0], _most(end)) * min(grid[1], _most(end)) * (length if is_video(end) else 1)
    return min(length, _most(end))


def _of_modality(modality: str, path: Path_) -> str:
    """The modality itself, or one of its references."""
    return f"{modality}_reference_{path[2]}" if path[0] == "references" else modality


def _modality(path: Path_, names: Sequence[str]) -> tuple[str | None, bool]:
    """The modality that a tensor is of, and whether it is its mask."""
    match path:
        case ("inputs" | "masks" as kind, str(name)):
            return name, kind == "masks"
        case ("references", str(name), int()):
            return name, False
        case ("modality_tokens" | "modality_masks" as kind, int(index)):
            return names[index], kind == "modality_masks"
        case (str(argument),) if argument.removesuffix("_tokens") in names:
            return argument.removesuffix("_tokens"), False
        case (str(argument),) if argument.removesuffix("_mask") in names:
            return argument.removesuffix("_mask"), True
    return None, False

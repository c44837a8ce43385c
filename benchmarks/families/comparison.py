"""Ours with the weights of diffusers (or of a network's authors), on the same random inputs: outputs, gradients and
blocks, relative to theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import mmdit
from benchmarks.families.diffusers_networks import Family
from mmdit.layouts.layout import from_layout


def random_theirs(family: Family, seed: int = 0) -> nn.Module:
    """Theirs with every parameter away from its initial value."""
    torch.manual_seed(seed)
    net = family.theirs(**family.options)
    randomize(net)
    return net.eval()


def randomize(net: nn.Module) -> None:
    """Weights that keep the activations' size, biases and scales that do not vanish."""
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.3)


def ours_of(theirs: nn.Module, family: Family) -> nn.Module:
    """Our network with their weights."""
    config = family.small_config().model
    net = mmdit.build(config)
    net.load_state_dict(from_layout(theirs.state_dict(), config, family.layout))
    return net.eval()


def random_call(
    family: Family,
    *,
    batch: int = 2,
    height: int = 12,
    width: int = 8,
    length: int = 7,
    references: Sequence[tuple[int, int]] = ((8, 14),),
    seed: int = 1,
) -> dict[str, Any]:
    """What `mmdit.MMDiTModel` is called with: an image (or a video of 4 frames), text, timesteps, and what else the
    family takes; `references`: their sizes, where it takes them. Text that is refined is padded in the last sample."""
    if family.arguments is not None:
        return family.arguments(batch=batch, steps=height // 4, length=length, seed=seed)
    config: Any = family.small_config().model
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    scale = config.timestep.scale
    image = config.modalities[family.drawn]
    frames = (4,) if len(image.input.sizes) == 3 else ()
    arguments: dict[str, Any] = dict(
        inputs={
            "text": draw(batch, length, config.modalities["text"].input.dim),
            family.drawn: draw(batch, image.input.channels, *frames, height, width),
        },
        timestep=torch.rand(batch, generator=generator) * (1000 if scale == 1 else 1),
    )
    if config.pooled is not None:
        arguments["pooled"] = draw(batch, config.pooled.dim)
        if config.pooled.frequencies is not None:  # sizes in pixels, which bfloat16 holds without rounding
            arguments["pooled"] = (arguments["pooled"] * 20).round() * 16
    if config.timestep.second is not None:
        arguments["second_timestep"] = arguments["timestep"] * torch.rand(batch, generator=generator)
    if config.guidance is not None:
        arguments["guidance"] = torch.rand(batch, generator=generator) * 5 + 1
    for index, (name, end) in enumerate((config.modalities["text"].inputs or {}).items()):
        arguments["inputs"][name] = draw(batch, 3 + index, end.dim)
    if config.modalities["text"].refiner is not None and family.masked:
        texts = {name: arguments["inputs"][name].shape[1] for name in ("text", "text_2") if name in arguments["inputs"]}
        valid = {name: [*[count] * (batch - 1), max(count - 3, 1)] for name, count in texts.items()}
        arguments["masks"] = {
            name: torch.arange(count) < torch.tensor(valid[name])[:, None] for name, count in texts.items()
        }
    if image.references is not None:
        arguments["references"] = {"image": [draw(batch, image.input.channels, *size) for size in references]}
    return arguments


def call_theirs(net: nn.Module, family: Family, arguments: dict[str, Any]) -> Tensor:
    """Their image or video, from our arguments."""
    rest = {key: value for key, value in arguments.items() if key != "inputs"}
    inputs = dict(arguments["inputs"])
    drawn, text = inputs.pop(family.drawn), inputs.pop("text")
    if "references" in rest:
        rest["references"] = rest["references"]["image"]
    return family.call(net, drawn, text, **inputs, **rest)


CALLS: tuple[dict[str, Any], ...] = (
    dict(batch=2, height=12, width=8, length=7, seed=1),
    dict(batch=1, height=8, width=20, length=1, references=(), seed=2),
    dict(batch=3, height=6, width=10, length=13, references=((4, 26), (14, 6)), seed=3),
)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """`|ours - theirs| / |theirs|`, in the Euclidean norm."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-300)).item()


def output_error(family: Family) -> float:
    """The largest relative difference of the outputs, over several batch sizes, image shapes and text lengths."""
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    errors = []
    with torch.no_grad():
        for call in CALLS:
            arguments = random_call(family, **call)
            errors.append(relative(ours(**arguments)[family.drawn], call_theirs(theirs, family, arguments)))
    return max(errors)


def gradient_errors(family: Family) -> dict[str, float]:
    """By tensor of ours, and by input: the relative difference of the gradients of a weighted sum of the output.

    Of a tensor whose gradient all but cancels, such as a key's bias, the difference is taken relative to a millionth of
    the largest gradient instead.
    """
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    inputs = arguments["inputs"]
    found = []
    for net, run in (
        (theirs, lambda: call_theirs(theirs, family, arguments)),
        (ours, lambda: ours(**arguments)[family.drawn]),
    ):
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        for x in leaves.values():
            x.grad = None
        out = run()
        (out * torch.arange(out.numel()).sin().view_as(out)).sum().backward()
        parameters = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
        found.append((parameters, {f"input {name}": x.grad.clone() for name, x in leaves.items()}))
    (their_parameters, their_inputs), (our_parameters, our_inputs) = found
    fixed = {name: x for name, x in theirs.state_dict().items() if name not in their_parameters}  # position tables
    wanted = from_layout(their_parameters | fixed, family.small_config().model, family.layout) | their_inputs
    got = our_parameters | our_inputs
    floor = max(x.norm().item() for x in wanted.values()) * 1e-6
    return {
        name: ((got[name] - x).double().norm() / max(x.double().norm().item(), floor)).item()
        for name, x in wanted.items()
    }


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The joint and single-stream blocks of either side, in order."""
    lists = (
        "joint_transformer_blocks",
        "transformer_blocks",
        "single_transformer_blocks",
        "layers",
        "joint_blocks",
        "fused_blocks",
        "blocks",
        "double_blocks",
    )
    stack = getattr(net, "transformer", None)
    if stack is not None:
        return [*stack.blocks, *stack.single_blocks]
    return [block for name in lists for block in getattr(net, name, ())]


def image_of(output: Any, image_tokens: int, first: bool = False) -> Tensor:
    """The image in what a block gives; `first`: of a stream that begins with it."""
    # a single stream ends with the image; of two outputs that is the image which is as long
    pieces = (output,) if isinstance(output, Tensor) else output
    image = [x for x in pieces if x is not None and x.shape[1] >= image_tokens][-1]
    return image[:, :image_tokens] if first else image[:, -image_tokens:]


def block_outputs(net: nn.Module, image_tokens: int, run: Callable[[], Any], first: bool = False) -> list[Tensor]:
    """What each block gives for the image; `first`: of a stream that begins with it."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs.append(image_of(output, image_tokens, first).detach())

    handles = [block.register_forward_hook(keep) for block in blocks_of(net)]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return outputs

"""A model spread over processes: cut by heads, by tokens and by weights, in the order in which these compose."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from mmdit.layers.joint_attention import JointAttention
from mmdit.networks.model import MMDiTModel
from mmdit.networks.transformer import MMDiT
from mmdit.parallel.context_parallel import share_tokens
from mmdit.parallel.mesh_layout import CONTEXT, REPLICATE, SHARD, TENSOR, layout_of
from mmdit.parallel.tensor_parallel import check_heads, cut_by_heads, tensor_plan


def parallelize(
    model: nn.Module,
    mesh: DeviceMesh,
    *,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = torch.float32,
    checkpoint_activations: bool = False,
    offload_activations: bool = False,
) -> nn.Module:
    """Spread a network over the processes of a mesh, in place; called as before, it gives what it gave on one process.

    In the order in which torchtitan composes them: tensor parallel (`tensor`), context parallel of the Ulysses kind
    (`context`), activation checkpointing, and FSDP2 (`shard` and `context` together; with `replicate`, HSDP), each
    where the mesh has the dimension. Every process has the same weights when it calls this, and along `context` and
    `tensor` is given the same samples, with the same loss; along `shard` and `replicate` each is given samples of its
    own (`data_place`), and gradients are those of the mean of their losses.

    Args:
        model: an `MMDiT`, an `MMDiTModel`, or a module with them in it.
        mesh: its dimensions are named as those of `MeshLayout`, which makes one.
        param_dtype: what FSDP gathers and computes in, such as bfloat16, over weights that stay as they are; inputs
            are cast to it, timesteps and positions are not.
        reduce_dtype: what its gradients are summed in, where there is a `param_dtype`.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        offload_activations: keep in the host's memory what checkpointing keeps: what goes into each block.

    Raises:
        ValueError: a dimension is not one of `MeshLayout`, the processes do not divide the heads or hidden features, or
            an option has nothing to act on; the model is as it was.
    """
    check_layout(model, mesh)
    layout, stacks = layout_of(mesh), [module for module in model.modules() if isinstance(module, MMDiT)]
    if offload_activations and not (checkpoint_activations or all(stack.checkpoint_activations for stack in stacks)):
        raise ValueError("offload_activations is of what checkpointing keeps; set checkpoint_activations as well")
    if param_dtype is not None and layout.size == layout.tensor and SHARD not in (mesh.mesh_dim_names or ()):
        raise ValueError("param_dtype is FSDP's; the mesh needs a dimension 'shard', which may be of 1")
    data = _data_mesh(mesh) if layout.size > layout.tensor or param_dtype is not None else None

    if layout.tensor > 1:
        cut_by_heads(model, mesh[TENSOR])
    if layout.context > 1:
        share_tokens(model, mesh.get_group(CONTEXT))
    for stack in stacks:
        stack.checkpoint_activations |= checkpoint_activations
        if offload_activations:
            stack._run = partial(_offloading, stack._run)  # type: ignore[method-assign]
    if data is not None:
        # timesteps and positions need their own dtype, so FSDP is not to cast what it is given
        cast = {} if param_dtype is None else dict(param_dtype=param_dtype, reduce_dtype=reduce_dtype)
        _shard(model, stacks, data, MixedPrecisionPolicy(**cast, cast_forward_inputs=False))
    if param_dtype is not None:
        model.register_forward_pre_hook(partial(_cast, param_dtype), with_kwargs=True)
    return model


def check_layout(model: nn.Module, mesh: DeviceMesh) -> None:
    """Raises ValueError where a model, which may be on the meta device, can't be spread over a mesh."""
    layout, held = layout_of(mesh), [isinstance(module, MMDiT) for module in model.modules()]
    if not any(held):
        raise ValueError(f"parallelize takes an MMDiT or MMDiTModel, or what holds one, got {type(model).__name__}")
    routed = any(isinstance(module, MMDiT) and module.routing is not None for module in model.modules())
    if routed and layout.tensor * layout.context > 1:
        together = "tensor" if layout.tensor > 1 else "context"
        raise ValueError(
            f"{together}={getattr(layout, together)}: routing draws tokens in each process, and these would share the "
            "tokens of a sample; leave model.routing out"
        )
    if layout.tensor > 1:
        tensor_plan(model, layout.tensor)
    if layout.context > 1:
        asked = f"context={layout.context}" + (f" x tensor={layout.tensor}" if layout.tensor > 1 else "")
        for name, module in model.named_modules():
            if isinstance(module, JointAttention):
                check_heads(module, name, layout.tensor * layout.context, asked)


def _data_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """What FSDP shards along, behind what it replicates along."""
    layout = layout_of(mesh)
    across: Any = SHARD if layout.context == 1 else CONTEXT
    if layout.context > 1 and layout.shard > 1:
        across = "shard_context"
        mesh[SHARD, CONTEXT]._flatten(across)
    if across not in (mesh.mesh_dim_names or ()) and layout.context == 1:
        raise ValueError("mesh: 'replicate' goes with a dimension 'shard', which may be of 1")
    return mesh[REPLICATE, across] if layout.replicate > 1 else mesh[across]


def _shard(model: nn.Module, stacks: list[MMDiT], mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    blocks = [block for stack in stacks for block in (*stack.blocks, *stack.single_blocks)]
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        if mesh.device_type == "cpu":  # gloo's average has been wrong silently (pytorch/pytorch#162338)
            module.set_force_sum_reduction_for_comms(True)

    if isinstance(model, MMDiTModel):
        model.precompute_modulation = _refused  # type: ignore[method-assign]


def _refused(*given: Any, **named: Any) -> Any:
    raise ValueError(
        "precompute_modulation reads weights that FSDP has sharded; ask a network of one process, which takes up the "
        "whole_state of this one"
    )


def _offloading(run: Any, block: nn.Module, tokens: Any, **arguments: Any) -> Any:
    """A block's call, of which checkpointing keeps what goes in: on the host."""
    pinned = tokens[0].device.type == "cuda"
    with torch.autograd.graph.save_on_cpu(pin_memory=pinned):
        return run(block, tokens, **arguments)


def _cast(dtype: torch.dtype, model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The inputs of a network in what it computes in; its timestep, guidance and positions as they are."""

    def cast(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(dtype) if x.is_floating_point() else x
        if isinstance(x, dict):
            return {name: cast(each) for name, each in x.items()}
        return type(x)(map(cast, x)) if isinstance(x, list | tuple) and not hasattr(x, "_fields") else x

    inputs = ("inputs", "references") if isinstance(model, MMDiTModel) else ("modality_tokens", "time_cond")
    faces = ("text_tokens", "image_tokens")
    named = {name: cast(x) if name in (*inputs, *faces) else x for name, x in named.items()}
    return tuple(cast(x) if i == 0 else x for i, x in enumerate(given)), named

"""Tensor parallel: each process computes some heads, and some hidden features of the feedforwards.

As Shoeybi et al. 2019 (arXiv 1909.08053), section 3: what goes into an attention or a feedforward is whole on every
process, what comes out is summed over them. Between these, tokens, norms and residuals are whole. In a block where both
stand side by side, as in FLUX, their outputs are added first and summed once.

- The rows of the joined q, k, v projection are ordered by head first, so that a process has whole heads; the norms of
  queries and keys are cut with their heads, or whole where all heads share one.
- Modulations are cut by rows, and what they give is gathered: they hold a third of an SD3 block's weights, and give
  one vector a sample, which is small beside its tokens. Where the processes do not divide them, they stay whole.
- Everything else is whole: ends, embeddings, and the small weights of norms and residuals.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module
from torch.utils._pytree import tree_map_only

from mmdit.layers.attention import GroupedAttention
from mmdit.layers.feedforward import FeedForward
from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.modulation import Modulation, ModulationProjection, WholeModulation
from mmdit.layers.norms import MultiHeadRMSNorm
from mmdit.layers.output_gate import OutputGate
from mmdit.layers.projections import AdaptiveOut, AdaptiveQKV, DenseOut, DenseQKV, SampleGate, TokenGate
from mmdit.networks.parallel_block import ParallelBlock
from mmdit.parallel.cuts import OF_PARTS, OF_SUM, WHOLE, Cut, cut_weights
from mmdit.parallel.exchanges import gathered, spread, summed


class AttentionStyle(ParallelStyle):
    """Some heads of a `JointAttention` on each process. `alone`: its tokens are spread before it, and its outputs
    summed behind it; else whoever holds it does so."""

    def __init__(self, *, alone: bool = True) -> None:
        self.alone = alone

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, JointAttention)
        processes, rows = mesh.size(), module.dim_head * module.heads
        for projection in module.to_qkv:
            if isinstance(projection, DenseQKV):
                cut_linear(projection.linear, 0, [count * module.dim_head for count in projection.counts], mesh)
                projection.counts = tuple(count // processes for count in projection.counts)
                projection.unused //= processes
            elif isinstance(projection, AdaptiveQKV):
                parts = (rows,) * projection.parts
                cut_weights(projection, _present(projection, weight=Cut(1, parts), bias=Cut(0, parts)), mesh)
                projection.heads //= processes
        for projection in module.to_out:
            if isinstance(projection, DenseOut):
                linear = projection.linear
                cut_linear(linear, 1, [rows] * (linear.in_features // rows), mesh)
            elif isinstance(projection, AdaptiveOut):
                cut_weights(projection, _present(projection, weight=Cut(2, (rows,)), bias=OF_SUM), mesh)
                projection.heads //= processes
        for gate in module.gates:
            if isinstance(gate, TokenGate | SampleGate):
                cut_linear(gate.linear, 0, [gate.linear.out_features], mesh)
                gate.heads //= processes
        for out_gate in module.out_gates:
            if isinstance(out_gate, OutputGate):
                cut_linear(out_gate.linear, 0, [out_gate.linear.out_features], mesh)
        for norm in (*module.q_norms, *module.k_norms):
            if isinstance(norm, MultiHeadRMSNorm):
                heads = norm.weight.shape[0]
                cut_weights(norm, {"weight": Cut(0, (heads,)) if norm.weight.ndim == 2 else OF_PARTS}, mesh)
        module.register_forward_pre_hook(partial(_spread_arguments, mesh.get_group(), self.alone), with_kwargs=True)
        if self.alone:
            module.register_forward_hook(partial(_sum_outputs, mesh.get_group()))
        return module


class FeedForwardStyle(ParallelStyle):
    """Some hidden features of a `FeedForward` on each process; `alone`: as of an attention."""

    def __init__(self, *, alone: bool = True) -> None:
        self.alone = alone

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, FeedForward)
        hidden = module.proj_in.out_features // (2 if module.gated else 1)
        cut_linear(module.proj_in, 0, [hidden] * (2 if module.gated else 1), mesh)
        cut_linear(module.proj_out, 1, [hidden] * (module.proj_out.in_features // hidden), mesh)
        if self.alone:
            module.register_forward_pre_hook(partial(_spread_first, mesh.get_group()))
            module.register_forward_hook(partial(_sum_outputs, mesh.get_group()))
        return module


class ParallelBlockStyle(ParallelStyle):
    """Attention and feedforward side by side: what both read is spread once, and what they add up to is summed once."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, ParallelBlock)
        AttentionStyle(alone=False)._apply(module.attn, mesh)
        FeedForwardStyle(alone=False)._apply(module.feedforward, mesh)
        group = mesh.get_group()
        module.norm.register_forward_hook(lambda norm, given, out: spread(out, group))
        module.norm_behind.register_forward_pre_hook(lambda norm, given: (summed(given[0], group),))
        return module


class ModulationStyle(ParallelStyle):
    """Some rows of a modulation's linear on each process, whose results are gathered."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, ModulationProjection)
        linear, group, own = module.linear, mesh.get_group(), module.linear.out_features // mesh.size()
        cut_linear(linear, 0, [linear.out_features], mesh)

        def gather(linear: nn.Module, given: Any, out: Tensor) -> Tensor:
            return gathered(out, group, out.ndim - 1, [own] * mesh.size())

        linear.register_forward_pre_hook(lambda module, given: (spread(given[0], group),))
        linear.register_forward_hook(gather)
        return module


def cut_linear(linear: nn.Linear, dim: int, parts: list[int], mesh: DeviceMesh) -> None:
    """Cut a linear's rows (dim 0), its bias with them; or its columns, whose results are summed with one bias."""
    bias = Cut(0, tuple(parts)) if dim == 0 else OF_SUM
    cut_weights(linear, _present(linear, weight=Cut(dim, tuple(parts)), bias=bias), mesh)


def tensor_plan(model: nn.Module, processes: int) -> dict[str, ParallelStyle]:
    """What `parallelize_module` does to each module, by name.

    Raises:
        ValueError: a layer can't be cut in so many.
    """
    plan: dict[str, ParallelStyle] = {}
    inner: set[nn.Module] = set()  # what a block that is planned for holds
    for name, module in model.named_modules():
        if isinstance(module, JointAttention):
            check_heads(module, name, processes, f"tensor={processes}")
            style: ParallelStyle = AttentionStyle()
        elif isinstance(module, FeedForward):
            hidden = module.proj_in.out_features // (2 if module.gated else 1)
            if hidden % processes:
                raise ValueError(f"tensor={processes} does not divide the {hidden} hidden features of {name}")
            style = FeedForwardStyle()
        elif isinstance(module, Modulation | WholeModulation) and module.linear.out_features % processes == 0:
            style = ModulationStyle()
        elif isinstance(module, ParallelBlock):
            style = ParallelBlockStyle()
            inner |= {module.attn, module.feedforward}
        else:
            continue
        if module not in inner:
            plan[name] = style
    return plan


def cut_by_heads(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a model along `mesh`, of one dimension: all of its weights are DTensors there afterwards.

    Raises:
        ValueError: a layer can't be cut in so many; the model is as it was.
    """
    parallelize_module(model, mesh, tensor_plan(model, mesh.size()))
    for module in model.modules():
        rest = [name for name, weight in module._parameters.items() if weight is not None]
        if rest and not hasattr(module, "cuts"):
            cut_weights(module, dict.fromkeys(rest, WHOLE), mesh)


def check_heads(module: JointAttention, name: str, processes: int, asked: str) -> None:
    """Raises ValueError where the processes do not divide an attention's heads."""
    attend: Any = module.attend
    kv_heads = module.heads // attend.group if isinstance(attend, GroupedAttention) else module.heads
    for heads, what in ((module.heads, "heads"), (kv_heads, "heads of keys and values")):
        if heads % processes:
            raise ValueError(f"{asked}: {processes} processes do not divide the {heads} {what} of {name}")


def _present(module: nn.Module, **cuts: Cut) -> dict[str, Cut]:
    """Of the weights that a module has."""
    return {name: cut for name, cut in cuts.items() if module._parameters.get(name) is not None}


def _sum_outputs(group: ProcessGroup, module: nn.Module, given: Any, out: Any) -> Any:
    if isinstance(out, Tensor):
        return summed(out, group)
    return tuple(None if x is None else summed(x, group) for x in out)


def _spread_first(group: ProcessGroup, module: nn.Module, given: tuple[Any, ...]) -> Any:
    """Of a feedforward: the tokens."""
    return (spread(given[0], group), *given[1:])


def _spread_arguments(
    group: ProcessGroup, tokens: bool, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    """Of an attention: the tokens, and the conditioning that its gates come from; each tensor once."""
    names = ("inputs", "masks", "cond", "rotary", "packing")
    arguments = dict(zip(names, given, strict=False)) | named
    known: dict[int, Tensor] = {}

    def once(x: Tensor) -> Tensor:
        if id(x) not in known:
            known[id(x)] = spread(x, group)
        return known[id(x)]

    spread_out = ("inputs", "cond") if tokens else ("cond",)
    return (), arguments | {name: tree_map_only(Tensor, once, arguments.get(name)) for name in spread_out}

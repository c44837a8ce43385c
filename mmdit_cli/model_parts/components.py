"""Which module belongs to which component of the block, so that time, FLOPs and parameters can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.modulation import NoModulation, WholeModulation
from mmdit.layers.output_gate import NoOutputGate
from mmdit.layers.projections import NoGate
from mmdit.layers.registers import NoRegisterTokens
from mmdit.layers.residuals import NestedWidth, PlainWidth
from mmdit.networks.model import MMDiTModel
from mmdit.networks.parallel_block import JOINED, ParallelBlock
from mmdit.networks.refiner import Refiner
from mmdit.networks.transformer import MMDiT, MMDiTBlock

OTHER = "other"
# modules that compute nothing, so that a table need not show them
SILENT = (nn.Identity, NoGate, NoModulation, NoOutputGate, NoRegisterTokens, PlainWidth, NestedWidth)


@dataclass
class Component:
    """Modules that do one job for one modality (or for all of them: `modality` is None), over all blocks."""

    kind: str
    modality: str | None
    modules: list[nn.Module] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.kind if self.modality is None else f"{self.kind}, {self.modality}"

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in {id(p): p for m in self.modules for p in m.parameters()}.values())


def find_components(model: nn.Module) -> list[Component]:
    """The components of a model, in the order of the computation. No module is inside another one's."""
    found: dict[tuple[str, str | None], Component] = {}
    for kind, modality, module in sorted(_labelled(model), key=lambda item: _ORDER.index(item[0])):
        if not isinstance(module, SILENT):
            found.setdefault((kind, modality), Component(kind, modality)).modules.append(module)
    return list(found.values())


_ORDER = (
    "embedding",
    "conditioning",
    "rotary positions",
    "register tokens",
    "modulation",
    "norm",
    "adaptive gate",
    "qkv projection",
    "qk norm",
    "attention",
    "second attention",
    "output gate",
    "out projection",
    "feedforward",
    "residual",
    "output head",
)


def _labelled(model: nn.Module) -> Iterator[tuple[str, str | None, nn.Module]]:
    """(kind, modality, module) for every module that has a job."""
    blocks = [module for module in model.modules() if isinstance(module, MMDiTBlock)]
    second = {id(attention) for block in blocks for attention in block.dual_attns}
    for module in model.modules():
        if isinstance(module, MMDiTModel):
            yield from (("embedding", name, m) for name, m in module.inputs.items())
            yield from (("embedding", name, m) for name, m in module.type_embeds.items())
            yield from (("embedding", name, m) for name, m in (*module.pads.items(), *module.reference_inputs.items()))
            yield from (("output head", name, m) for name, m in module.outputs.items())
            numbers = (module.time_embed, module.second_time_embed, module.guidance_embed)
            vectors = (module.pooled_embed, module.means_embed)
            embeds = (*numbers, *vectors, module.class_embed)
            yield from (("conditioning", None, m) for m in embeds if m is not None)
        elif isinstance(module, Refiner):
            name = module.transformer.modality_names[0]
            yield from (("conditioning", name, m) for m in (module.time_embed, module.mean_embed) if m is not None)
        elif isinstance(module, MMDiT):
            for name, norm, registers in zip(module.modality_names, module.final_norms, module.registers, strict=True):
                yield "norm", name, norm
                yield "register tokens", name, registers
            if isinstance(module.whole_modulation, WholeModulation):
                yield "modulation", None, module.whole_modulation
            for name, modulation in zip(module.modality_names, module.shared_modulations, strict=False):
                yield "modulation", name, modulation
            for name, modulation in zip(module.modality_names, module.shared_single_modulations, strict=False):
                yield "modulation", name, modulation
            if module.shared_single_modulation is not None:
                (name, *others) = module.modality_names
                yield "modulation", JOINED if others else name, module.shared_single_modulation
            if module.rotary is not None:
                yield "rotary positions", None, module.rotary
            if module.expand_streams.streams > 1:
                yield "residual", None, module.expand_streams
                yield "residual", None, module.reduce_streams
        elif isinstance(module, MMDiTBlock):
            for name, modulation in zip(module.kinds, module.modulations, strict=True):
                yield "modulation", name, modulation
            for i, name in enumerate(module.modality_names):
                yield from (("norm", name, norms[i]) for norms in (module.attn_norms, module.ff_norms))
                yield from (("norm", name, norms[i]) for norms in (module.attn_norms_behind, module.ff_norms_behind))
                yield "feedforward", name, module.feedforwards[i]
                for residual in (module.attn_residuals[i], module.ff_residuals[i]):
                    yield from (("residual", name, half) for half in residual.children())
        elif isinstance(module, ParallelBlock):
            (name,) = module.modality_names
            yield "modulation", name, module.modulation
            yield from (("norm", name, norm) for norm in (module.norm, module.norm_behind))
            yield "feedforward", name, module.feedforward
            yield from (("residual", name, half) for half in module.residual.children())
        elif isinstance(module, JointAttention):
            for i, name in enumerate(module.names):
                yield "adaptive gate", name, module.gates[i]
                yield "qkv projection", name, module.to_qkv[i]
                yield from (("qk norm", name, norm) for norm in (module.q_norms[i], module.k_norms[i]))
                yield "output gate", name, module.out_gates[i]
                yield "out projection", name, module.to_out[i]
            if id(module) in second:
                yield "second attention", module.names[0], module.attend
            else:
                yield "attention", module.names[0] if len(module.names) == 1 else None, module.attend

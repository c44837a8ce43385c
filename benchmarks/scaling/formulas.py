"""Memory, communication and time of one training step on N GPUs, from a model's own figures. Formulas alone.

FSDP2 with bf16 compute and float32 master weights, gradients reduced in float32 (its `MixedPrecisionPolicy`); AdamW.
Sequence parallelism: DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509, section 3) or ring attention (Liu et al.
2023, arXiv 2310.01889). Bandwidth alone: the latency of many small messages is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

BF16, FP32 = 2, 4  # bytes
KEPT = 4 * FP32  # a parameter's master weight, gradient and two AdamW states


@dataclass(frozen=True)
class Model:
    """What the tool says of a model at one sample: parameters of all and of each block, FLOPs of a step, activations in
    bytes (bf16) that the forward pass leaves, all and with blocks recomputed; tokens and width of each attention."""

    name: str
    parameters: int
    blocks: tuple[int, ...]
    step_flops: int
    recomputed_flops: int
    activations: int
    activations_recomputed: int
    tokens: int
    width: int
    attentions: int

    @property
    def rest(self) -> int:
        """Parameters outside the blocks: embeddings, conditioning, output."""
        return self.parameters - sum(self.blocks)

    @property
    def held_recomputing(self) -> int:
        """Bytes of activations where blocks are recomputed: what is left, and those of the block that is recomputed."""
        return self.activations_recomputed + self.activations // len(self.blocks)


@dataclass(frozen=True)
class Machine:
    """FLOP/s that a GPU reaches, its memory, and bytes/s it sends (in one direction) inside and outside its node."""

    flops_per_s: float
    memory: float
    inside: float
    outside: float
    node: int = 8


@dataclass(frozen=True)
class Plan:
    """N GPUs, S of which share a sample's sequence; sharded over all, or (hybrid) in a node and repeated over nodes."""

    gpus: int
    sequence: int = 1
    hybrid: bool = False
    recompute: bool = True

    @property
    def samples(self) -> int:
        """A step's, one for each group of S."""
        return self.gpus // self.sequence


def shards(plan: Plan, machine: Machine) -> int:
    return min(plan.gpus, machine.node) if plan.hybrid else plan.gpus


def memory(model: Model, plan: Plan, machine: Machine) -> dict[str, float]:
    """Bytes a GPU holds: its shard, what is gathered, its part of the activations.

    Gathered: the parameters outside the blocks, two blocks (one is computed while the next comes) and one block's
    gradient before it is scattered.
    """
    count, largest = shards(plan, machine), max(model.blocks)
    one = count == 1
    activations = model.held_recomputing if plan.recompute else model.activations
    return {
        "shard": KEPT * model.parameters / count,
        "gathered": BF16 * (model.parameters if one else model.rest + 2 * largest) + (0 if one else FP32 * largest),
        "activations": activations / plan.sequence,
    }


def gathered_bytes(size: float, count: int) -> float:
    """Sent by each GPU in an all-gather of `size` bytes, or in a reduce-scatter: (N - 1) / N of them."""
    return size * (count - 1) / count


def sharding_bytes(model: Model, plan: Plan, machine: Machine) -> tuple[float, float]:
    """Sent by each GPU in a step, inside its node and outside: two all-gathers in bf16, a reduce-scatter in float32,
    and where nodes repeat the shards an all-reduce between them (2 (M - 1) / M of a shard)."""
    count = shards(plan, machine)
    ring = gathered_bytes((2 * BF16 + FP32) * model.parameters, count)
    if not plan.hybrid:
        # as many rings as a node has adapters: each GPU's carries its part of what enters and leaves the node
        return ring, ring / machine.node if count > machine.node else 0.0
    nodes = plan.gpus // count
    return ring, 2 * gathered_bytes(FP32 * model.parameters / count, nodes) if nodes > 1 else 0.0


def ulysses_bytes(model: Model, plan: Plan) -> float:
    """Sent by each GPU in a step: q, k, v and the output change from tokens to heads and back, in forward, in backward
    and, recomputed, once more: each time (S - 1) / S of n / S rows."""
    part = model.tokens / plan.sequence * model.width * BF16
    return (3 if plan.recompute else 2) * 4 * gathered_bytes(part, plan.sequence) * model.attentions


def ring_bytes(model: Model, plan: Plan) -> float:
    """Sent by each GPU in a step: k and v go around S - 1 times, and in backward their gradients (float32) as well."""
    part = model.tokens / plan.sequence * model.width * (plan.sequence - 1)
    forward, backward = 2 * BF16 * part, 2 * (BF16 + FP32) * part
    return ((2 if plan.recompute else 1) * forward + backward) * model.attentions


@dataclass(frozen=True)
class Step:
    """Seconds of a step's parts on a GPU. Sequence parallelism waits; sharding can run beside the computation."""

    compute: float
    sharding: float
    sequence: float

    @property
    def overlapped(self) -> float:
        return max(self.compute, self.sharding) + self.sequence

    @property
    def one_after_the_other(self) -> float:
        return self.compute + self.sharding + self.sequence


def step(model: Model, plan: Plan, machine: Machine) -> Step:
    flops = model.recomputed_flops if plan.recompute else model.step_flops
    inside, outside = sharding_bytes(model, plan, machine)
    within, between = inside / machine.inside, outside / machine.outside
    return Step(
        compute=flops / plan.sequence / machine.flops_per_s,
        # one ring uses both links at once; the all-reduce between nodes follows the scatter within them
        sharding=within + between if plan.hybrid else max(within, between),
        sequence=ulysses_bytes(model, plan) / machine.inside if plan.sequence > 1 else 0.0,
    )

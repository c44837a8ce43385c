"""The document: each model on 1 to 1024 GPUs, with conclusions chosen by the figures."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.scaling.figures import model_of
from benchmarks.scaling.formulas import (
    KEPT,
    Machine,
    Model,
    Plan,
    memory,
    ring_bytes,
    sharding_bytes,
    step,
    ulysses_bytes,
)
from mmdit_cli.output.units import bytes_, flops

MODELS = ("sd3.5-large", "qwen-image")
GPUS = (1, 8, 64, 256, 1024)
SEQUENCE = 8
IMAGES = 1e9


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def plans() -> list[Plan]:
    found = []
    for gpus in GPUS:
        found.append(Plan(gpus))
        if gpus > SEQUENCE:
            found.append(Plan(gpus, hybrid=True))
        if gpus >= SEQUENCE:
            found.append(Plan(gpus, sequence=SEQUENCE))
    return found


def says(plan: Plan) -> str:
    sharded = "" if plan.gpus == 1 else ", sharded in a node" if plan.hybrid else ", sharded over all"
    return f"{plan.gpus}{sharded}{f', {plan.sequence} a sample' if plan.sequence > 1 else ''}"


def section(model: Model, machine: Machine) -> list[str]:
    text = [f"## {model.name}", ""]
    count, shapes = (f"mmdit {command} -c {model.name}" for command in ("flops", "shape-check"))
    fits = f"mmdit profile -c {model.name} --mode train --dtype bf16 --precision pure --no-ema --estimate"
    recomputing = "--set model.checkpoint_activations=true"
    text += table(
        ["figure", "value", "command"],
        [
            ["parameters", f"{model.parameters:,}", f"`{count}`"],
            ["parameters of the largest block", f"{max(model.blocks):,}", f"`{shapes}`"],
            ["blocks, each with an attention", f"depth: {model.attentions}", f"`mmdit configs {model.name}`"],
            ["tokens of a sample", f"{model.tokens:,}", f"`{count}`"],
            ["width", f"{model.width}", f"`{shapes}`"],
            ["executed FLOPs of a step", flops(model.step_flops), f"`{count}`"],
            ["the same, blocks recomputed", flops(model.recomputed_flops), f"`{count} {recomputing}`"],
            ["activations of a sample, bf16", bytes_(model.activations), f"`{fits}`"],
            ["the same, blocks recomputed", bytes_(model.activations_recomputed), f"`{fits} {recomputing}`"],
        ],
    )
    rows = []
    for plan in plans():
        held = memory(model, plan, machine)
        total = sum(held.values())
        rows.append(
            [
                says(plan),
                *(bytes_(int(x)) for x in held.values()),
                bytes_(int(total)),
                "yes" if total <= machine.memory else "no",
            ]
        )
    text += ["Memory of a GPU, one sample for each group, blocks recomputed:", ""]
    text += table(["GPUs", "shard", "gathered", "activations", "in all", f"fits {bytes_(int(machine.memory))}"], rows)
    rows = []
    for plan in plans():
        inside, outside = sharding_bytes(model, plan, machine)
        took = step(model, plan, machine)
        rate = plan.samples / took.overlapped
        alone = step(model, Plan(1), machine).compute
        rows.append(
            [
                says(plan),
                bytes_(int(inside)),
                bytes_(int(outside)),
                f"{bytes_(int(ulysses_bytes(model, plan)))}" if plan.sequence > 1 else "",
                f"{bytes_(int(ring_bytes(model, plan)))}" if plan.sequence > 1 else "",
                f"{took.compute:.3f} s",
                f"{took.overlapped:.3f} s",
                f"{took.one_after_the_other:.3f} s",
                f"{rate:,.1f}",
                f"{rate * alone / plan.gpus:.0%}",
                f"{IMAGES / rate / 86400:,.1f} days",
            ]
        )
    text += ["Sent by each GPU in a step, and the step's time:", ""]
    text += table(
        [
            "GPUs",
            "in the node",
            "between nodes",
            "Ulysses",
            "or ring",
            "computing",
            "step, overlapped",
            "nothing overlapped",
            "samples/s",
            "efficiency",
            f"{IMAGES:.0e} images",
        ],
        rows,
    )
    return [*text, *conclusions(model, machine), ""]


def conclusions(model: Model, machine: Machine) -> list[str]:
    """Sentences, chosen by the figures."""
    first = next((plan for plan in plans() if sum(memory(model, plan, machine).values()) <= machine.memory), None)
    text = ["- No plan fits." if first is None else f"- The first plan that fits: {says(first)}."]
    for hybrid in (False, True):
        steps = {n: step(model, Plan(n, hybrid=hybrid), machine) for n in GPUS if n > machine.node}
        shares = {n: took.sharding / took.compute for n, took in steps.items()}
        what = "in a node (HSDP)" if hybrid else "over all GPUs"
        bound = [n for n, share in shares.items() if share > 1]
        if bound:
            more = -(-shares[bound[0]] // 1)
            text.append(
                f"- Sharded {what}, a sample a GPU: from {bound[0]} GPUs on communication is the limit, at "
                f"{shares[bound[0]]:.1f} times the computation; {more:.0f} samples a GPU would hide it."
            )
        else:
            text.append(
                f"- Sharded {what}, a sample a GPU: communication takes {min(shares.values()):.0%} to "
                f"{max(shares.values()):.0%} of the computation's time, behind which it can hide."
            )
    gather = 2 * max(model.blocks) / min(machine.inside, machine.node * machine.outside)
    compute = model.recomputed_flops / 4 / len(model.blocks) / machine.flops_per_s
    verdict = "hides behind" if gather <= compute else "does not hide behind"
    text.append(
        f"- Block by block: gathering one between nodes takes {gather * 1e3:.1f} ms, which {verdict} the forward pass of "
        f"the one before, {compute * 1e3:.1f} ms for one sample."
    )
    whole = Plan(SEQUENCE, sequence=SEQUENCE)
    took, ratio = step(model, whole, machine), ring_bytes(model, whole) / ulysses_bytes(model, whole)
    limit = "gathering weights, not computing, is then the limit" if took.sharding > took.compute else "computing"
    text.append(
        f"- {SEQUENCE} GPUs on one sample compute {took.compute * 1e3:.0f} ms and exchange sequences for "
        f"{took.sequence * 1e3:.1f} ms; {limit}. A ring sends {ratio:.1f} times as much, and can overlap it. It pays for "
        "latency, and for sequences whose activations do not fit; not for throughput."
    )
    return text


def document(machine: Machine, card: str, utilization: float) -> str:
    text = [
        "# Scaling, on paper",
        "",
        "Written by `python -m benchmarks.scaling --write docs/reports/scaling.md`. **Nothing here was measured.** FLOPs, parameters "
        "and activations are the tool's; the rest is arithmetic (`benchmarks/scaling/formulas.py`) from these inputs, which "
        "are options of the script:",
        "",
    ]
    text += table(
        ["input", "value", "source"],
        [
            [
                "card",
                f"{card}, {machine.flops_per_s / utilization / 1e12:.0f} TFLOP/s dense bf16",
                "`--card h100` of `mmdit flops`",
            ],
            [
                "utilization",
                f"{utilization:.0%} of it, by executed FLOPs",
                "assumed; measure yours with `mmdit profile`",
            ],
            ["memory", bytes_(int(machine.memory)), "the card's"],
            ["inside a node of 8", f"{machine.inside / 1e9:.0f} GB/s a GPU and direction", "NVLink 4, H100 datasheet"],
            ["between nodes", f"{machine.outside / 1e9:.0f} GB/s a GPU and direction", "one 400 Gb/s adapter a GPU"],
        ],
    )
    text += [
        "Formulas, P parameters, N GPUs in a shard group, S GPUs a sample, n tokens of width d, A attentions:",
        "",
        f"- Memory: {KEPT} P / N bytes (float32 weights, gradients, two AdamW states) + 2 bytes of the parameters outside the",
        "  blocks and of two blocks + 4 bytes of one block's gradient + activations / S (what a forward pass of recomputed",
        "  blocks leaves, and one block's part of what it leaves otherwise).",
        "- FSDP2: each GPU sends (N - 1) / N of (2 + 2 + 4) P bytes: two all-gathers in bf16, a reduce-scatter in float32.",
        "  Over nodes, in 8 rings over 8 adapters, each of which carries an eighth of it; the slower of the two links counts.",
        "- HSDP: the same with N = 8 in the node, and 2 (M - 1) / M of 4 P / 8 bytes between M nodes.",
        "- Ulysses: 3 × 4 × 2 n d / S × (S - 1) / S × A bytes (q, k, v and output; forward, backward, recomputed).",
        "- Ring: (2 × 4 + 12) n d / S × (S - 1) × A bytes (k and v; in backward their float32 gradients as well).",
        "- Time: FLOPs / S over the card's, against bytes over bandwidth; overlapped: the larger of the two, and the",
        "  sequence's exchange, which nothing hides. Efficiency: samples/s over N times those of one GPU that had the memory.",
        "",
    ]
    for name in MODELS:
        text += section(model_of(name), machine)
    return "\n".join(text).rstrip() + "\n"

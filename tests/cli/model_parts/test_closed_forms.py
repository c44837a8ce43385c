"""The FLOPs of every variant, forward and backward, against the same written out by hand: 2 a multiply-add."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.tool_config import as_tool_config
from tests.support.marks import slow_but

B, COND, HEADS, DIM_HEAD, DEPTH = 2, 6, 2, 4, 3
INNER = HEADS * DIM_HEAD
LENGTH, WIDTH = {"text": 7, "image": 9}, {"text": 12, "image": 20}
JOINT_LENGTH = sum(LENGTH.values())


@dataclass
class Sum:
    """Products added up. A product's backward is two of its size, one for each factor; `fixed` needs only one, since
    one factor came from outside and takes no gradient."""

    forward: int = 0
    backward: int = 0

    def product(self, multiply_adds: int, *, fixed: bool = False) -> None:
        self.forward += 2 * multiply_adds
        self.backward += (1 if fixed else 2) * 2 * multiply_adds

    def modulation(self, width: int, parts: int) -> None:
        self.product(B * COND * width * parts, fixed=True)  # of the conditioning vector

    def attention(self, queries: int, keys: int) -> None:
        for _ in ("scores", "values"):
            self.product(B * HEADS * queries * keys * DIM_HEAD)

    def projections(self, length: int, width: int, *, qkv: int = 3, out: int = 1, weights: int = 1) -> None:
        self.product(weights * B * length * width * INNER * (qkv + out))

    def feedforward(self, length: int, width: int, matrices: int = 2) -> None:
        self.product(matrices * B * length * width * 4 * width)


def block(total: Sum, lengths: dict[str, int] = LENGTH, *, widths: dict[str, int] = WIDTH, parts: int = 6) -> None:
    """A block of the plain kind."""
    for name, length in lengths.items():
        total.modulation(widths[name], parts)
        total.projections(length, widths[name])
        total.feedforward(length, widths[name])
    total.attention(sum(lengths.values()), sum(lengths.values()))


def standard() -> Sum:
    total = Sum()
    for _ in range(DEPTH):
        block(total)
    return total


def unconditioned() -> Sum:
    total = Sum()
    for _ in range(DEPTH):
        block(total, parts=0)
    return total


def gated_feedforward() -> Sum:
    total = standard()
    for name in LENGTH:
        total.product(DEPTH * B * LENGTH[name] * WIDTH[name] * 4 * WIDTH[name])  # the gate beside the value
    return total


def convolutions() -> Sum:
    """As torch counts them: at the ends, too, every token has all of its neighbours."""
    total = standard()
    for _ in range(DEPTH):
        total.feedforward(LENGTH["image"], WIDTH["image"], matrices=2 * (3 - 1))
        total.product((5 - 1) * B * LENGTH["text"] * WIDTH["text"] * INNER)
    return total


def output_gates() -> Sum:
    """One product more of the size of the out projection."""
    total = standard()
    for name in LENGTH:
        total.projections(DEPTH * LENGTH[name], WIDTH[name], qkv=0)
    return total


def output_gates_per_head() -> Sum:
    total = standard()
    for name in LENGTH:
        total.product(DEPTH * B * LENGTH[name] * WIDTH[name] * HEADS)
    return total


def one_modality_streams() -> Sum:
    total = Sum()
    for _ in range(DEPTH):
        block(total)
    for _ in range(2):
        block(total, {"image": LENGTH["image"]})
    return total


def registers() -> Sum:
    total = Sum()
    for _ in range(DEPTH):
        block(total, {"text": LENGTH["text"] + 2, "image": LENGTH["image"] + 5})
    return total


def last_block_discards(total: Sum, parts: int) -> Sum:
    """Two whole blocks, and one in which text has keys and values alone."""
    for _ in range(DEPTH - 1):
        block(total)
    total.modulation(WIDTH["text"], parts)
    total.projections(LENGTH["text"], WIDTH["text"], qkv=2, out=0)
    total.modulation(WIDTH["image"], 6)
    total.projections(LENGTH["image"], WIDTH["image"])
    total.feedforward(LENGTH["image"], WIDTH["image"])
    total.attention(LENGTH["image"], JOINT_LENGTH)
    return total


def skipped_feedforward() -> Sum:
    total = standard()
    less = Sum()
    less.modulation(WIDTH["text"], 3)
    less.feedforward(LENGTH["text"], WIDTH["text"])
    return Sum(total.forward - less.forward, total.backward - less.backward)


def adaptive(weights: int, gating: str) -> Sum:
    """By token, every weight projects every token; by sample, the weights are mixed first, and project once."""
    total = Sum()
    for _ in range(DEPTH):
        for name, length in LENGTH.items():
            total.modulation(WIDTH[name], 6)
            if gating == "token":
                total.product(B * length * WIDTH[name] * HEADS * weights)
                total.projections(length, WIDTH[name], weights=weights)
            else:
                total.product(B * COND * HEADS * weights, fixed=True)
                total.projections(length, WIDTH[name])
            total.feedforward(length, WIDTH[name])
        total.attention(JOINT_LENGTH, JOINT_LENGTH)
    return total


def streams(count: int, *, dynamic: bool) -> Sum:
    """A token's `s` streams are mixed into one to read and `s` to keep, twice a block; where it is dynamic, each stream
    says how by a product with `1 + s + 1` columns."""
    total = standard()
    for index in range(DEPTH):
        for sublayer in ("attention", "feedforward"):
            for name, length in LENGTH.items():
                first = index == 0 and sublayer == "attention"  # whose streams are copies of the input
                total.product(B * length * (1 + count) * count * WIDTH[name], fixed=first)
                if dynamic:
                    total.product(B * length * count * WIDTH[name] * (1 + count + 1))
    return total


def dual(blocks: list[int]) -> Sum:
    total = standard()
    for _ in blocks:
        total.modulation(WIDTH["image"], 3)
        total.projections(LENGTH["image"], WIDTH["image"])
        total.attention(LENGTH["image"], LENGTH["image"])
    return total


EQUAL = {"text": 16, "image": 16}


def single_stream(depth: int, *, parts: int, shared: bool = False) -> Sum:
    total = Sum()
    for index in range(DEPTH):
        block(total, widths=EQUAL, parts=6 if not shared or index == 0 else 0)
    for index in range(depth):
        if not shared or index == 0:
            total.modulation(16, parts)
        total.projections(JOINT_LENGTH, 16)
        total.attention(JOINT_LENGTH, JOINT_LENGTH)
        total.feedforward(JOINT_LENGTH, 16)
    return total


def shared_modulation() -> Sum:
    total = Sum()
    for index in range(DEPTH):
        block(total, parts=6 if index == 0 else 0)
    return total


def ends() -> Sum:
    """Text of width 5, an image of 4 x 2 x 2 patches, and the conditioning from a timestep and a pooled vector."""
    total = standard()
    more = Sum()
    for dim_in in (8, 10):  # sinusoid, pooled vector
        more.product(B * dim_in * COND, fixed=True)
        more.product(B * COND * COND)
    for name, dim in (("text", 5), ("image", 16)):
        more.product(B * LENGTH[name] * dim * WIDTH[name], fixed=True)
    more.product(B * COND * 2 * WIDTH["image"])
    more.product(B * LENGTH["image"] * WIDTH["image"] * 16)
    less, last = standard(), last_block_discards(Sum(), 2)
    # the conditioning vector is the network's own here, so that every modulation sends it a gradient
    modulations = (DEPTH - 1) * 6 * sum(WIDTH.values()) + 6 * WIDTH["image"] + 2 * WIDTH["text"]
    return Sum(
        total.forward + more.forward + last.forward - less.forward,
        total.backward + more.backward + last.backward - less.backward + 2 * B * COND * modulations,
    )


PATCHES = {"kind": "patches", "channels": 4, "patch": 2}
ENDS = {
    "modalities": {
        "text": {"dim": WIDTH["text"], "input": {"kind": "linear", "dim": 5}},
        "image": {"dim": WIDTH["image"], "input": PATCHES, "output": {"kind": "patches", "channels": 4}},
    },
    "timestep": {"frequencies": 8},
    "pooled": {"dim": 10},
    "discard": ["text"],
}
ONE_WIDTH = {"modalities": {name: {"dim": dim} for name, dim in EQUAL.items()}}
HYPER, MANIFOLD = "hyper_connections", "manifold_hyper_connections"


def adaptive_by(weights: int, gating: str) -> dict:
    return {"attention": {"kind": "adaptive", "num_adaptive_weights": weights, "gating": gating}}


VARIANTS = {
    "standard": ({}, standard),
    "masks": ({"mask": {"text": 0.5, "image": 0.9}}, standard),
    "query and key norms, biases, soft clamp": (
        {"qk_rmsnorm": True, "attention": {"bias": True, "softclamp": 5.0}},
        standard,
    ),
    "output gates": ({"attention": {"out_gate": True}}, output_gates),
    "output gates per head": ({"attention": {"out_gate": "per_head"}}, output_gates_per_head),
    "nested residual": ({"residual": {"kind": "nested"}}, standard),
    "unconditioned": ({"dim_cond": None}, unconditioned),
    "swiglu": ({"feedforward": {"kind": "swiglu"}}, gated_feedforward),
    "convolutions": ({"feedforward": {"kernel": {"image": 3}}, "attention": {"out_kernel": {"text": 5}}}, convolutions),
    "single stream of one modality": (
        {"single_stream": {"depth": 2, "kind": "sequential", "modalities": ["image"]}},
        one_modality_streams,
    ),
    "register tokens": ({"register_tokens": {"text": 2, "image": 5}}, registers),
    "discard": ({"discard": ["text"]}, lambda: last_block_discards(Sum(), 2)),
    "discard, unused queries": (
        {"discard": ["text"], "unused_weights": "queries"},
        lambda: last_block_discards(Sum(), 2),
    ),
    "discard, all weights kept": (
        {"discard": ["text"], "unused_weights": "all"},
        lambda: last_block_discards(Sum(), 6),  # the modulation is one product, whose unread columns it computes
    ),
    "last feedforward skipped": ({"skip_last_feedforward": ["text"]}, skipped_feedforward),
    "adaptive by token, 2 weights": (adaptive_by(2, "token"), lambda: adaptive(2, "token")),
    "adaptive by token, 5 weights": (adaptive_by(5, "token"), lambda: adaptive(5, "token")),
    "adaptive by sample, 2 weights": (adaptive_by(2, "sample"), lambda: adaptive(2, "sample")),
    "adaptive by sample, 5 weights": (adaptive_by(5, "sample"), lambda: adaptive(5, "sample")),
    "2 streams": ({"residual": {"kind": HYPER, "streams": 2}}, lambda: streams(2, dynamic=True)),
    "4 streams, static": (
        {"residual": {"kind": HYPER, "streams": 4, "dynamic": False}},
        lambda: streams(4, dynamic=False),
    ),
    "manifold, 3 streams": ({"residual": {"kind": MANIFOLD, "streams": 3}}, lambda: streams(3, dynamic=True)),
    "dual attention": ({"attention": {"dual": [0, 2]}}, lambda: dual([0, 2])),
    "single stream, parallel": (
        ONE_WIDTH | {"single_stream": {"depth": 2, "kind": "parallel"}},
        lambda: single_stream(2, parts=3),
    ),
    "single stream, sequential": (
        ONE_WIDTH | {"single_stream": {"depth": 2, "kind": "sequential"}, "discard": ["text"]},
        lambda: single_stream(2, parts=6),
    ),
    "shared modulation": ({"modulation": {"shared": True}}, shared_modulation),
    "shared modulation, single stream": (
        ONE_WIDTH | {"modulation": {"shared": True}, "single_stream": {"depth": 2, "kind": "parallel"}},
        lambda: single_stream(2, parts=3, shared=True),
    ),
    "ends": (ENDS, ends),
}


QUICK = ("query and key norms, biases, soft clamp", "discard", "dual attention", "single stream, parallel", "ends")


@pytest.mark.parametrize("variant", slow_but(VARIANTS, *QUICK))
def test_a_variant_costs_what_is_written_down(variant):
    options, closed_form = VARIANTS[variant]
    model = {
        "depth": DEPTH,
        "modalities": {name: {"dim": dim} for name, dim in WIDTH.items()},
        "dim_cond": COND,
        "heads": HEADS,
        "dim_head": DIM_HEAD,
    } | {key: value for key, value in options.items() if key != "mask"}
    run = {"batch_size": B, "tokens": LENGTH, "mask": options.get("mask", {})}
    result = count_flops(as_tool_config({"name": variant, "model": model, "run": run}))
    expected = closed_form()
    assert (result.forward_flops, result.backward_flops) == (expected.forward, expected.backward)


def test_a_training_step_costs_what_the_tokens_cost_that_go_through_each_block():
    routing = {"start": 1, "end": 2, "share": 0.4, "modalities": ["image"]}
    model = {"depth": DEPTH, "modalities": {name: {"dim": dim} for name, dim in WIDTH.items()}, "dim_cond": COND}
    model |= {"heads": HEADS, "dim_head": DIM_HEAD, "routing": routing}
    found = count_flops(as_tool_config({"name": "routed", "model": model, "run": {"batch_size": B, "tokens": LENGTH}}))
    step = Sum()
    for lengths in (LENGTH, LENGTH | {"image": LENGTH["image"] - 4}, LENGTH):
        block(step, lengths)
    assert found.step_flops == step.forward + step.backward
    assert (found.forward_flops, found.backward_flops) == (standard().forward, standard().backward)

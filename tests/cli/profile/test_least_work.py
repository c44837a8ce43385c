"""FLOPs, bytes and bounds, against closed forms and torch's own counter."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmdit_cli.model_parts.components import Component
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.model_parts.follower import BACKWARD
from mmdit_cli.profile import ceilings
from mmdit_cli.profile.ceilings import Ceilings, StreamRate, measure_ceilings, repeated
from mmdit_cli.profile.groups import groups_that_fit
from mmdit_cli.profile.least_work import count_work
from mmdit_cli.profile.roofline import bound
from mmdit_cli.profile.traffic import Traffic, TrafficCounter
from tests.support.marks import slow_but
from tests.support.small_configs import BATCH, COND, DIM_HEAD, HEADS, IMAGE, TEXT, VARIANTS, D, config

CPU = torch.device("cpu")
INNER, BLOCKS, FLOAT = HEADS * DIM_HEAD, 2, 4


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "standard"))
def test_flops_are_those_of_the_flops_command_and_of_torchs_counter(variant):
    chosen = config(**VARIANTS[variant])
    counted = count_flops(chosen)
    forward, train = (count_work(chosen, train=train, device=CPU) for train in (False, True))
    assert (forward.total_flops, train.total_flops) == (counted.forward_flops, counted.step_flops)
    assert (forward.parameters, forward.weight_bytes) == (counted.parameters, counted.weight_bytes)
    for row in counted.components:
        assert forward.flops_of(row.name) == row.flops == train.flops.get(("forward", row.name), 0)


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "registers"))
@pytest.mark.parametrize("mask", slow_but([{}, {"mask": {"text": 0.5}}], {"mask": {"text": 0.5}}), ids=["", "padded"])
def test_a_forward_pass_moves_the_same_on_the_meta_device_as_its_real_operators_do(variant, mask):
    chosen = config(mask, **VARIANTS[variant])
    work = count_work(chosen, train=False, device=CPU)
    real = count_work(chosen, train=False, device=CPU, fake=True)
    assert real.gemms == work.gemms and real.whole == work.whole
    assert {name: each.bytes for name, each in work.traffic.items()} == pytest.approx(
        {name: each.bytes for name, each in real.traffic.items()},
        abs=2 * FLOAT,  # a number, as a tensor
    )


@pytest.mark.slow
def test_a_linear_layers_backward_does_twice_the_products_of_its_forward():
    flops = count_work(config(), train=True, device=CPU).flops
    for name in ("attention", "feedforward, text", "out projection, image"):
        assert flops["backward", name] == 2 * flops["forward", name]


def test_bytes_of_a_forward_pass_are_weights_inputs_and_outputs():
    traffic = count_work(config(), train=False, device=CPU).traffic
    for i, (name, n) in enumerate((("text", TEXT), ("image", IMAGE))):
        d, rows = D[i], BATCH * n
        wanted = {
            f"feedforward, {name}": 2 * rows * d + 2 * d * 4 * d + 4 * d + d,
            f"qkv projection, {name}": rows * d + 3 * rows * INNER + 3 * d * INNER,
            f"out projection, {name}": rows * INNER + rows * d + d * INNER,
            f"modulation, {name}": BATCH * COND + BATCH * 6 * d + 6 * d * (COND + 1),
        }
        for component, elements in wanted.items():
            assert traffic[component].bytes == BLOCKS * FLOAT * elements, component
    assert traffic["attention"].bytes == BLOCKS * FLOAT * 4 * BATCH * (TEXT + IMAGE) * INNER


def test_where_padding_is_left_out_only_the_valid_tokens_move():
    share = 0.5
    padded = config(run={"mask": {"text": share}})
    packed = config(varlen=True, run={"mask": {"text": share}})
    counted = count_work(packed, train=False, device=CPU)
    assert counted.total_flops == count_flops(packed).forward_flops < count_flops(padded).forward_flops
    rows, d = BATCH * round(share * TEXT), D[0]
    wanted = 3 * rows * INNER + rows * d + 3 * d * INNER
    assert counted.traffic["qkv projection, text"].bytes == BLOCKS * FLOAT * wanted


@pytest.mark.slow
def test_the_whole_moves_weights_inputs_and_outputs_and_in_training_the_weights_ten_times():
    forward, train = (count_work(config(), train=train, device=CPU) for train in (False, True))
    ends = 2 * FLOAT * BATCH * (TEXT * D[0] + IMAGE * D[1])
    assert forward.whole.bytes == forward.weight_bytes + ends
    assert train.whole.bytes == 10 * train.weight_bytes + ends
    assert train.traffic["optimizer"].bytes == 7 * train.weight_bytes


def test_bf16_moves_half_the_bytes():
    chosen = config(depth=1)
    full, half = (count_work(chosen, train=False, device=CPU, dtype=d) for d in (torch.float32, torch.bfloat16))
    assert half.traffic["feedforward, image"].bytes * 2 == full.traffic["feedforward, image"].bytes


def test_what_stays_inside_a_component_is_free_and_what_is_kept_for_backward_is_not():
    rows, wide = 5, 7
    net = nn.Sequential(nn.Linear(3, wide), nn.ReLU(), nn.Linear(wide, 2))
    x = torch.ones(rows, 3)
    with TrafficCounter(list(net.parameters()), [Component("net", None, [net])]) as counter:
        y = net(x)
        counter.follower.start(BACKWARD)
        y.backward(torch.ones_like(y))
    weights = 3 * wide + wide + wide * 2 + 2
    traffic = counter.finish([y], [p.grad for p in net.parameters()])["net"]
    # forward: weights, input, output, and the hidden layer written for backward, which reads it
    # backward: the second weight again (x needs no gradient), the output's gradient, the input, all weights' gradients
    forward = weights + rows * (3 + 2 + wide)
    backward = wide * 2 + rows * (2 + wide + 3) + weights
    assert traffic.bytes == FLOAT * (forward + backward)


def test_of_a_table_only_the_rows_that_are_looked_up_are_read():
    net = nn.Embedding(1000, 8)
    with TrafficCounter(list(net.parameters()), [Component("table", None, [net])]) as counter, torch.no_grad():
        y = net(torch.tensor([[1, 2, 3]]))
    assert counter.finish([y])["table"].bytes == 3 * 8 + 2 * 3 * 8 * FLOAT


# ------------------------------------------------------------------------------------------------------------- bounds

CEILINGS = Ceilings(1000.0, 10.0, (1, 1, 1), (StreamRate(8, 40.0), StreamRate(64, 20.0), StreamRate(1024, 10.0)))


def test_small_streams_are_served_as_fast_as_any_that_is_larger():
    assert [CEILINGS.stream_rate(size) for size in (1, 8, 9, 64, 65, 5000)] == [40, 40, 20, 20, 10, 10]
    odd = Ceilings(1.0, 10.0, (1, 1, 1), (StreamRate(8, 5.0), StreamRate(64, 20.0)))
    assert odd.stream_rate(8) == 20


@pytest.mark.parametrize(
    ("flops", "seconds", "wanted"),
    [
        (8000, 16.0, (8.0, "compute", 0.5)),  # 8 s of products against 2 calls of 8 B at 40 and 16 B at 10: 3.6 s
        (2000, 7.2, (3.6, "memory", 0.5)),
        (0, None, (3.6, "memory", None)),
    ],
)
def test_a_bound_is_the_larger_of_products_and_bytes(flops, seconds, wanted):
    traffic = Traffic(Counter({(16, 8): 2}))
    result = bound(flops, traffic, CEILINGS, model_bytes=5000, seconds=seconds)
    assert (result.ms / 1e3, result.limited_by, result.of_measured) == pytest.approx(wanted)
    assert (result.bytes, result.intensity) == (48, flops / 48)


def test_ceilings_try_the_models_own_products_and_streams_of_growing_size(monkeypatch):
    from mmdit_cli.profile import ceilings

    monkeypatch.setattr(ceilings, "GEMM_SHAPES", ((16, 16, 16),))
    monkeypatch.setattr(ceilings, "MOST_FLOPS", {"cpu": 2 * 512 * 512 * 1024})
    monkeypatch.setattr(ceilings, "STREAM_BYTES", {"cpu": (1200, 12000)})
    monkeypatch.setattr(ceilings, "TIMED_BYTES", {"cpu": 12000})
    result = measure_ceilings(CPU, torch.float32, gemms=[(4096, 512, 512)], seconds=0.05)
    assert result.gemm_shape == (1024, 512, 512)  # cut to the most FLOPs that one product may have
    assert result.gemm_flops_per_s > 0 and [s.bytes for s in result.streams] == [1200, 12000]
    assert result.bytes_per_s == result.streams[-1].bytes_per_s


def test_models_are_grouped_as_their_weights_fit():
    models = [("a", 30), ("a", 30), ("b", 10), ("c", 90), ("a", 5)]
    assert groups_that_fit(models, CPU, train=False, free=100) == [[0, 1, 2], [3], [4]]
    assert groups_that_fit(models, CPU, train=True, free=400) == [[0, 1, 2], [3], [4]]
    assert groups_that_fit([], CPU, train=False, free=1) == []


def test_small_streams_are_one_graph_on_cuda(monkeypatch):
    happened: list[str] = []

    class Graph:
        def replay(self):
            happened.append("replay")

    @contextmanager
    def capture(graph):
        happened.append("capture")
        yield
        happened.append("captured")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    run = repeated(lambda: happened.append("add"), 3, torch.device("cuda"))
    assert happened == ["add", "capture", *["add"] * 3, "captured"]
    run()
    assert happened.pop() == "replay"
    for times, device in ((1, torch.device("cuda")), (3, CPU)):
        happened.clear()
        repeated(lambda: happened.append("add"), times, device)()
        assert happened == ["add"] * times


@pytest.mark.parametrize(
    ("setting", "on"),
    [({"fp32_precision": "tf32"}, True), ({"fp32_precision": "ieee"}, False), ({"allow_tf32": True}, True)],  # 2.6
)
def test_tf32_is_reported_of_products_of_float32_on_cuda(setting, on, monkeypatch):
    monkeypatch.setattr(ceilings, "measure_rate", lambda *args: 1.0)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**setting))
    cuda = torch.device("cuda")
    at_once = partial(measure_ceilings, seconds=0.0)
    assert at_once(cuda, torch.float32).tf32 == on
    assert at_once(cuda, torch.bfloat16).tf32 is None and at_once(CPU, torch.float32).tf32 is None

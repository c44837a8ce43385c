"""FLOPs against torch's own counter and against what can be written down by hand."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit.config import build
from mmdit.layers.attention import FusedAttention
from mmdit.options import as_data
from mmdit_cli.model_parts.components import OTHER, Component
from mmdit_cli.model_parts.counting import Counts
from mmdit_cli.model_parts.flop_count import FlopsResult, component_flops, count_flops
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD
from mmdit_cli.model_parts.operator_counter import OpRecorder, UncountedOperator
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config, load_tool_config
from tests.support.paths import CONFIGS

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
BATCH, TEXT, IMAGE, COND = 2, 7, 9, 6
D_TEXT, D_IMAGE = 12, 20


def small(run: dict | None = None, **model) -> ToolConfig:
    base = {
        "depth": 2,
        "modalities": {"text": {"dim": D_TEXT}, "image": {"dim": D_IMAGE}},
        "dim_cond": COND,
        "heads": 2,
        "dim_head": 4,
    }
    run = {"batch_size": BATCH, "tokens": {"text": TEXT, "image": IMAGE}} | (run or {})
    return as_tool_config({"name": "small", "model": base | model, "run": run})


# ----------------------------------------------------------------------------------------------------- torch's counter


def holds_against_torch(config: ToolConfig) -> None:
    with torch.device("meta"):
        net = build(config.model)
    with FlopCounterMode(display=False) as forward:
        outs = net(**example_inputs(config, device="meta").kwargs)
    with FlopCounterMode(display=False) as backward:
        sum(x.sum() for x in (outs.values() if isinstance(outs, dict) else outs) if x is not None).backward()
    result = count_flops(config)
    assert result.forward_flops == forward.get_total_flops() > 0
    assert result.backward_flops == backward.get_total_flops() > 0
    assert result.parameters == sum(p.numel() for p in net.parameters())
    adds_up(result)


def adds_up(result: FlopsResult) -> None:
    for rows, forward in ((result.components, "flops"), (result.modalities, "forward_flops")):
        assert sum(getattr(row, forward) for row in rows) == result.forward_flops
        assert sum(row.backward_flops for row in rows) == result.backward_flops
        assert sum(row.parameters for row in rows) == result.parameters
        assert sum(row.share for row in rows) == pytest.approx(1)
    assert result.linear_flops + result.attention_flops == result.forward_flops
    assert result.backward_linear_flops + result.backward_attention_flops == result.backward_flops
    assert result.step_flops == result.forward_flops + result.backward_flops


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_two_blocks_of_a_shipped_config_count_as_torch_counts(path):
    overrides = ["model.depth=2", "model.attention.dual=[0]"] if "3.5-medium" in path.stem else ["model.depth=2"]
    if load_tool_config(path).model.single_stream is not None:
        overrides.append("model.single_stream.depth=2")
    holds_against_torch(load_tool_config(path, overrides))


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_counts_as_torch_counts(path):
    holds_against_torch(load_tool_config(path))


# ------------------------------------------------------------------------------------------------------- attribution


def test_every_component_costs_twice_its_forward_in_backward_but_those_that_read_the_inputs_cost_once():
    ends = {
        "text": {"dim": D_TEXT, "input": {"kind": "linear", "dim": 5}, "output": {"kind": "linear", "dim": 3}},
        "image": {"dim": D_IMAGE, "input": {"kind": "linear", "dim": 5}, "output": {"kind": "linear", "dim": 3}},
    }
    result = count_flops(small(modalities=ends, timestep={"frequencies": 8}))
    for row in result.components:
        first_of = {"embedding": 1}.get(row.kind, 2)
        if row.kind == "conditioning":  # 8 to 6 reads the timestep, 6 to 6 does not
            assert row.backward_flops == 2 * BATCH * 8 * COND + 2 * 2 * BATCH * COND * COND
        else:
            assert row.backward_flops == first_of * row.flops, row.name
    assert {"embedding", "attention", "feedforward", "output head"} <= {r.kind for r in result.components if r.flops}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(discard=["text"], unused_weights="all"),
        dict(attention={"kind": "adaptive", "num_adaptive_weights": 2}),
        pytest.param(
            dict(residual={"kind": "manifold_hyper_connections", "streams": 2}, register_tokens={"image": 3}),
            marks=pytest.mark.slow,
        ),
        dict(attention={"dual": [0, 1, 2]}),
        dict(checkpoint_activations=True),
        dict(
            modulation={"shared": True},
            single_stream={"depth": 5, "kind": "sequential"},
            modalities={"text": {"dim": 12}, "image": {"dim": 12}},
        ),
    ],
    ids=str,
)
def test_blocks_that_are_alike_are_counted_once_and_nothing_changes(changes):
    chosen = small(**({"depth": 6} | changes))
    fast, slow = (count_flops(chosen, elementwise=True, whole=whole) for whole in (False, True))
    assert fast == slow


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_count_the_same_by_their_blocks_and_as_a_whole(path):
    chosen = load_tool_config(path)
    assert count_flops(chosen) == count_flops(chosen, whole=True)


def test_a_modality_is_all_that_works_on_its_tokens():
    result = count_flops(small(discard=["text"]))
    rows = {row.name: row for row in result.modalities}
    assert list(rows) == ["text", "image", "joined"]
    modulation = 2 * BATCH * COND * D_IMAGE * 6
    tokens = 2 * BATCH * IMAGE * D_IMAGE * (3 * 8 + 8 + 2 * 4 * D_IMAGE)
    assert rows["image"].forward_flops == 2 * (modulation + tokens)
    assert rows["image"].flops_per_token == rows["image"].forward_flops / (BATCH * IMAGE)
    assert rows["joined"].forward_flops == result.attention_flops
    assert rows["joined"].tokens == TEXT + IMAGE


def test_what_no_component_did_becomes_a_row_of_its_own():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).to("meta")
    first = [Component("first", None, [net[0]])]
    with OpRecorder(first) as recorder, FlopCounterMode(display=False):
        out = net(torch.ones(3, 4, device="meta")).sum()
        recorder.follower.start(BACKWARD)
        out.backward()
    counts = Counts(192 + 96, 192 + 2 * 96, 0, recorder.flops, recorder.work, recorder.operators)
    rows = component_flops(first, counts, 58)
    assert [(row.name, row.flops, row.backward_flops, row.parameters) for row in rows] == [
        ("first", 192, 192, 40),
        ("other", 96, 192, 18),
    ]


def test_checkpointed_activations_execute_the_blocks_forward_once_more():
    plain, checkpointed = count_flops(small()), count_flops(small(checkpoint_activations=True))
    assert checkpointed.step_flops == plain.step_flops
    assert checkpointed.executed_step_flops - plain.executed_step_flops == plain.forward_flops
    assert plain.executed_step_flops - plain.step_flops == plain.attention_flops // 2


# ------------------------------------------------------------------------------------------------ what is not counted


def recorded(run, backward=lambda out: None) -> OpRecorder:
    with OpRecorder([]) as recorder, FlopCounterMode(display=False):
        out = run()
        recorder.follower.start(BACKWARD)
        backward(out)
    return recorder


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", requires_grad=True)


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.mv(meta(3, 4), meta(4)),
        lambda: torch.dot(meta(4), meta(4)),
        lambda: torch.addr(meta(3, 4), meta(3), meta(4)),
        lambda: torch.cdist(meta(3, 4), meta(5, 4)),
        lambda: torch.linalg.solve_triangular(meta(4, 4), meta(4, 2), upper=True),
        lambda: torch.fft.fft(meta(8)),
    ],
)
def test_an_operator_that_multiplies_and_has_no_formula_stops_the_count(run):
    with pytest.raises(UncountedOperator, match="no formula"):
        recorded(run)


def test_an_operator_of_someone_elses_stops_the_count():
    @torch.library.custom_op("mmdit_test::blur", mutates_args=())
    def blur(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @blur.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    with pytest.raises(UncountedOperator, match="mmdit_test::blur is no operator of torch"):
        recorded(lambda: blur(meta(3)))


def test_a_model_that_runs_such_an_operator_is_refused(monkeypatch):
    monkeypatch.setattr(
        FusedAttention, "forward", lambda self, q, k, v, mask=None: v * torch.mv(q[0, 0], k[0, 0, 0])[0]
    )
    with pytest.raises(UncountedOperator, match=r"aten::\w*mv multiplies matrices"):
        count_flops(small())


B, N, D = 2, 3, 8


@pytest.mark.parametrize(
    ("run", "kind", "flops"),
    [
        (lambda x: x.softmax(-1), "softmax", 5 * B * N * D),
        (lambda x: F.layer_norm(x, (D,)), "layer norm", 5 * B * N * D),
        (lambda x: F.layer_norm(x, (D,), meta(D), meta(D)), "layer norm", 7 * B * N * D),
        (lambda x: F.gelu(x), "activation", B * N * D),
        (lambda x: x + meta(D), "arithmetic", B * N * D),
        (lambda x: torch.addcmul(x, meta(B, 1, D), x), "arithmetic", 2 * B * N * D),
        (lambda x: (x + x).addcmul_(meta(B, 1, D), x), "arithmetic", 3 * B * N * D),
        (lambda x: x.mean(-1), "reduction", B * N * D),
        (lambda x: x.sum(), "reduction", B * N * D),
    ],
)
def test_elementwise_work_is_what_the_convention_says(run, kind, flops):
    assert recorded(lambda: run(meta(B, N, D))).work == {((FORWARD, OTHER), kind): flops}


def test_moving_picking_and_comparing_numbers_is_no_work():
    x = meta(B, N, D)
    recorder = recorded(lambda: (x.clone().transpose(0, 1).reshape(-1).to(torch.float64), torch.cat([x, x]), x > 0))
    assert not recorder.work and not recorder.operators


def test_a_products_backward_is_no_elementwise_work_and_an_activations_is():
    gradient = torch.empty(4, 6, device="meta")
    recorder = recorded(lambda: F.gelu(meta(4, 5) @ meta(5, 6)), lambda out: out.backward(gradient))
    forward, backward = (FORWARD, OTHER), (BACKWARD, OTHER)
    assert recorder.flops == {forward: 2 * 4 * 5 * 6, backward: 2 * 2 * 4 * 5 * 6}
    assert recorder.work == {(forward, "activation"): 24, (backward, "activation"): 24}


def test_a_blocks_elementwise_work_lies_in_its_components_and_in_no_total():
    plain, result = count_flops(small()), count_flops(small(), elementwise=True)
    assert (plain.step_flops, plain.attention_flops) == (result.step_flops, result.attention_flops)
    assert plain.elementwise is None and all(row.elementwise is None for row in plain.components)
    work = {row.name: row.elementwise for row in result.components}
    numbers = BATCH * IMAGE * D_IMAGE
    # two in each of two blocks: a layer norm, `1 + scale`, `shift + x * scale`
    norms = 2 * 2 * (5 * numbers + BATCH * D_IMAGE + 2 * numbers)
    # and the norm at the end, `x * rsqrt(mean(x * x) + eps) * weight`
    assert work["norm, image"] == norms + 4 * numbers + 2 * BATCH * IMAGE
    assert work["residual, image"] == 2 * 2 * 2 * numbers
    assert work["feedforward, image"] == 2 * 4 * numbers
    assert work["modulation, image"] == 2 * BATCH * COND
    assert sum(work.values()) == result.elementwise.forward_flops
    assert sum(kind.backward_flops for kind in result.elementwise.kinds) == result.elementwise.backward_flops > 0
    assert {"gelu", "addcmul", "native_layer_norm"} <= set(result.uncounted_operators)


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def flops(tmp_path, monkeypatch, capfd):
    """Runs `mmdit flops` on a small config: exit code, standard output, standard error."""
    from mmdit_cli.app import main

    (tmp_path / "small.yaml").write_text(json.dumps(as_data(small())))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["mmdit", "flops", "-c", "small.yaml", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return run


def test_a_sweep_is_one_result_a_point(flops):
    code, out, _ = flops("--sweep", "run.batch_size=1,4", "--sweep", "model.depth=1,2,3", "--json")
    results = json.loads(out)["results"]
    assert code == 0 and [r["point"] for r in results] == [
        {"run.batch_size": batch, "model.depth": depth} for batch in (1, 4) for depth in (1, 2, 3)
    ]
    for r in results:
        config = small({"batch_size": r["point"]["run.batch_size"]}, depth=r["point"]["model.depth"])
        assert r["step_flops"] == count_flops(config).step_flops


def test_a_sweeps_table_is_one_row_a_point(flops):
    code, out, _ = flops("--sweep", "run.tokens.image=4,16", "--images", "1e3", "--card-flops", "1e9")
    rows = [line.split() for line in out.splitlines() if line.split() and line.split()[0] in ("4", "16")]
    assert code == 0 and len(rows) == 2 and "step/token" in out
    parameters = count_flops(small()).parameters
    assert [row[1:3] for row in rows] == [[f"{parameters / 1e3:.1f}", "K"]] * 2


def test_a_budget_stands_in_the_document_and_the_table(flops):
    options = ["--images", "1e3", "--card", "h100", "--cards", "2", "--utilization", "50%", "--dtype", "bf16"]
    code, out, _ = flops(*options, "--json")
    plan, step = json.loads(out)["results"][0]["training"], count_flops(small()).step_flops
    assert code == 0 and (plan["steps"], plan["flops"]) == (500, 500 * step)
    assert plan["hours"] == pytest.approx(500 * step / (989.4e12 * 2 * 0.5) / 3600)
    code, out, _ = flops(*options)
    assert code == 0 and "2 × h100, bf16" in out and "card hours" in out


def test_configs_stand_beside_the_first_with_their_ratio_to_it(flops):
    code, out, _ = flops("-c", "small.yaml")
    forward = next(line for line in out.splitlines() if line.split()[:1] == ["forward"])
    assert code == 0 and forward.split()[-1] == "×1"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--elementwise"],
        ["--images", "1e9", "--card", "b200"],
        ["-c", "small.yaml", "-c", "small.yaml", "--budget", "5e12", "--card", "b200"],
        ["--sweep", "run.batch_size=1,4", "--sweep", "run.tokens.image=16", "--images", "1e9", "--card", "h100"],
    ],
)
def test_at_80_columns_no_table_is_wider_and_no_row_wraps(options, flops, monkeypatch):
    narrow = flops(*options)[1]
    monkeypatch.setenv("COLUMNS", "300")
    wide = flops(*options)[1]
    rows = [[line for line in out.splitlines() if line.startswith(" ")] for out in (narrow, wide)]
    assert max(len(line.rstrip()) for line in rows[0]) <= 80
    assert len(rows[0]) == len(rows[1]) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "1e9", "--budget", "1e20"], "give one of them"),
        (["--card", "h100"], "--card says where a budget is spent"),
        (["--images", "1e9", "--cards", "8"], "--cards: of which card"),
        (["--images", "1e9", "--card", "h100", "--card-flops", "1e15"], "--card and --card-flops: give one"),
        (["--images", "1e9", "--card", "h1000"], "did you mean h100"),
        (["--images", "lots"], "--images lots: expected a whole number above 0"),
        (["--images", "1e9", "--card", "h100", "--utilization", "40"], "--utilization 40: expected a share"),
        (["--budget", "10"], "--budget 10: one step over a batch of 2 takes"),
        (["--images", "1e9", "--card", "h100", "--dtype", "fp8"], "--dtype fp8: expected one of"),
        (["--sweep", "model.depth=1,1"], "--sweep model.depth"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_2(options, message, flops):
    code, out, err = flops(*options)
    assert code == 2 and out == "" and message in err
    assert err.startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err

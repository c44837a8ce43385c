"""How each tool of the agreement table is asked; run by `agreement.py` in the tool's own environment.

    python -m benchmarks.accounting.tools TOOL CONFIG

The last line of standard output is the answer, in JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Count = Callable[[nn.Module, dict[str, Tensor]], dict[str, Any]]  # -> flops, printed, parameters, memory
SELF = {"mmdit"}
ROWS, WIDE = 24, 32
ELEMENTWISE = ("layer norm", "gelu", "softmax", "multiply")


# --------------------------------------------------------------------------------------------------------------- probes


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


def _x(rows: int = ROWS) -> dict[str, Tensor]:
    return {"x": torch.randn(2, rows, WIDE)}


PROBES: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], int]] = {
    # a module, its inputs, and the FLOPs of its products, or where it has none its elements
    "linear": (lambda: Named(nn.Linear(WIDE, WIDE, bias=False)), _x, 2 * 2 * ROWS * WIDE**2),
    "linear, more tokens": (
        lambda: Named(nn.Linear(WIDE, WIDE, bias=False)),
        lambda: _x(2 * ROWS),
        2 * 2 * 2 * ROWS * WIDE**2,
    ),
    "attention": (
        Attention,
        lambda: {name: torch.randn(2, 4, ROWS, WIDE) for name in ("q", "k", "v")},
        4 * 2 * 4 * ROWS**2 * WIDE,
    ),
    "layer norm": (lambda: Named(nn.LayerNorm(WIDE)), _x, 2 * ROWS * WIDE),
    "gelu": (lambda: Named(nn.GELU()), _x, 2 * ROWS * WIDE),
    "multiply": (Product, lambda: _x() | {"y": torch.randn(2, ROWS, WIDE)}, 2 * ROWS * WIDE),
    "softmax": (lambda: Named(nn.Softmax(dim=-1)), _x, 2 * ROWS * WIDE),
}


class Named(nn.Module):
    """One module, called as a part of another, for some tools count no root."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


def probe(count: Count) -> dict[str, float]:
    """What a tool sees of each operator."""
    seen = {}
    for name, (make, inputs, wanted) in PROBES.items():
        try:
            seen[name] = count(make(), inputs())["flops"] / wanted
        except Exception:  # a tool may have nothing to say of a module without parameters
            seen[name] = 0.0
    return seen


# ---------------------------------------------------------------------------------------------------------------- tools


class Positional(nn.Module):
    """A model called with positional tensors, as tracing wants."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args: Tensor) -> Any:
        out = self.model(**dict(zip(self.names, args, strict=True)))
        return tuple(out.values()) if isinstance(out, dict) else out


def macs(value: float) -> dict[str, Any]:
    """A count of multiply-adds, which are two FLOPs each."""
    return {"flops": 2 * value, "printed": f"{value / 1e9:,.3f} GMAC"}


def flops(value: float) -> dict[str, Any]:
    return {"flops": value, "printed": f"{value / 1e9:,.3f} GFLOP"}


def ask_flop_counter(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return flops(counter.get_total_flops()) | {"parameters": parameters(model)}


def ask_flop_counter_meta(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    return ask_flop_counter(model.to("meta"), {name: x.to("meta") for name, x in inputs.items()})


def ask_profiler(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    with (
        torch.no_grad(),
        profile(
            activities=[ProfilerActivity.CPU], with_flops=True, record_shapes=True, profile_memory=True
        ) as profiler,
    ):
        model(**inputs)
    events = profiler.key_averages()
    made = sum(max(0, event.self_cpu_memory_usage) for event in events)
    return flops(sum(event.flops or 0 for event in events)) | {
        "memory": {"operators' allocations, net, added up": made}
    }


def ask_fvcore(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    analysis = FlopCountAnalysis(Positional(model, list(inputs)), tuple(inputs.values()))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return macs(analysis.total()) | {"parameters": parameter_count(model)[""]}


def ask_calflops(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from calflops import calculate_flops

    options = dict(print_results=False, print_detailed=False, output_as_string=False)
    counted, _, count = calculate_flops(model=model, kwargs=inputs, **options)
    return flops(counted) | {"parameters": int(count)}


def ask_ptflops(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from ptflops import get_model_complexity_info

    options = dict(as_strings=False, print_per_layer_stat=False, backend="pytorch")
    counted, count = get_model_complexity_info(model, (1,), input_constructor=lambda _: inputs, **options)
    return macs(counted) | {"parameters": int(count)}


def ask_torchinfo(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from torchinfo import summary

    found = summary(model, input_data=inputs, verbose=0)
    size = found.total_input + found.total_output_bytes + found.total_param_bytes
    memory = {"estimated total size (inputs, outputs of all layers, weights)": size}
    return macs(found.total_mult_adds) | {"parameters": found.total_params, "memory": memory}


TOOLS: dict[str, Count] = {
    "torch flop_counter, meta": ask_flop_counter_meta,
    "torch flop_counter, CPU": ask_flop_counter,
    "torch.profiler": ask_profiler,
    "fvcore": ask_fvcore,
    "calflops": ask_calflops,
    "ptflops": ask_ptflops,
    "torchinfo": ask_torchinfo,
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def ask_ourselves(config: Any) -> dict[str, Any]:
    from mmdit.config import build
    from mmdit_cli.memory.estimate import estimate
    from mmdit_cli.memory.measured import measure_memory
    from mmdit_cli.model_parts.flop_count import count_flops
    from mmdit_cli.model_parts.timed_call import Call
    from mmdit_cli.request.inputs import example_inputs

    counted = count_flops(config)
    call = Call(build(config.model), example_inputs(config), config, "forward")
    call()
    cpu = torch.device("cpu")
    memory = {
        "peak, measured (profile)": measure_memory(call.model, call, cpu).peak,
        "peak, under fake tensors (profile --estimate)": estimate(config, "forward", torch.float32, cpu).peak,
    }
    answer = flops(counted.forward_flops) | {"parameters": counted.parameters, "memory": memory}
    return answer | {"seen": dict.fromkeys(PROBES, 1.0)}


def main(tool: str, path: str) -> dict[str, Any]:
    from mmdit.config import build
    from mmdit_cli.request.inputs import example_inputs
    from mmdit_cli.request.tool_config import load_tool_config

    config = load_tool_config(path)
    if tool in SELF:
        return ask_ourselves(config)
    torch.manual_seed(0)
    count = TOOLS[tool]
    answer = count(build(config.model).eval(), example_inputs(config).kwargs)
    return answer | {"seen": probe(count)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):  # some print while they count
        answer = main(*sys.argv[1:])
    print(json.dumps(answer))

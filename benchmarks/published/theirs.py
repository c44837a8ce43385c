"""The published `mmdit` 0.3.0 at work, in a process of its own: both packages are imported as `mmdit`.

It runs in an environment that has theirs, from the folder above this one, where ours is not to be found:

    python -m published.theirs --save FOLDER     a file for each case: weights, inputs, outputs, gradients
    python -m published.theirs --serve THREADS   does as it is told, one JSON line after the other

Requests: `{"build": [case, lengths, batch], "file": ...}` makes a module and saves weights, inputs and outputs there;
`{"run": "forward" | "train"}` gives the seconds of one call, `{"peak": ...}` its bytes. It sleeps in a read meanwhile.
"""

from __future__ import annotations

import json
import random
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmdit import mmdit_generalized_pytorch as general
from mmdit import mmdit_pytorch as two
from mmdit.adaptive_attention import AdaptiveAttention

from .peak_bytes import peak_bytes
from .settings import BATCH, CASES, VERSION, Case, State, call, random_inputs, run, save_parts


def make_theirs(case: Case, seed: int, std: float | None = 0.2) -> Any:
    """Runs in the published package's environment: its module, with every parameter drawn away from its initial value.

    `std` is that of matrices; None: 1 / sqrt(their width).
    """
    if version("mmdit") != VERSION:
        raise SystemExit(f"mmdit must be {VERSION}, got {version('mmdit')}")
    make = {
        "joint": two.JointAttention,
        "adaptive": AdaptiveAttention,
        "block": two.MMDiTBlock,
        "transformer": two.MMDiT,
        "general_block": general.MMDiTBlock,
        "general_transformer": general.MMDiT,
    }
    random.seed(seed)  # which stream each of their hyper-connections reads at first
    torch.manual_seed(seed)
    net = make[case.kind](**case.options)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("to_out_weights"):  # h d e
                parameter.normal_(std=(parameter.shape[0] * parameter.shape[1]) ** -0.5)
            elif name.endswith((".weight", "dynamic_alpha_fn", "dynamic_beta_fn")) and parameter.ndim > 1:
                parameter.normal_(std=std or parameter.shape[-1] ** -0.5)
            else:  # the manifold's sigmoids and Sinkhorn flatten what is drawn, so it is drawn wider
                manifold = case.kind.startswith("general") and "_residual_fns" in name
                parameter.add_(torch.randn_like(parameter) * (1.0 if manifold else 0.3))
    return net


def save_theirs(folder: Path) -> None:
    """Runs in the published package's environment: a file for each case, of what `differences` reads."""
    for index, case in enumerate(CASES):
        net = make_theirs(case, index)
        given = random_inputs(case, (9, 14, 6), BATCH)
        out, gradients = run(case, net, given)
        save_parts(folder / f"{index}.safetensors", state=net.state_dict(), given=given, out=out, gradient=gradients)


def step(case: Case, net: Any, given: dict[str, Any], mode: str) -> None:
    """One call: a forward pass without gradients, or forward and backward."""
    if mode == "forward":
        with torch.inference_mode():
            call(case, net, given)
        return
    outs = [x for x in call(case, net, given) if x is not None]
    torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])
    net.zero_grad(set_to_none=True)
    for x in given.values():
        x.grad = None


def serve(threads: int) -> None:
    torch.set_num_threads(threads)
    case: Any = None
    net: Any = None
    given: State = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "build" in request:
            made, lengths, batch = request["build"]
            case = Case(**made)
            net = make_theirs(case, 0, std=None)
            given = random_inputs(case, tuple(lengths), batch)
            with torch.inference_mode():
                out = {str(i): x for i, x in enumerate(call(case, net, given))}
            save_parts(Path(request["file"]), state=net.state_dict(), given=given, out=out)
            given = {name: x.requires_grad_(x.is_floating_point()) for name, x in given.items()}
            answer: Any = "built"
        elif "peak" in request:
            once = partial(step, case, net, given, request["peak"])
            answer = peak_bytes(once, (list(net.parameters()), given))
        else:
            start = time.perf_counter()
            step(case, net, given, request["run"])
            answer = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    task, value = sys.argv[1:]
    save_theirs(Path(value)) if task == "--save" else serve(int(value))

"""The published `mmdit` 0.3.0 as a process that does as it is told, one JSON line after the other.

Both packages are imported as `mmdit`, so theirs needs a process of its own. It sleeps in a read while other sides run.
Requests: `{"build": [case, lengths, batch, flash], "file": ...}` makes a module and saves weights, inputs and outputs
there; `{"run": "forward" | "train"}` gives the seconds of one call, `{"peak": ...}` its bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.speed.published_mmdit import Case, call, make_theirs, random_inputs, save_parts


class Published:
    """Our end of it."""

    def __init__(self, python: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            [str(python), "-I", __file__, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the published package's process ended while asked for {request}")
        return json.loads(line)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def step(case: Case, net: Any, given: dict[str, Any], mode: str) -> None:
    """One call: a forward pass without gradients, or forward and backward."""
    import torch

    if mode == "forward":
        with torch.inference_mode():
            call(case, net, given)
        return
    outs = [x for x in call(case, net, given) if x is not None]
    torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])
    net.zero_grad(set_to_none=True)
    for x in given.values():
        x.grad = None


def serve() -> None:
    import torch

    from benchmarks.speed.peak_bytes import peak_bytes

    torch.set_num_threads(int(sys.argv[1]))
    case, net, given = None, None, {}
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
            run = partial(step, case, net, given, request["peak"])
            answer = peak_bytes(run, (list(net.parameters()), given))
        else:
            start = time.perf_counter()
            step(case, net, given, request["run"])
            answer = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()

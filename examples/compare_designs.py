"""Two designs side by side: parameters, FLOPs, time, and how well each fits the same data in a short training.

python examples/compare_designs.py
"""

from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

import mmdit

SMALL = {
    "variant": "two_modality",
    "depth": 2,
    "modalities": {"text": {"dim": 96}, "image": {"dim": 96}},
    "dim_cond": 32,
    "heads": 2,
    "dim_head": 64,
    "qk_rmsnorm": True,
}
DESIGNS = {
    "standard": {},
    "adaptive": {"attention": {"kind": "adaptive", "num_adaptive_weights": 3}},
    "4 streams": {"residual": {"kind": "hyper_connections", "streams": 4}},
}
STEPS = 10


def main() -> None:
    print(f"{'design':10} {'parameters':>11} {'MFLOP':>8} {'ms a step':>10} {'loss':>7}")
    torch.manual_seed(0)
    inputs = dict(text_tokens=torch.randn(2, 16, 96), image_tokens=torch.randn(2, 64, 96), time_cond=torch.randn(2, 32))
    wanted = torch.randn(2, 64, 96)
    for name, changes in DESIGNS.items():
        config = {"model": {**SMALL, **changes}}
        with torch.device("meta"), FlopCounterMode(display=False) as counter:  # elsewhere torch misses attention
            mmdit.build(config)(**{key: x.to("meta") for key, x in inputs.items()})[1].sum().backward()
        model = mmdit.build(config)
        parameters = sum(p.numel() for p in model.parameters())
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        times, loss = [], torch.tensor(0.0)
        for _ in range(STEPS):
            begin = perf_counter()
            loss = mse_loss(model(**inputs)[1], wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append(perf_counter() - begin)
        flops, milliseconds = counter.get_total_flops() / 1e6, 1e3 * median(times)
        print(f"{name:10} {parameters:11,} {flops:8,.0f} {milliseconds:10.1f} {loss:7.3f}")


if __name__ == "__main__":
    main()

"""Two designs side by side: parameters, FLOPs, time, and how well each fits the same data in a short training.

python examples/compare_designs.py
"""

from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import mse_loss

import mmdit
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import load_tool_config

SMALL = [
    "model.modalities.text.dim=96",
    "model.modalities.image.dim=96",
    "model.dim_joint_attn=128",
    "model.dim_cond=32",
    "run.tokens.text=16",
    "run.tokens.image=64",
]
DESIGNS = {
    "standard": [],
    "adaptive": ["model.attention.kind=adaptive", "model.attention.num_adaptive_weights=3"],
    "4 streams": ["model.residual.kind=hyper_connections", "model.residual.streams=4"],
}
STEPS = 20


def main() -> None:
    print(f"{'design':10} {'parameters':>11} {'MFLOP':>8} {'ms a step':>10} {'loss':>7}")
    for name, changes in DESIGNS.items():
        config = load_tool_config("two-modality", [*SMALL, *changes])  # a file or the name of a shipped config
        counted = count_flops(config)
        torch.manual_seed(0)  # the same data for all
        inputs = example_inputs(config, seed=0).kwargs
        wanted = torch.randn(inputs["image_tokens"].shape)
        model = mmdit.build(config.model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        times, loss = [], torch.tensor(0.0)
        for _ in range(STEPS):
            begin = perf_counter()
            _, image = model(**inputs)
            loss = mse_loss(image, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append(perf_counter() - begin)
        step, flops = 1e3 * median(times), counted.step_flops / 1e6
        print(f"{name:10} {counted.parameters:11,} {flops:8,.0f} {step:10.1f} {loss.item():7.3f}")


if __name__ == "__main__":
    main()

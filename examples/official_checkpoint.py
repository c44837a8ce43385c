"""An official checkpoint, loaded and sampled.

    python examples/official_checkpoint.py

It makes a small file in the layout of the original SD3 files, and treats it as one would the real one, which is
`mmdit.load("sd3_medium.safetensors", config="sd3-medium", layout="stability")`.
"""

import tempfile

import torch
from safetensors.torch import save_file
from torch import nn

import mmdit
from mmdit.layouts import to_layout
from mmdit.sampling import guide, network_velocity, sample

PATCHES = {"kind": "patches", "channels": 16, "patch": 2, "positions": "sincos", "max_size": 192}
CONFIG = {  # as sd3-medium, but small
    "variant": "two_modality",
    "depth": 2,
    "modalities": {
        "text": {"dim": 64, "input": {"kind": "linear", "dim": 48}},
        "image": {"dim": 64, "input": PATCHES, "output": {"kind": "patches", "channels": 16}},
    },
    "discard": ["text"],
    "unused_weights": "queries",
    "timestep": {"frequencies": 256},
    "pooled": {"dim": 24},
    "dim_cond": 64,
    "heads": 2,
    "attention": {"bias": True},
    "feedforward": {"kind": "gelu_tanh"},
}


def main() -> None:
    torch.manual_seed(0)
    made = mmdit.build(CONFIG)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/sd3_small.safetensors"
        save_file(to_layout(made.state_dict(), made.config, "stability"), path)
        net = mmdit.load(path, config=CONFIG, layout="stability")
        # the text encoders' outputs, with and without a caption
        caption, no_caption = ({"text": torch.randn(1, 77, 48)} for _ in range(2))
        with torch.inference_mode():
            wanted = network_velocity(net, caption, pooled=torch.randn(1, 24))
            unwanted = network_velocity(net, no_caption, pooled=torch.zeros(1, 24))
            noise = {"image": torch.randn(1, 16, 32, 32)}
            latent = sample(lambda x, t: guide(wanted(x, t), unwanted(x, t), 4.5), noise, steps=8, shift=3.0)
    same = all(torch.equal(x, net.state_dict()[name]) for name, x in made.state_dict().items())
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, loaded as they were made: {same}")
    print(f"latent {tuple(latent['image'].shape)}, standard deviation {latent['image'].std():.2f}")


if __name__ == "__main__":
    main()

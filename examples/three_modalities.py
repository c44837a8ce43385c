"""Three modalities in one network: text, video and sound, any of them given or drawn.

python examples/three_modalities.py
"""

import torch

import mmdit
from mmdit.sampling import network_velocity, sample

STREAM = {"input": {"kind": "linear", "dim": 8}, "output": {"kind": "linear", "dim": 8}}
NET = {
    "depth": 2,
    "modalities": {
        "text": {"dim": 64, "input": {"kind": "tokens", "vocabulary": 100, "max_length": 16}},
        # sound has four tokens for each of video's, so a quarter of the distance on the rotary axis
        "video": {"dim": 48, **STREAM, "rotary": {"axes": [0], "scale": 4}},
        "sound": {"dim": 32, **STREAM, "rotary": {"axes": [0]}},
    },
    "rotary": {"axes": [16]},
    "discard": ["text"],
    "timestep": {"frequencies": 64, "scale": 1000},
    "dim_cond": 64,
    "heads": 4,
    "dim_head": 16,
    "qk_rmsnorm": True,
}


def main() -> None:
    torch.manual_seed(0)
    net = mmdit.build(NET).eval()
    for parameter in net.parameters():  # a fresh network gives zeros: its gates start there
        torch.nn.init.normal_(parameter, std=0.1)
    text, video, sound = torch.randint(100, (2, 16)), torch.randn(2, 10, 8), torch.randn(2, 40, 8)
    text_mask = torch.arange(16) < torch.tensor([[5], [16]])

    with torch.inference_mode():
        out = net({"text": text, "video": video, "sound": sound}, torch.rand(2), masks={"text": text_mask})
        print("velocities:", {name: tuple(x.shape) for name, x in out.items() if x is not None})

        padding = text.masked_fill(~text_mask, 0)  # other tokens where the mask says that there are none
        velocity = network_velocity(net, {"text": text}, masks={"text": text_mask})
        other = network_velocity(net, {"text": padding}, masks={"text": text_mask})
        noise = {"video": video, "sound": sound}
        both, again = sample(velocity, noise, steps=4), sample(other, noise, steps=4)
        print("both drawn from text:", {name: tuple(x.shape) for name, x in both.items()})
        print("padding changes nothing:", all(torch.equal(both[name], again[name]) for name in both))

        drawn = sample(velocity, {"sound": sound}, given={"video": both["video"]}, steps=4)
        print("sound drawn for the video:", {name: tuple(x.shape) for name, x in drawn.items()})


if __name__ == "__main__":
    main()

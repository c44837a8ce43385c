"""An MMDiT in a training loop of one's own: it learns to draw a bright pixel where a caption says.

    python examples/training_loop.py

The network around it is plain torch. Training is rectified flow: it sees a mixture of picture and noise, and learns the
velocity `noise - picture`.
"""

import torch
from torch import Tensor, nn

from mmdit import MMDiT

PIXELS, DIM, COND, STEPS = 16, 48, 32, 120


class Drawer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.caption = nn.Embedding(PIXELS, DIM)
        self.pixels = nn.Linear(1, DIM)
        self.place = nn.Parameter(torch.randn(PIXELS, DIM))
        self.time = nn.Sequential(nn.Linear(1, COND), nn.SiLU(), nn.Linear(COND, COND))
        self.transformer = MMDiT(depth=2, dim_text=DIM, dim_image=DIM, dim_cond=COND, heads=4, dim_head=12)
        self.out = nn.Linear(DIM, 1)

    def forward(self, pictures: Tensor, captions: Tensor, t: Tensor) -> Tensor:
        """`pictures`: b n; `captions`: b m, token ids; `t`: b; the velocity: b n."""
        _, tokens = self.transformer(
            text_tokens=self.caption(captions),
            image_tokens=self.pixels(pictures[..., None]) + self.place,
            time_cond=self.time(t[:, None]),
        )
        return self.out(tokens)[..., 0]


def main() -> None:
    torch.manual_seed(0)
    net = Drawer()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for step in range(STEPS + 1):
        captions = torch.randint(PIXELS, (64, 1))
        pictures = 4 * nn.functional.one_hot(captions[:, 0], PIXELS).float() - 1
        noise, t = torch.randn_like(pictures), torch.rand(len(pictures))
        mixed = torch.lerp(pictures, noise, t[:, None])
        loss = nn.functional.mse_loss(net(mixed, captions, t), noise - pictures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 40 == 0:
            print(f"step {step:3d}, loss {loss.item():.3f}")
    captions, x = torch.arange(PIXELS)[:, None], torch.randn(PIXELS, PIXELS)
    with torch.inference_mode():
        for i in range(10, 0, -1):  # Euler steps from noise (t = 1) to a picture (t = 0)
            x = x - net(x, captions, torch.full((PIXELS,), i / 10)) / 10
    print(f"{(x.argmax(1) == captions[:, 0]).sum().item()} of {PIXELS} drawn where the caption says")


if __name__ == "__main__":
    main()

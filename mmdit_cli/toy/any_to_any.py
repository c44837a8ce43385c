"""Drawing any modality from any other, which timesteps of its own for each modality make possible.

A modality that is given is clean, at t = 0, and one of which nothing is known is pure noise (UniDiffuser: Bao et al.
2023; OmniFlow: Li et al. 2024). One network then draws pictures and tones from captions, tones from pictures, pictures
from tones, or everything from nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from mmdit_cli.request.train_config import TrainConfig
from mmdit_cli.toy.data import ToyData
from mmdit_cli.toy.evaluation import SEEN, draw


def any_to_any(
    model: nn.Module, data: ToyData, settings: TrainConfig, *, seed: int, device: torch.device
) -> dict[str, float]:
    """The share of right samples by task, such as `audio from image`; empty where modalities share one timestep, or
    there is one alone.

    With the caption given as well, right is what the caption says. Without it, right is what goes with the modality
    that is given, or where none is, modalities that go with one another; only data whose modalities tell of each other
    have an answer to that.
    """
    names = data.modalities
    if not settings.timesteps.per_modality or len(names) < 2:
        return {}
    batch = data.batch(settings.evaluation_samples, seed=seed, stream=SEEN, index=2)
    shares = {}
    for name in names:
        others = [other for other in names if other != name]
        drawn = draw(model, batch, settings, seed=seed, device=device, given=[name])
        right = torch.stack([drawn.right[other] for other in others]).all(dim=0)
        shares[f"{' and '.join(others)} from text and {name}"] = right.float().mean().item()
    for given in ([], *([name] for name in names)):
        drawn = draw(model, batch, settings, seed=seed, device=device, given=given, captions=False)
        shown = {name: batch.data[name] if name in given else drawn.data[name] for name in names}
        read = {name: data.read(name, x.nan_to_num(posinf=0.0, neginf=0.0)) for name, x in shown.items()}
        together = data.belong_together(read)
        if together is not None:
            others = [name for name in names if name not in given]
            task = f"{' and '.join(others)} from {given[0] if given else 'noise'}"
            shares[task] = together.float().mean().item()
    return shares

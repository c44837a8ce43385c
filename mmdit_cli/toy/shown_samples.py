"""The samples that a run shows, for pages: captions, what the oracle says of each attribute, pictures and sounds."""

from __future__ import annotations

import io
import wave
from base64 import b64encode
from typing import Any

import numpy as np
from torch import Tensor

from mmdit_cli.toy.evaluation import Samples

RATE, REPEATED = 4000, 8  # samples/s of a sound, and how often it is repeated: one alone is over before it is heard


def samples_document(samples: Samples, step: int) -> dict[str, Any]:
    """`samples`: of each its `caption`; by modality the `verdicts`, whether each attribute is as asked for, and the
    `media`, a PNG or a WAV as a `data:` address."""
    names = samples.batch.source.attributes
    rows = []
    for index, caption in enumerate(samples.batch.captions):
        hits = {name: each[index].tolist() for name, each in samples.hits.items()}
        rows.append(
            {
                "caption": caption,
                "verdicts": {name: dict(zip(names(name), each, strict=True)) for name, each in hits.items()},
                "media": {name: _png(x[index]) if x.ndim == 4 else _wav(x[index]) for name, x in samples.data.items()},
            }
        )
    return {"step": step, "samples": rows}


def _png(x: Tensor) -> str:
    """A picture `3 h w` or `1 h w` in [-1, 1]."""
    from matplotlib.image import imsave

    pixels = ((x.nan_to_num() + 1) / 2).clamp(0, 1).expand(3, -1, -1)  # one channel is grey
    file = io.BytesIO()
    imsave(file, pixels.permute(1, 2, 0).contiguous().numpy(), format="png")
    return _address("image/png", file)


def _wav(x: Tensor) -> str:
    """A tone `n d` in [-1, 1], repeated."""
    tone = np.tile(x.nan_to_num().flatten().clamp(-1, 1).numpy(), REPEATED)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes((tone * 32767).astype("<i2").tobytes())
    return _address("audio/wav", file)


def _address(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{b64encode(file.getvalue()).decode()}"

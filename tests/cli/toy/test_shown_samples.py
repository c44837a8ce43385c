from __future__ import annotations

import io
import json
import wave
from base64 import b64decode

import numpy as np
import torch
from matplotlib.image import imread

from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.shown_samples import RATE, REPEATED, samples_document
from tests.support.toy import tiny


def test_every_sample_is_kept_with_its_caption_the_oracles_verdicts_and_what_can_be_seen_and_heard():
    batch = world_of(tiny(True)).batch(3, seed=0, stream=1, index=0)
    data = {name: x.clone() for name, x in batch.data.items()}
    data["image"][1] = float("nan")
    document = json.loads(json.dumps(samples_document(Samples(batch, data), 7)))
    assert document["step"] == 7 and [each["caption"] for each in document["samples"]] == batch.captions
    first, broken, _ = document["samples"]
    assert all(first["verdicts"]["image"].values()) and all(first["verdicts"]["audio"].values())
    assert set(first["verdicts"]["image"]) == set(batch.source.attributes("image"))
    assert not any(broken["verdicts"]["image"].values()) and all(broken["verdicts"]["audio"].values())
    kind, picture = first["media"]["image"].split(",")
    pixels = torch.from_numpy(imread(io.BytesIO(b64decode(picture)))[..., :3]).permute(2, 0, 1)
    assert kind == "data:image/png;base64"
    torch.testing.assert_close(pixels * 2 - 1, data["image"][0], atol=1 / 127, rtol=0)
    kind, sound = first["media"]["audio"].split(",")
    with wave.open(io.BytesIO(b64decode(sound))) as heard:
        tone = np.frombuffer(heard.readframes(heard.getnframes()), "<i2") / 32767
        assert (kind, heard.getframerate(), heard.getnchannels()) == ("data:audio/wav;base64", RATE, 1)
    wanted = data["audio"][0].flatten().clamp(-1, 1).numpy()
    np.testing.assert_allclose(tone.reshape(REPEATED, -1), np.tile(wanted, (REPEATED, 1)), atol=1e-4)

"""The published networks, of which the default run has one of each kind."""

from __future__ import annotations

import pytest

from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from tests.support.marks import slow_but

KINDS = [
    BY_NAME[name]
    for name in (
        *("sd3.5-medium", "qwen-image-edit-2511", "flux.1-dev", "flux.2-dev", "auraflow", "hunyuan-video-1.5"),
        *("lumina-image-2.0", "z-image", "ideogram-4", "flux.3-klein-base", "cogview4", "joyimage-edit", "prx"),
    )
]
each_kind = pytest.mark.parametrize("family", slow_but(FAMILIES, *KINDS), ids=str)

"""The same seed gives the same bits."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch

from benchmarks.numerics.variants import VARIANTS
from tests.support.bits import bits_of
from tests.support.marks import slow_but
from tests.support.paths import ROOT


@pytest.fixture
def deterministic():
    """Operators without a deterministic form raise, and memory that nothing was written to reads as nan."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16], torch.bfloat16), ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[1::4]))
def test_the_same_seed_gives_the_same_bits_and_needs_only_deterministic_operators(variant, dtype, deterministic):
    assert bits_of(variant, dtype) == bits_of(variant, dtype)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_another_process():
    names = ["qk norm", "adaptive by token", "manifold", "masks, packed", "all together"]
    code = f"""
import hashlib, torch
from tests.support.bits import bits_of
torch.set_num_threads({torch.get_num_threads()})
for name in {names}:
    print(hashlib.sha256(bits_of(name, torch.float32)).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    here = [hashlib.sha256(bits_of(name, torch.float32)).hexdigest() for name in names]
    assert done.stdout.split() == here

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_outputs_and_gradients_are_those_of_the_published_package_where_it_is_right():
    done = subprocess.run([sys.executable, "-m", "benchmarks.published"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > 15

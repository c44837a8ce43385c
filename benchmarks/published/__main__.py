"""Compare this library with the published `mmdit` 0.3.0, in the settings where that one is right.

    python -m benchmarks.published

Theirs runs in an environment of its own, made on the first run (--python names one that exists). Exit code: 0 where
every difference is within the tolerance, 1 where one is not, 2 where theirs can't be run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.published.comparison import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, all_differences
from benchmarks.published.environment import PUBLISHED, make_environment
from benchmarks.published.settings import VERSION


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help=f"a python that has mmdit {VERSION}; default: make an environment")
    parser.add_argument("--environment", type=Path, default=PUBLISHED, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        found = all_differences(arguments.python or make_environment(arguments.environment))
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"the published mmdit {VERSION} could not be run: {error}", file=sys.stderr)
        return 2
    width, good = max(map(len, found)), True
    print(f"{'against mmdit ' + VERSION + ', float32':<{width}}  outputs  gradients")
    for name, (out, gradient) in found.items():
        within = out <= OUTPUT_TOLERANCE and gradient <= GRADIENT_TOLERANCE
        good &= within
        print(f"{name:<{width}}  {out:7.1e}  {gradient:9.1e}{'' if within else '  too large'}")
    print(f"largest difference over largest value; at most {OUTPUT_TOLERANCE:g} and {GRADIENT_TOLERANCE:g}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

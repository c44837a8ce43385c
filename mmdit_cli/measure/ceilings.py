"""What the machine can do at best: matrix products per second at a dtype, and bytes per second."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from mmdit_cli.measure.timing import Stopwatch

# rows, inner, columns: square, and the tall ones of a transformer's projections
GEMM_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 1536, 6144), (4096, 1024, 1024))
CUDA_GEMM_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 2432, 9728), (4096, 1536, 6144))


@dataclass(frozen=True)
class Ceilings:
    """The best rates seen: FLOP/s of a matrix product (2 a multiply-add), bytes/s of reading and writing memory."""

    gemm_flops_per_s: float
    bytes_per_s: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.5) -> Ceilings:
    """The best of several shapes and runs, in about `seconds`: a limit that real work can approach and not pass."""
    return Ceilings(
        gemm_flops_per_s=_best_gemm(device, dtype, seconds * 0.7), bytes_per_s=_best_stream(device, seconds * 0.3)
    )


def _best_gemm(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    stopwatch, best = Stopwatch(device), 0.0
    shapes = CUDA_GEMM_SHAPES if device.type == "cuda" else GEMM_SHAPES
    for rows, inner, columns in shapes:
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(columns, inner, device=device).to(dtype).t()  # as a linear's weight lies
        out = torch.empty(rows, columns, device=device, dtype=dtype)

        def product(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> None:
            torch.mm(a, b, out=out)

        product()
        fastest = _fastest(product, stopwatch, seconds / len(shapes))
        best = max(best, 2 * rows * inner * columns / fastest)
    return best


def _best_stream(device: torch.device, seconds: float) -> float:
    """`a = b + c` over arrays far larger than the caches: two reads and a write (McCalpin's STREAM "add")."""
    count = (1 << 28 if device.type == "cuda" else 1 << 24) // 4 * 4
    b, c = torch.ones(count, device=device), torch.ones(count, device=device)
    a = torch.empty_like(b)
    stopwatch = Stopwatch(device)
    torch.add(b, c, out=a)
    return 3 * a.numel() * a.element_size() / _fastest(lambda: torch.add(b, c, out=a), stopwatch, seconds)


def _fastest(call: object, stopwatch: Stopwatch, seconds: float) -> float:
    end, fastest, runs = time.perf_counter() + seconds, float("inf"), 0
    while runs < 3 or time.perf_counter() < end:
        fastest = min(fastest, stopwatch(call))  # type: ignore[arg-type]
        runs += 1
    return fastest

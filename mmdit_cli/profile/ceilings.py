"""What the machine can do at best: matrix products per second at a dtype, and bytes per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mmdit_cli.profile.timing import Stopwatch
from mmdit_cli.profile.traffic import Gemm

# rows, inner, columns: square, and the tall ones of a transformer's projections
GEMM_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 1536, 6144), (4096, 1024, 1024))
CUDA_GEMM_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 2432, 9728), (4096, 1536, 6144))
MOST_FLOPS = {"cpu": 2e10, "cuda": 4e12}  # of one product; a model's own larger ones are cut to so many rows
STREAM_BYTES = {  # from what a core's cache holds to far more than all of them
    "cpu": (3 << 18, 3 << 20, 3 << 22, 3 << 24, 3 << 26),
    "cuda": (3 << 20, 3 << 22, 3 << 24, 3 << 26, 3 << 30),
}
TIMED_BYTES = {
    "cpu": 1 << 26,
    "cuda": 1 << 31,
}  # moved between two looks at the clock, by small streams many times over


@dataclass(frozen=True)
class StreamRate:
    """Bytes/s of reading and writing that many bytes over and over."""

    bytes: int
    bytes_per_s: float


@dataclass(frozen=True)
class Ceilings:
    """The best rates seen: FLOP/s of a matrix product (2 a multiply-add), bytes/s of main memory, and of streams of
    smaller sizes, which caches serve faster.

    `kept`: where they are the best of two measurements, the lower of the two over the higher, at the worse of products
    and main memory. `tf32`: whether products of float32 are of TF32, here as in the model; None where they can't be.
    """

    gemm_flops_per_s: float
    bytes_per_s: float
    gemm_shape: Gemm
    streams: tuple[StreamRate, ...]
    kept: float = 1.0
    tf32: bool | None = None

    def stream_rate(self, size: int) -> float:
        """The best bytes/s seen for a stream of `size` bytes or more."""
        large_enough = [stream.bytes_per_s for stream in self.streams if stream.bytes >= size]
        return max(large_enough, default=self.bytes_per_s)


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, *, gemms: Sequence[Gemm] = (), seconds: float = 2.0
) -> Ceilings:
    """The best of several shapes, sizes and runs, in about `seconds`: a limit that real work can approach and not pass.

    Args:
        gemms: a model's own products, tried beside the common shapes.
    """
    gemm, shape = _best_gemm(device, dtype, gemms, seconds * 0.6)
    sizes = STREAM_BYTES[device.type]
    streams = tuple(StreamRate(size, _stream(device, size, seconds * 0.4 / len(sizes))) for size in sizes)
    tf32 = _uses_tf32() if device.type == "cuda" and dtype == torch.float32 else None
    return Ceilings(gemm, streams[-1].bytes_per_s, shape, streams, tf32=tf32)


def best_of(a: Ceilings, b: Ceilings) -> Ceilings:
    """The higher of two measurements' rates, each."""
    streams = tuple(
        StreamRate(x.bytes, max(x.bytes_per_s, y.bytes_per_s)) for x, y in zip(a.streams, b.streams, strict=True)
    )
    gemm = max(a, b, key=lambda ceilings: ceilings.gemm_flops_per_s)
    rates = ((a.gemm_flops_per_s, b.gemm_flops_per_s), (a.bytes_per_s, b.bytes_per_s))
    kept = min(min(pair) / max(pair) for pair in rates)
    return Ceilings(gemm.gemm_flops_per_s, max(rates[1]), gemm.gemm_shape, streams, kept, a.tf32)


def _best_gemm(device: torch.device, dtype: torch.dtype, own: Sequence[Gemm], seconds: float) -> tuple[float, Gemm]:
    stopwatch, best = Stopwatch(device), (0.0, (0, 0, 0))
    shapes = dict.fromkeys((*(CUDA_GEMM_SHAPES if device.type == "cuda" else GEMM_SHAPES), *own))
    for rows, inner, columns in shapes:
        rows = max(1, min(rows, int(MOST_FLOPS[device.type] / (2 * inner * columns))))
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(columns, inner, device=device).to(dtype).t()  # as a linear's weight lies
        out = torch.empty(rows, columns, device=device, dtype=dtype)

        def product(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> None:
            torch.mm(a, b, out=out)

        rate = 2 * rows * inner * columns / _fastest(product, stopwatch, seconds / len(shapes))
        best = max(best, (rate, (rows, inner, columns)))
    return best


def _stream(device: torch.device, size: int, seconds: float) -> float:
    """`a = b + c`: two reads and a write (McCalpin's STREAM "add"), `size` bytes in all."""
    count = size // 12
    b, c = torch.ones(count, device=device), torch.ones(count, device=device)
    a = torch.empty_like(b)
    times = max(1, TIMED_BYTES[device.type] // size)
    adds = repeated(lambda: torch.add(b, c, out=a), times, device)
    return times * 12 * count / _fastest(adds, Stopwatch(device), seconds)


def repeated(call: Callable[[], object], times: int, device: torch.device) -> Callable[[], object]:
    """So many calls as one; on CUDA as one graph, since launching a small kernel takes longer than its work."""

    def all_of_them() -> None:
        for _ in range(times):
            call()

    if device.type != "cuda" or times == 1:
        return all_of_them
    call()  # what a first call sets up can't be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_of_them()
    return graph.replay


def _uses_tf32() -> bool:
    """Whether CUDA's products of float32 round to TF32."""
    products = torch.backends.cuda.matmul
    precision = getattr(products, "fp32_precision", None)  # since torch 2.9, where the older name may refuse to be read
    return bool(products.allow_tf32) if precision is None else precision == "tf32"


def _fastest(call: Callable[[], object], stopwatch: Stopwatch, seconds: float) -> float:
    fastest, end = stopwatch(call), time.perf_counter() + seconds  # the first run warms up
    while time.perf_counter() < end:
        fastest = min(fastest, stopwatch(call))
    return fastest

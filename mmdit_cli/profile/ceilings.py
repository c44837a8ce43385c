"""What the machine can do at best: matrix products per second at a dtype, and bytes per second."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
LOOK_SECONDS = {"cpu": 0.03, "cuda": 0.1}  # of one look at a product or a stream
NEAR = 0.95  # of the best product: others that reach so much are looked at again as well
MOST_NEAR = 3
FEWEST_LOOKS = 4  # at the best product and at main memory, half of them in each half of the time
LEAST_KEPT = 0.8  # of a ceiling; below, it is another machine's, or the same one busy

Candidate = Gemm | int  # a product, or a stream of so many bytes
Rates = dict[Candidate, float]  # FLOP/s of products, bytes/s of streams


@dataclass(frozen=True)
class StreamRate:
    """Bytes/s of reading and writing that many bytes over and over."""

    bytes: int
    bytes_per_s: float


@dataclass(frozen=True)
class Ceilings:
    """The best rates seen: FLOP/s of a matrix product (2 a multiply-add), bytes/s of main memory, and of streams of
    smaller sizes, which caches serve faster.

    `kept`: the best of one half of the time of measuring over that of the other, the lower over the higher, at the
    worse of products and main memory. `age_s`: seconds since an earlier run measured what was not measured again;
    None: all of it is of this run. `reached`: of what is known from then, what this run saw. `tf32`: whether products
    of float32 are of TF32, here as in the model; None where they can't be.
    """

    gemm_flops_per_s: float
    bytes_per_s: float
    gemm_shape: Gemm
    streams: tuple[StreamRate, ...]
    kept: float = 1.0
    tf32: bool | None = None
    age_s: float | None = None
    reached: float = 1.0

    def stream_rate(self, size: int) -> float:
        """The best bytes/s seen for a stream of `size` bytes or more."""
        large_enough = [stream.bytes_per_s for stream in self.streams if stream.bytes >= size]
        return max(large_enough, default=self.bytes_per_s)


class CeilingMeter:
    """Measures ceilings look by look, so that the pauses of other work are enough for it.

    Args:
        measure: the rate of a product or a stream.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        measure: Callable[[Candidate], float] | None = None,
    ) -> None:
        self.device, self.dtype = device, dtype
        common = CUDA_GEMM_SHAPES if device.type == "cuda" else GEMM_SHAPES
        self.candidates: list[Candidate] = [*common, *STREAM_BYTES[device.type]]
        self.memory = STREAM_BYTES[device.type][-1]
        self.known: Rates = {}
        self.age_s: float | None = None
        self.seen: dict[Candidate, list[float]] = defaultdict(list)  # by look
        self.turn = 0
        self.measure = measure or partial(measure_rate, device, dtype)

    def know(self, rates: Rates, age_s: float) -> None:
        """Take over the rates of a measurement that ended so many seconds ago. What they hold is not tried again, but
        for the best product and main memory; where these are far better now, nothing of it is believed."""
        self.known, self.age_s = dict(rates), age_s

    def add(self, gemms: Sequence[Gemm]) -> None:
        """Try a model's own products beside the common shapes."""
        for rows, inner, columns in gemms:
            most = max(1, int(MOST_FLOPS[self.device.type] / (2 * inner * columns)))
            self.candidates.append((min(rows, most), inner, columns))

    def start(self) -> None:
        """Look at one of the best products that are known, or at any, and at main memory."""
        for candidate in (*self._near(), self.candidates[0])[:1]:
            self._look(candidate)
        self._look(self.memory)

    def survey(self) -> None:
        """Look at all that is not known yet."""
        if not self.seen:
            self.start()
        for candidate in self.candidates:
            if candidate not in self.known and candidate not in self.seen:
                self._look(candidate)

    def look(self) -> None:
        """Look once more at one of the best products, or at main memory, in turn."""
        near = self._near()
        self.turn += 1
        self._look(self.memory if self.turn % 2 or not near else near[self.turn // 2 % len(near)])

    def spend(self, seconds: float) -> None:
        """Survey, and look again until so many seconds are over."""
        end = time.perf_counter() + seconds
        self.survey()
        while time.perf_counter() < end:
            self.look()

    def finish(self) -> None:
        """Look until enough is seen, and once more in any case, for how it is at the end."""
        self.survey()
        for candidate in (self._most_seen(), self.memory):
            for _ in range(max(1, FEWEST_LOOKS - len(self.seen[candidate]))):
                self._look(candidate)

    def rates(self) -> Rates:
        """The best of each that is known or was seen."""
        seen = {candidate: max(rates) for candidate, rates in self.seen.items()}
        return {key: max(self.known.get(key, 0.0), seen.get(key, 0.0)) for key in (*self.known, *seen)}

    def ceilings(self) -> Ceilings:
        """What is known by now, after a start."""
        rates = self.rates()
        shape, gemm = max(((key, rate) for key, rate in rates.items() if not isinstance(key, int)), key=lambda x: x[1])
        streams = tuple(StreamRate(key, rates[key]) for key in sorted(key for key in rates if isinstance(key, int)))
        looked_at = [self._most_seen(), self.memory]
        return Ceilings(
            gemm,
            rates[self.memory],
            shape,
            streams,
            kept=min(_kept(self.seen[candidate]) for candidate in looked_at),
            tf32=uses_tf32() if self.device.type == "cuda" and self.dtype == torch.float32 else None,
            age_s=self.age_s if self.known else None,
            reached=min(max(self.seen[each]) / rates[each] for each in looked_at),
        )

    def _look(self, candidate: Candidate) -> None:
        rate = self.measure(candidate)
        self.seen[candidate].append(rate)
        if rate * LEAST_KEPT > self.known.get(candidate, rate):
            self.known.clear()

    def _near(self) -> list[Candidate]:
        """The best product and others that come near it, those of least work first."""
        rates = {key: rate for key, rate in self.rates().items() if not isinstance(key, int)}
        near: list[Candidate] = [key for key, rate in rates.items() if rate >= NEAR * max(rates.values())]
        return sorted(near, key=_work)[:MOST_NEAR]

    def _most_seen(self) -> Candidate:
        return max((key for key in self.seen if not isinstance(key, int)), key=lambda key: len(self.seen[key]))


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, *, gemms: Sequence[Gemm] = (), seconds: float = 2.0
) -> Ceilings:
    """The best of several shapes, sizes and runs, in about `seconds`: a limit that real work can approach and not pass.

    Args:
        gemms: a model's own products, tried beside the common shapes.
    """
    meter = CeilingMeter(device, dtype)
    meter.add(gemms)
    meter.spend(seconds)
    return meter.ceilings()


def measure_rate(device: torch.device, dtype: torch.dtype, candidate: Candidate) -> float:
    """FLOP/s of a product, or bytes/s of a stream, the fastest of as many runs as one look has time for."""
    if isinstance(candidate, int):
        return _stream(device, candidate)
    rows, inner, columns = candidate
    a = _filled(rows, inner, device, dtype)
    b = _filled(columns, inner, device, dtype).t()  # as a linear's weight lies
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / _fastest(lambda: torch.mm(a, b, out=out), device)


def _filled(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers, for zeros would take less power and be faster; on the CPU, which draws them slowly and cares
    less, the same row again and again."""
    drawn, times = (rows, 1) if device.type == "cuda" else (1, rows)
    return torch.randn(drawn, columns, device=device).to(dtype).repeat(times, 1)


def _stream(device: torch.device, size: int) -> float:
    """`a = b + c`: two reads and a write (McCalpin's STREAM "add"), `size` bytes in all."""
    count = size // 12
    b, c = torch.ones(count, device=device), torch.ones(count, device=device)
    a = torch.empty_like(b)
    times = max(1, TIMED_BYTES[device.type] // size)
    adds = repeated(lambda: torch.add(b, c, out=a), times, device)
    return times * 12 * count / _fastest(adds, device)


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


def uses_tf32() -> bool:
    """Whether CUDA's products of float32 round to TF32."""
    products = torch.backends.cuda.matmul
    precision = getattr(products, "fp32_precision", None)  # since torch 2.9, where the older name may refuse to be read
    return bool(products.allow_tf32) if precision is None else precision == "tf32"


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Of two runs, for the first warms up, and of as many more as one look has time for."""
    stopwatch, end = Stopwatch(device), time.perf_counter() + LOOK_SECONDS[device.type]
    fastest = min(stopwatch(call), stopwatch(call))
    while time.perf_counter() < end:
        fastest = min(fastest, stopwatch(call))
    return fastest


def _kept(rates: Sequence[float]) -> float:
    """The best of one half of the looks over that of the other, whichever is lower."""
    half = len(rates) // 2
    if not half:
        return 1.0
    first, last = max(rates[:half]), max(rates[half:])
    return min(first, last) / max(first, last)


def _work(candidate: Candidate) -> int:
    rows, inner, columns = (candidate, 1, 1) if isinstance(candidate, int) else candidate
    return rows * inner * columns

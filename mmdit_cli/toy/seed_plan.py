"""Which seeds a comparison is trained with: so many, or as many as it takes to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.intervals import CONFIDENCE, FEWEST_PAIRS, look_level

T = TypeVar("T")
By = Literal["steps", "flops", "seconds"]  # of what designs that are compared spend as much
AUTO, MOST = "auto", 1000
UNTIL_DECIDED = 8  # seeds at most, where --max-seeds does not say


@dataclass(frozen=True)
class SeedPlan:
    """The `most` seeds from `first` on; `auto`: as many of them as it takes to decide each comparison."""

    first: int
    most: int
    auto: bool = False

    @property
    def seeds(self) -> range:
        return range(self.first, self.first + self.most)

    @property
    def words(self) -> str:
        """As it is asked for."""
        named = f"--seeds auto --max-seeds {self.most}" if self.auto else f"--seeds {self.most}"
        return f"--seed {self.first} {named}" if self.first else named

    def level(self, n: int) -> float:
        """How often an interval may leave out the truth after `n` seeds: in 5 %, or where it is looked at after every
        seed, so often that all looks together do so in 5 %."""
        return look_level(n, self.most) if self.auto else 1 - CONFIDENCE

    def rounds(self, designs: Sequence[T], jobs: int, settled: Callable[[T], bool]) -> Iterator[list[tuple[T, int]]]:
        """What is to be trained next, each time after what came before has been: designs take turns (a and b with the
        first seed, then with the second), so that the machine's drift hits all alike. With `auto` the seeds of a round
        keep all jobs busy, and a design is left out of the next once it is `settled`: decided against the first, or
        past deciding.
        """
        if not self.auto:
            yield [(design, seed) for seed in self.seeds for design in designs]
            return
        spent, waiting = 0, list(designs[1:])
        while waiting and spent < self.most:
            count = max(1, jobs // (1 + len(waiting))) if spent else FEWEST_PAIRS
            seeds = self.seeds[spent : spent + count]
            yield [(design, seed) for seed in seeds for design in (designs[0], *waiting)]
            spent += len(seeds)
            waiting = [design for design in waiting if not settled(design)]


def read_seeds(asked: str, most: int | None, *, first: int) -> SeedPlan:
    """What `--seeds` and `--max-seeds` ask for.

    Raises:
        UserError: it is no number of seeds, or more than numbers of 64 bits can name.
    """
    auto = asked.strip() == AUTO
    if auto:
        count = UNTIL_DECIDED if most is None else most
    elif most is not None:
        raise UserError("--max-seeds is for --seeds auto")
    else:
        digits = asked.strip()
        count = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(MOST)) else 0
        if not 1 <= count <= MOST:
            raise UserError(f"--seeds {asked}: expected a whole number from 1 to {MOST}, or auto")
    if first + count > 1 << 64:
        raise UserError(f"--seeds {asked}: the last of them, {first + count - 1}, is no number of 64 bits")
    return SeedPlan(first, count, auto)

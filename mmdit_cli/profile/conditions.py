"""Under which conditions a profile was measured, and what of them the reader of its figures has to know."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Conditions:
    """`notices`: what makes the figures less than they seem, one sentence each; none where all is well."""

    notices: list[str] = field(default_factory=list)

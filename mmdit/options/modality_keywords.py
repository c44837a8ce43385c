"""The constructors' keywords speak of modalities by their places, options by their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from mmdit.options.fields import Size, Text, Whole


def modality_labels(names: Sequence[str] | None, count: int, *, what: str = "modality") -> tuple[str, ...]:
    """What errors and tables call the modalities; numbered where they have no names."""
    if names is None:
        return tuple(f"{what} {index}" for index in range(count))
    if len(names) != count:
        raise ValueError(
            f"there must be one name for each of the {count} {what} widths, got {len(names)}: {tuple(names)}"
        )
    return tuple(names)


def by_modality(value: int | Mapping[str, int], names: Sequence[str], argument: str) -> list[int]:
    """One value for all modalities, or by name, where it is 1 for those that are not named.

    Raises:
        ValueError: a name is that of none.
    """
    if isinstance(value, int):
        return [value] * len(names)
    if unknown := [name for name in value if name not in names]:
        raise ValueError(f"{argument} names {unknown[0]!r}; the modalities are {', '.join(names)}")
    return [value.get(name, 1) for name in names]


def modality_indexes(given: Collection[int], count: int, argument: str) -> frozenset[int]:
    """The set of modality indexes in `given`, each checked to exist."""
    for index in given:
        if not 0 <= index < count:
            raise ValueError(f"{argument} holds modality indexes below {count}, got {index}")
    return frozenset(given)


NAMED = {"dim_modalities": MISSING, "modality_names": None}
NAMED_TYPES = (tuple[Size, ...], tuple[Text, ...] | None)


def distinct(dims: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
    labels = modality_labels(names, len(dims))
    if len({*labels}) < len(labels):
        raise ValueError(f"modality_names must differ from one another, got {labels}")
    return labels


def by_names(argument: str) -> dict[str, Any]:
    """The names of the modalities whose places a keyword gives."""

    def named(given: Collection[int], dims: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
        labels = modality_labels(names, len(dims))
        return tuple(labels[i] for i in sorted(modality_indexes(given, len(dims), argument)))

    return {"keywords": {argument: (), **NAMED}, "made": named, "types": (tuple[Whole, ...], *NAMED_TYPES)}


def for_each(argument: str, default: Any, kind: Any) -> dict[str, Any]:
    """One value of a kind for all modalities, or by name its own for each."""

    def values(given: Any, dims: Sequence[int], names: Sequence[str] | None) -> Any:
        labels = modality_labels(names, len(dims))
        if isinstance(given, (int, bool)):
            return given
        if len(given) != len(dims):
            raise ValueError(f"{argument} must be one value or one for each of {', '.join(labels)}, got {len(given)}")
        return dict(zip(labels, given, strict=True))

    types = (kind | tuple[kind, ...], *NAMED_TYPES)
    return {"keywords": {argument: default, **NAMED}, "made": values, "types": types}

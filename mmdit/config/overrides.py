"""`KEY=VALUE`: a value of a config, set after its file was read."""

from __future__ import annotations

from typing import Any

from mmdit.config.yaml_document import MAX_DEPTH, ConfigError, Document, KeyPath, dotted, one_line, parse

EVERY = "*"
MAX_FOUND = 100  # keys that it stands for; setting one looks at all places


def apply(document: Document, override: str, option: str) -> None:
    """Set what `KEY=VALUE` says; a part of the key that is `*` is every key that the config has there.

    Args:
        option: how errors name what gave it.

    Raises:
        ConfigError: it is malformed, `*` finds no key, or something on the way is not a mapping.
    """
    key, equals, text = override.partition("=")
    label = f"{option} {one_line(override, 60)}"
    path = tuple(key.strip().split("."))
    if not equals or "" in path:
        raise ConfigError(f"{label}: expected KEY=VALUE with a dotted key, as in {option} model.depth=4")
    if len(path) > MAX_DEPTH:
        raise ConfigError(
            f"{label}: its key has {len(path)} parts, and nothing is nested deeper than {MAX_DEPTH} levels"
        )
    for at in _meant(document, path, label):
        document.set(at, parse(text, label, lines=False))


def _meant(document: Document, path: tuple[str, ...], label: str) -> list[KeyPath]:
    """The paths that one with `*` stands for."""
    if any(EVERY in part and part != EVERY for part in path):
        raise ConfigError(f"{label}: a * is a whole part of a key, as in model.modalities.*.dim=64")
    found: list[tuple[KeyPath, Any]] = [((), document.data)]
    for depth, part in enumerate(path):
        if part != EVERY:
            found = [((*at, part), here.get(part) if isinstance(here, dict) else None) for at, here in found]
            continue
        found = [((*at, key), value) for at, here in found if isinstance(here, dict) for key, value in here.items()]
        place = dotted(path[:depth]) or "the config"
        if not found:
            raise ConfigError(f"{label}: * finds no key in {place}; {_known(document.data, path[:depth])}")
        if any(EVERY in str(at[-1]) for at, _ in found):
            raise ConfigError(f"{label}: {place} has a key with a * of its own; name the keys that you mean")
        if len(found) > MAX_FOUND:
            raise ConfigError(f"{label}: * finds {len(found)} keys in {place}; at most {MAX_FOUND} are set at once")
    return [at for at, _ in found]


def _known(here: dict[str, Any], path: tuple[str, ...]) -> str:
    """The keys as far as the path goes."""
    at: tuple[str, ...] = ()
    for part in path:
        if not isinstance(inner := here.get(part), dict):
            break
        here, at = inner, (*at, part)
    return f"the keys of {dotted(at) or 'the config'} are {one_line(', '.join(here), 300) or 'none'}"

"""A config file's text as data, with the keys of the config that it `extends`.

It is extended by the name of a shipped config or by its file, from the folder of the file that names it, and may extend
another in turn. Mappings merge, anything else replaces what was there, and null leaves a key out.
"""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from mmdit.config.diffusers_config import diffusers_document
from mmdit.config.regular_file import read_regular
from mmdit.config.shipped import find_shipped, shipped_configs
from mmdit.config.yaml_document import MAX_BYTES, ConfigError, Document, KeyPath, one_line, parse, short

KEY = "extends"
MAX_CHAIN = 16  # configs of which each extends the next
MAX_EXTENDED = 20_000  # values in all but the first


def read_document(path: str | Path, text: bytes | None = None) -> Document:
    """A config file (`-`: standard input), a shipped config by its name, a run's folder, or that of a network of
    diffusers (a pipeline's, one in the Hub's cache), with what it extends.

    Args:
        text: the config, where the file holds more than that.

    Raises:
        ConfigError: it, or what it extends, can't be read or is no mapping, or a config extends itself.
    """
    if str(path) == "-":
        return with_extended(_as_mapping(parse(_read_stdin(), "<stdin>")))
    path = _at_hand(path)
    source = one_line(path, 300)
    if text is None and (theirs := diffusers_document(path)) is not None:
        return with_extended(theirs)
    document = _as_mapping(parse(_read(path, source) if text is None else text, source))
    return with_extended(document, path)


def with_extended(document: Document, path: str = "") -> Document:
    """A config's document put over that which it extends; the places of all keys are those of the files they stand in.

    Args:
        path: of the file that it is of, if any.

    Raises:
        ConfigError: what it extends can't be read or is no mapping, or a config extends itself.
    """
    chain, paths = [document], [path] if path else []
    while (name := chain[-1].data.pop(KEY, None)) is not None:
        place = f"{chain[-1].where((KEY,))}: {KEY}"
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{place}: expected the name or the file of a config, got {short(name)}")
        path = _at_hand(name, os.path.dirname(path))
        source = one_line(path, 300)
        if path.endswith(".safetensors"):
            hint = f"write theirs to a file first: mmdit configs {source} --resolved > base.yaml"
            raise ConfigError(f"{place}: expected a config, and {source} are weights; {hint}")
        try:
            chain.append(_as_mapping(parse(_read(path, source), source, most=MAX_EXTENDED)))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        paths.append(path)
        if os.path.realpath(path) in map(os.path.realpath, paths[:-1]):
            raise ConfigError(f"{place}: a config can't extend itself: {one_line(' extends '.join(paths))}")
        if len(chain) > MAX_CHAIN:
            raise ConfigError(f"{place}: more than {MAX_CHAIN} configs, of which each extends the next")
        if sum(len(each.values) for each in chain[1:]) > MAX_EXTENDED:
            raise ConfigError(f"{place}: more than {MAX_EXTENDED} values in all that is extended")
    whole = chain.pop()
    while chain:
        whole = _merged(whole, chain.pop())
    return whole


def _merged(base: Document, changes: Document) -> Document:
    """The base with the changes, into which its data is taken."""
    replaced: set[KeyPath] = set()

    def change(old: dict[str, Any], new: dict[str, Any], above: KeyPath) -> None:
        for key, value in new.items():
            if isinstance(value, dict) and isinstance(old.get(key), dict):
                change(old[key], value, (*above, key))
                continue
            replaced.add((*above, key))
            if value is None and key in old:
                del old[key]
            else:
                old[key] = value

    change(base.data, changes.data, ())

    def kept(path: KeyPath) -> bool:
        return not any(path[:depth] in replaced for depth in range(1, len(path) + 1))

    keys, values = ({at: place for at, place in each.items() if kept(at)} for each in (base.keys, base.values))
    return Document(changes.source, base.data, keys | changes.keys, values | changes.values)


def _at_hand(name: str | Path, folder: str = "") -> str:
    """The file that is meant by a name or path from a folder: a shipped config's, that of a training run, or itself."""
    path = os.path.join(folder, name)
    if (shipped := find_shipped(name, folder)) is not None:
        path = str(shipped)
    own = os.path.join(path, "config.yaml")
    return own if os.path.isfile(own) else path


def _as_mapping(document: Document) -> Document:
    if document.data is None:
        raise ConfigError(f"{document.source}: the file is empty; expected a mapping")
    if not isinstance(document.data, dict):
        raise ConfigError(f"{document.where(())}: expected a mapping, got {short(document.data)}")
    return document


def _read_stdin() -> bytes:
    try:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    except (OSError, AttributeError, ValueError) as error:  # it is closed
        raise ConfigError(f"<stdin>: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _read(path: str, source: str) -> bytes:
    try:
        return read_regular(path, MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file{_hint(Path(path))}") from None
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror or error}") from None
    except ValueError as error:  # the path holds a NUL
        raise ConfigError(f"{source}: can't be read: {error}") from None


def _hint(path: Path) -> str:
    """The nearest name in the folder where the file was looked for, or else among the shipped configs."""
    shipped = difflib.get_close_matches(path.stem if path.suffix == ".yaml" else path.name, shipped_configs(), n=1)
    ours = f"; mmdit comes with one that is called {shipped[0]}" if shipped else ""
    try:
        with os.scandir(path.parent) as entries:
            names = {Path(entry.name).stem: entry.name for entry in itertools.islice(entries, 1000)}
    except FileNotFoundError:
        return f"; the folder {short(str(path.parent))} does not exist either{ours}"
    except OSError:
        return ours
    configs = sorted(stem for stem, name in names.items() if name.endswith((".yaml", ".yml")))
    near = difflib.get_close_matches(path.stem, configs, n=1)
    return f"; did you mean {one_line(str(path.with_name(names[near[0]])), 300)}?" if near else ours

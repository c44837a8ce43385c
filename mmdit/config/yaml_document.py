"""YAML text to plain data and the place of every key, with nothing constructed but text, numbers, lists and dicts.

Scalars follow YAML 1.2's core schema: `1e-6` is a number; `yes`, `1:30` and `2020-01-01` are text. But `1e3` is whole,
as whoever writes it means. Tags and merge keys are refused. Size, depth and the expansion of aliases are bounded, so
that a hostile text costs little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import yaml
from yaml.reader import Reader

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000  # after aliases are expanded

KeyPath = tuple[str | int, ...]

_WORDS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.title(), word.upper())
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+[eE]\+?[0-9]+")  # `1e3`, which YAML would have as 1000.0
_MOST_WHOLE = 2**53  # up to which every whole number is a float
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 100  # characters; int() takes quadratic time
_FORBIDDEN = Reader.NON_PRINTABLE  # control characters and lone surrogates, which YAML text can't hold


class ConfigError(ValueError):
    """A config that can't be read or is wrong; the message names the place, what was expected and what was got.

    `mistyped`: the sources (a file, `--set KEY=VALUE`) of values that no config can have there, whatever else it says.
    """

    mistyped: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where something stands; line and column count from 1, and line 0 stands for a source without lines."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass
class Document:
    """Plain data, with the place of each key (or list item) and of each value."""

    source: str
    data: Any = None
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)

    def copy(self) -> Document:
        """Another of the same, to be changed."""
        return Document(self.source, deepcopy(self.data), {**self.keys}, {**self.values})

    def where(self, path: KeyPath, *, key: bool = False) -> Place:
        """The place of the value at the path (`key`: of its key), or else of the deepest key above it that exists."""
        if path in self.values and not key:
            return self.values[path]
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Place(self.source))

    def set(self, path: KeyPath, other: Document) -> None:
        """Put another document's data and places at the path, making the mappings on the way.

        Raises:
            ConfigError: something on the way is not a mapping.
        """
        here = self.data
        for depth, part in enumerate(path[:-1], start=1):
            if here.get(part) is None:
                here[part] = {}
                self.keys[path[:depth]] = self.values[path[:depth]] = Place(other.source)
            here = here[part]
            if not isinstance(here, dict):
                raise ConfigError(
                    f"{other.source}: {dotted(path[:depth])} is {short(here)} ({self.where(path[:depth])}), "
                    f"which has no keys; set it whole"
                )
        here[path[-1]] = other.data
        for places, others in ((self.keys, other.keys), (self.values, other.values)):
            for old in [old for old in places if old[: len(path)] == path]:
                del places[old]
            places.update({path + below: place for below, place in others.items()})


def parse(text: str | bytes, source: str, *, lines: bool = True, most: int = MAX_NODES) -> Document:
    """Read one YAML document; bytes are UTF-8. An empty text is `None`.

    Args:
        source: how errors name the text; with `lines`, `:line:column` is added to it.
        most: values that it may hold after aliases are expanded.

    Raises:
        ConfigError: too large or deep, not text, not YAML, several documents, a duplicate key, a tag, a merge key, ...
    """
    return _Parser(source, lines, most).parse(text)


class _Loader(yaml.BaseLoader):
    """PyYAML as far as the node graph, its scalars read; a tag says whether a node is a plain scalar."""

    def __init__(self, text: str, parser: _Parser) -> None:
        super().__init__(text)
        self.parser, self.nodes, self.depth = parser, 0, 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        return "plain" if kind is yaml.ScalarNode and implicit[0] else ""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        self.nodes += 1
        self.depth += 1
        self.parser.check_limits(event.start_mark, self.nodes, self.depth)
        if (tag := getattr(event, "tag", None)) is not None:
            self.parser.fail(event.start_mark, f"tags are not allowed, got {tag.replace('tag:yaml.org,2002:', '!!')}")
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.ScalarEvent) and node:  # here and not in build, which meets it again at each alias
            node.value = self.parser.scalar(node)
        self.depth -= 1
        return node


class _Parser:
    def __init__(self, source: str, lines: bool, most: int) -> None:
        self.lines, self.most = lines, most
        self.document = Document(source)
        self.nodes = 0
        self.open: set[int] = set()  # ids of the nodes being built

    def parse(self, text: str | bytes) -> Document:
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{self.document.source}: larger than {MAX_BYTES} bytes, which no config is")
        node = self.compose(text if isinstance(text, str) else self.decode(text))
        self.document.keys[()] = self.document.values[()] = self.place(node.start_mark if node else _mark(""))
        self.document.data = self.build(node, (), self.document.keys[()]) if node else None
        return self.document

    def decode(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raw, start = error.object, error.start  # what was decoded: without the byte order mark
            self.fail(_mark(raw[:start].decode()), f"not UTF-8 text (byte 0x{raw[start]:02x})")

    def compose(self, text: str) -> yaml.Node | None:
        if found := _FORBIDDEN.search(text):
            self.fail(_mark(text[: found.start()]), f"character U+{ord(found.group()):04X} is not allowed")
        loader = _Loader(text, self)
        try:
            loader.check_event(yaml.StreamStartEvent) and loader.get_event()
            node = None if loader.check_event(yaml.StreamEndEvent) else loader.compose_document()
            if not loader.check_event(yaml.StreamEndEvent):
                self.fail(loader.peek_event().start_mark, "a second document starts here; a config is one")
            return node
        except yaml.MarkedYAMLError as error:
            opened, mark = error.context_mark, error.problem_mark or error.context_mark
            problem = f"not valid YAML: {error.problem}"
            if error.context and opened:
                problem += f" {error.context}"
                if self.lines and mark and (opened.line, opened.column) != (mark.line, mark.column):
                    problem += f" that starts at {opened.line + 1}:{opened.column + 1}"
            self.fail(mark, problem)
        except ConfigError:
            raise
        except (ValueError, OverflowError):  # from PyYAML: an escape or a directive with a number out of range
            self.fail(loader.get_mark(), "not valid YAML: a number in an escape or a directive is out of range")

    def build(self, node: yaml.Node, path: KeyPath, key: Place) -> Any:
        """The node's data. Its key and value are noted; a collection in block style stands where its key does."""
        self.nodes += 1
        self.check_limits(node.start_mark, self.nodes, len(path))
        in_block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        self.document.keys[path] = key
        self.document.values[path] = key if in_block else self.place(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return node.value
        if id(node) in self.open:
            self.fail(node.start_mark, "an alias in here stands for the whole, which has no end")
        self.open.add(id(node))
        data = self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)
        self.open.remove(id(node))
        return data

    def sequence(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        return [self.build(item, (*path, i), self.place(item.start_mark)) for i, item in enumerate(node.value)]

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else []
            if key == "<<" and key_node.tag == "plain":
                self.fail(mark, "merge keys (<<) are not supported; write the keys out")
            if not isinstance(key, str):
                self.fail(mark, f"a key must be text, got {'a collection' if key == [] else short(key)}")
            here = (*path, key)
            if key in result:
                self.fail(mark, f"{dotted(here)}: duplicate key, first given at {self.document.keys[here]}")
            result[key] = self.build(value_node, here, self.place(mark))
        return result

    def scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        if found := _FORBIDDEN.search(text):
            self.fail(node.start_mark, f"character U+{ord(found.group()):04X} is not allowed")
        if node.tag != "plain" or is_text(text):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            return float(text.replace(".", ""))
        whole = _INT.fullmatch(text)
        if len(text) > _LONGEST_NUMBER:
            self.fail(node.start_mark, f"a number of {len(text)} characters is too long")
        if not whole:
            number = float(text)
            return int(number) if _WHOLE.fullmatch(text) and abs(number) <= _MOST_WHOLE else number
        value = int(text[2:], 8) if text.startswith("0o") else int(text, 16 if text.startswith("0x") else 10)
        if not -(2**63) <= value < 2**63:
            self.fail(node.start_mark, f"whole numbers have at most 64 bits, got {short(value)}")
        return value

    def check_limits(self, mark: yaml.Mark, nodes: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.fail(mark, f"nested deeper than {MAX_DEPTH} levels")
        if nodes > self.most:
            self.fail(mark, f"more than {self.most} values, counting what aliases repeat")

    def place(self, mark: yaml.Mark) -> Place:
        source = self.document.source
        return Place(source, mark.line + 1, mark.column + 1) if self.lines else Place(source)

    def fail(self, mark: yaml.Mark | None, problem: str) -> NoReturn:
        raise ConfigError(f"{self.place(mark) if mark else self.document.source}: {one_line(problem)}") from None


def is_text(plain: str) -> bool:
    """Whether a scalar without quotes is text, and not a number, true, false or null."""
    return plain not in _WORDS and not any(form.fullmatch(plain) for form in (_NOT_FINITE, _INT, _FLOAT))


def _mark(before: str) -> yaml.Mark:
    """The mark of what follows this text, for a character that PyYAML does not get to see."""
    lines = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", before)  # as PyYAML counts lines
    return yaml.Mark("", len(before), len(lines) - 1, len(lines[-1]), None, 0)


def dotted(path: KeyPath) -> str:
    """A path as errors name it: `model.attention.dual[2]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[\w-]{1,60}", part) else short(part))
    return text if len(text) <= 200 else f"{text[:100]}...{text[-97:]}"


def short(value: Any, limit: int = 60) -> str:
    """A value as errors quote it, in YAML's words; the cost does not grow with the value."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, str):
        text = repr(value[:limit])
        return text if len(value) <= limit and len(text) <= limit + 2 else f"{text[: limit - 3]}..."
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
    if isinstance(value, float):
        return repr(value).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, (Mapping, list, tuple)):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return f"a value of type {type(value).__name__}"


def one_line(text: str, limit: int = 1000) -> str:
    """The text without line breaks and control characters, cut at the limit."""
    head = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return head if len(head) <= limit else f"{head[:limit]}..."

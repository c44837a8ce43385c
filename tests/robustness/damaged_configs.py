"""Damaged configs, in every way that a file or a value can be wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.robustness.cases import BASE, FILE, SCRIPTS, Case, Text, Turns, base, case, leaves, scalar

CHILD = f"extends: {FILE}\nname: child\n".encode()
OPEN = ("model.modalities", "run.tokens", "run.mask")  # mappings whose keys are the user's


NUMBERS: tuple[Any, ...] = (True, "four", "4", [], [1], ".nan", ".inf", "-.inf", "1e999", -5, 1 << 64, None)


WRONG_VALUES: dict[type, tuple[Any, ...]] = {  # plain YAML where a text begins with a dot, a dash or 1e
    int: (*NUMBERS, 0.5),
    float: (*NUMBERS, {}),
    bool: (1, 0, "yes", "true", None, [], "да", ".nan", 0.5),
    str: (7, None, [], True, {}, ".inf", 0.5),
    list: (7, "text", True, {}, [7.5], [True], [None]),
    dict: (3, "text", [1, 2], True, ".nan"),
}


def config_cases(draw: random.Random, turns: Turns) -> Iterator[Case]:
    """Damaged configs."""
    kinds = (_wrong_types, _unknown_keys, _twice, _missing, _contradictions, _damaged_lines, _damaged_texts)
    for kind in kinds:
        for number, (name, content, *names) in enumerate(kind(draw)):
            yield case("damaged config", name, turns.request(), *names, files={FILE: content})
            if number % 9 == 1:
                request, files = turns.request(config="child.yaml"), {"child.yaml": CHILD, FILE: content}
                yield case("damaged config that is extended", name, request, *names, "child.yaml", files=files)


Damage = Iterator[tuple[Any, ...]]


def _wrong_types(draw: random.Random) -> Damage:
    """Values of a wrong type, not finite or out of range: 150 of all there are."""
    every = []
    for key, value in leaves(BASE):
        for other in WRONG_VALUES[type(value)]:
            text_is_right = key == "name" and isinstance(other, str) and other != ".inf"
            null_is_right = other is None and key in ("model.dim_cond", "model.heads", "model.dim_head")
            if not (text_is_right or null_is_right or (other == {} and key == "model.register_tokens")):
                every.append((key, other))
    for key, other in draw.sample(every, 150):
        text = Text.of(base({key: other}))
        place = f"{FILE}:{text.places[key]}:"
        names = (place,) if other == 1 << 64 else (place, key)
        yield f"{key}: {scalar(other)}", text.encode(), *names


def _unknown_keys(draw: random.Random) -> Damage:
    sections = ["", *(key for key, value in leaves(BASE) if isinstance(value, dict) and key not in OPEN)]
    for number in range(40):
        section = draw.choice(sections)
        known = list(base() if not section else dict(leaves(BASE))[section])
        wrong = draw.choice((*SCRIPTS, *(f"{key}{key[-1]}" for key in known), "x" * 300, "a.b", "__class__", "a b"))
        if number < len(SCRIPTS):
            wrong = SCRIPTS[number]
        text = Text.of(base({section: {wrong: 1, **dict(leaves(BASE))[section]}} if section else {}))
        line = text.places[section] + 1 if section else 1
        if not section:
            text.lines.insert(0, f"{wrong}: 1")
        else:
            text.lines[line - 1] = f"{'  ' * (section.count('.') + 1)}{wrong}: 1"
        yield f"unknown key {section}.{wrong[:40]}", text.encode(), f"{FILE}:{line}:", ("unknown key", "must be text")


def _twice(draw: random.Random) -> Damage:
    keys = [key for key, value in leaves(BASE) if not isinstance(value, dict)]
    for key in draw.sample(keys, 12):
        text = Text.of(BASE)
        line = text.places[key]
        text.lines.insert(line, text.lines[line - 1])
        yield f"{key} twice", text.encode(), f"{FILE}:{line + 1}:", f"{key}: duplicate key"


def _missing(draw: random.Random) -> Damage:
    needed = ["model", "model.depth", "model.modalities"]
    needed += [f"model.modalities.text.{key}" for key in ("dim", "input.kind", "input.vocabulary", "input.max_length")]
    needed += [f"model.modalities.image.{key}" for key in ("dim", "input.kind", "input.channels", "input.patch")]
    needed += [f"model.modalities.image.output.{key}" for key in ("kind", "channels")]
    for key in needed:
        data = base()
        *way, last = key.split(".")
        here = data
        for part in way:
            here = here[part]
        del here[last]
        yield f"{key} missing", Text.of(data).encode(), f"{FILE}:", key


def _contradictions(draw: random.Random) -> Damage:
    """Values that are right alone and wrong together: what is changed, and the key that must be named."""
    image, text = "model.modalities.image", "model.modalities.text"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"model.variant": "two_modality", "model.modalities.audio": {"dim": 4}}, "model.modalities"),
        ({"model.dim_joint_attn": 17}, "model.dim_joint_attn"),
        ({"model.attention.kind": "adaptive"}, "model.attention.num_adaptive_weights"),
        ({"model.attention.num_adaptive_weights": 3}, "model.attention.num_adaptive_weights"),
        ({"model.attention.gating": "sample"}, "model.attention.gating"),
        ({"model.attention.qk_layernorm": True}, "model.attention.qk_layernorm"),
        ({"model.attention.dual": [7]}, "model.attention.dual"),
        ({"model.residual.streams": 2}, "model.residual.streams"),
        ({"model.residual.kind": "hyper_connections"}, "model.residual.streams"),
        ({"model.discard": ["sound"]}, "model.discard"),
        ({"model.discard": ["text", "image"]}, "model.discard"),
        ({"model.skip_last_feedforward": ["sound"]}, "model.skip_last_feedforward"),
        ({"model.unused_weights": "queries", "model.discard": []}, "model.unused_weights"),
        ({"model.single_stream": {"depth": 1}, f"{text}.dim": 32}, "model.single_stream"),
        ({"model.timestep": None}, "model.timestep"),
        ({"model.dim_cond": None}, "dim_cond"),
        ({"model.rotary": {"axes": [4, 4]}}, "model.rotary"),
        ({"model.rotary": {"axes": [3, 5]}}, "model.rotary.axes"),
        ({"model.rotary": {"axes": []}}, "model.rotary.axes"),
        ({f"{text}.rotary": {"axes": [0]}}, f"{text}.rotary"),
        ({f"{image}.dim": 18}, f"{image}.dim"),
        ({f"{image}.input": {"kind": "linear", "dim": 3}}, f"{image}.output.kind"),
        ({f"{image}.output.channels": 0}, f"{image}.output.channels"),
        ({"model.register_tokens": {"sound": 3}}, "model.register_tokens"),
        ({"model.modalities.keys": {"dim": 4}}, "model.modalities.keys"),
        ({"model.modalities.a b": {"dim": 4}}, "a b"),
        ({"model.modalities.class-": {"dim": 4}}, "class-"),
        ({"run.tokens.sound": 3}, "run.tokens.sound"),
        ({"run.mask.sound": 0.5}, "run.mask.sound"),
        ({"run.mask.text": 1.5}, "run.mask.text"),
        ({"run.tokens.text": 25}, "run.tokens.text"),
        ({"run.tokens.image": 17}, "run.tokens.image"),
        ({"train.ema_decay": 1.0}, "train.ema_decay"),
        ({"train.caption_dropout": 1.0}, "train.caption_dropout"),
        ({"train.timesteps.scale": 9.0}, "train.timesteps.scale"),
        ({"train.loss_weights": {"image": 0}}, "train.loss_weights.image"),
    ]
    for change, key in changes:
        yield json.dumps(change), Text.of(base(change)).encode(), f"{FILE}:", key


def _damaged_lines(draw: random.Random) -> Damage:
    """A line that is no YAML in a place that is drawn; the line must be named."""
    damages: dict[str, Callable[[bytes], bytes]] = {
        "a byte that is no UTF-8": lambda line: line + b" # \xff",
        "half a character": lambda line: line + b" # \xe6\xb7",
        "a surrogate": lambda line: line + b" # \xed\xa0\x80",
        "an escape character": lambda line: line + b" # \x1b[31m",
        "a NUL": lambda line: line + b" # \0",
        "a tab before the key": lambda line: b"\t" + line,
        "a tag": lambda line: line.partition(b":")[0] + b": !!python/object/apply:os.system [ls]",
        "a tag of its own": lambda line: line.partition(b":")[0] + b": !x 1",
        "a merge key": lambda line: b" " * (len(line) - len(line.lstrip())) + b"<<: {a: 1}",
        "an alias of nothing": lambda line: line.partition(b":")[0] + b": *nothing",
        "a percent sign first": lambda line: line.partition(b":")[0] + b": %x",
        "a very long number": lambda line: line.partition(b":")[0] + b": " + b"9" * 5000,
        "a bell in a text": lambda line: line.partition(b":")[0] + b': "\\a"',
        "an escape of no meaning": lambda line: line.partition(b":")[0] + b': "\\q"',
        "an escape out of range": lambda line: line.partition(b":")[0] + b': "\\UFFFFFFFF"',
    }
    right = Text.of(BASE)
    scalars = [right.places[key] for key, value in leaves(BASE) if not isinstance(value, dict)]
    for name, damage in damages.items():
        for line in draw.sample(scalars, 2):
            lines = right.encode().split(b"\n")
            lines[line - 1] = damage(lines[line - 1])
            yield f"{name} in line {line}", b"\n".join(lines), f"{FILE}:{line}:"


def _damaged_texts(draw: random.Random) -> Damage:
    whole = Text.of(BASE).encode()
    lines = whole.splitlines(keepends=True)
    noise = bytes(draw.randrange(128, 256) for _ in range(5000))
    laughs = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12))
    texts: dict[str, bytes] = {
        "empty": b"",
        "only a comment": b"# nothing\n",
        "only blanks": b" \n \n",
        "null": b"null\n",
        "a number": b"7\n",
        "a text": b"base\n",
        "a list": b"- model\n- run\n",
        "two documents": whole + b"---\n" + whole,
        "UTF-16": whole.decode().encode("utf-16"),
        "UTF-32": whole.decode().encode("utf-32"),
        "Latin-1": "name: Größe\n".encode("latin-1") + b"".join(lines[1:]),
        "noise": noise,
        "noise at the end": whole + noise,
        "a picture": b"\x89PNG\r\n\x1a\n" + noise,
        "a zip": b"PK\x03\x04" + noise,
        "a pickle": b"\x80\x04\x95" + noise,
        "a web page": b"<!DOCTYPE html>\n<html><body>404: not found</body></html>\n",
        "conflict marks": b"<<<<<<< HEAD\n" + whole + b"=======\n" + whole + b">>>>>>> other\n",
        "half of JSON": json.dumps(BASE).encode()[:-40],
        "an open bracket": whole + b"extra: [1, 2\n",
        "an open quote": whole + b'extra: "text\n',
        "a closing bracket": whole + b"]\n",
        "an alias of itself": b"name: x\nmodel: &m {depth: *m}\n",
        "a billion laughs": b"a: &a [x, x, x, x, x, x, x, x, x]\n" + laughs.encode(),
        "deep lists": b"model: " + b"[" * 5000,
        "deep mappings": b"model: " + b"{a: " * 5000,
        "deep and closed": b"model: " + b"[" * 200 + b"]" * 200,
        "many values": b"model: [" + b"1," * 200_000 + b"1]\n",
        "many keys": b"".join(b"k%d: 1\n" % i for i in range(60_000)),
        "a MB of blanks": b" " * (1 << 20) + whole,
        "a long line": b"name: " + b"x" * (1 << 20) + b"\n" + whole,
        "a collection as a key": b"? {a: 1}\n: 2\n" + whole,
        "a number as a key": b"7: 1\n" + whole,
        "null as a key": b"~: 1\n" + whole,
        "a directive": b"%YAML 9.9\n---\n" + whole,
        "a directive of no meaning": b"%YAML x\n---\n" + whole,
        "a byte order mark within": lines[0] + b"\xef\xbb\xbf" + b"".join(lines[1:]),
        "carriage returns and noise": whole.replace(b"\n", b"\r") + b"\xff\r",
    }
    for name, content in texts.items():
        yield name, content, f"{FILE}:"

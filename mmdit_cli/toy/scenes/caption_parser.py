"""What captions that someone wrote ask for, where they are worded as those of training are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from mmdit_cli.toy.scenes.captions import (
    FREE,
    NOUNS,
    NUMBERS,
    OPENINGS,
    PAIRS,
    PLACE_WORDS,
    PLURALS,
    RELATION_WORDS,
    SIZE_WORDS,
    Wanted,
)
from mmdit_cli.toy.scenes.scene import (
    BINDING,
    COLOURED,
    COLOURS,
    COUNTING,
    EMPTY,
    POSITION,
    QUARTERS,
    SINGLE,
    TWO,
)

NOT_UNDERSTOOD = -1  # in place of a category
Words = Iterable[Iterable[str]]


def _one_of(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def _each(table: Words) -> str:
    return _one_of(word for words in table for word in words)


PHRASE = (
    rf"({_one_of(NUMBERS.values())}) (?:({_each(SIZE_WORDS)}) )?(?:({_one_of(COLOURS)}) )?"
    rf"({_each((*NOUNS, *PLURALS))})(?: in the ({_each(PLACE_WORDS)}))?"
)
JOINTS = [pair.strip("{} ") for pair in PAIRS]
CAPTION = re.compile(
    rf"(?:(?:{_one_of(filter(None, (*OPENINGS, 'there are')))}) )?{PHRASE}"
    rf"(?: (?:({_each(RELATION_WORDS)})|{_one_of(JOINTS)}) {PHRASE})?"
)


def understood(captions: Sequence[str]) -> Wanted:
    """What each asks for: one object, several alike, or two, one of which may stand in a relation to the other; of the
    others the `category` is NOT_UNDERSTOOD."""
    rows = [_wanted(caption) for caption in captions]
    category, relation, objects = zip(*rows, strict=True)
    return Wanted(torch.tensor(category), torch.tensor(relation), torch.tensor(objects))


def _wanted(caption: str) -> tuple[int, int, list[list[int]]]:
    """Category, relation and objects, as in `Wanted`."""
    nothing = [[EMPTY] * 4] * QUARTERS
    match = CAPTION.fullmatch(caption)
    if match is None:
        return NOT_UNDERSTOOD, FREE, nothing
    first, between, second = match.groups()[:5], match[6], match.groups()[6:]
    several = second[0] is not None
    counts = [[*NUMBERS.values()].index(number) + 1 for number in (first[0], second[0]) if number]
    phrases = [_object(*phrase[1:], many=n > 1) for phrase, n in zip((first, second), counts, strict=False)]
    objects = [each for each in phrases if each is not None]
    if len(objects) < len(phrases) or (several and counts != [1, 1]):
        return NOT_UNDERSTOOD, FREE, nothing
    relation = FREE if between is None else _index(RELATION_WORDS, between)
    coloured = objects[0][1] != FREE
    if several:
        category = POSITION if relation != FREE else BINDING if coloured else TWO
    else:
        category = COUNTING if counts != [1] else COLOURED if coloured else SINGLE
        objects *= counts[0]
    return category, relation, [*objects, *nothing][:QUARTERS]


def _object(size: str | None, colour: str | None, noun: str, place: str | None, *, many: bool) -> list[int] | None:
    """Shape, colour, size and quarter; None of several in the same quarter, and where the noun's number is wrong."""
    nouns = PLURALS if many else NOUNS
    if not any(noun in words for words in nouns) or (many and place):
        return None
    named = (colour, zip(COLOURS)), (size, SIZE_WORDS), (place, PLACE_WORDS)
    return [_index(nouns, noun), *(FREE if word is None else _index(words, word) for word, words in named)]


def _index(table: Words, word: str) -> int:
    return next(index for index, words in enumerate(table) if word in words)

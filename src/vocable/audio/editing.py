"""Make manifests of manifests: put several together, choose lines, fill fields in, divide.

    all.jsonl  --filter 'duration > 1'-->  long.jsonl  --set 'language="en"'-->  english.jsonl

Each function yields utterances, as importers do; conditions and values are written as in `expressions.py`. Nothing is
changed in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vocable.audio.expressions import Expression
from vocable.audio.manifest import Rejections, absolute, read_manifest, to_row, to_utterance
from vocable.audio.overview import field_names, field_of
from vocable.errors import ConfigError, ManifestError
from vocable.registry import look_up
from vocable.splits import By, mark_splits
from vocable.types import Utterance


def merge(
    manifests: list[Path], *, prefix: bool = False, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Put manifests together into one, in the order given.

    vocable manifest merge librispeech.jsonl own.jsonl all.jsonl

    Two utterances of one id are refused; with --prefix each id begins with the name of its manifest: own/a1.

    Args:
        manifests: the manifests (JSONL), two or more.
        prefix: put the name of its manifest before each id.
        strict: raise on the first broken line instead of leaving it out.
        rejections: where lines that are left out are noted.

    Raises:
        ManifestError: a manifest has no usable line, or two utterances share an id.
    """
    home: dict[str, Path] = {}
    for manifest in map(Path, manifests):
        for utterance in read_manifest(manifest, strict, rejections):
            id = f"{manifest.stem}/{utterance.id}" if prefix else utterance.id
            if id in home:
                remedy = "Give each manifest a name of its own." if prefix else "Tell them apart with --prefix."
                raise ManifestError(f"Both {home[id]} and {manifest} have an utterance {id!r}. {remedy}")
            home[id] = manifest
            yield replace(utterance, id=id)


def choose(
    manifest: Path, condition: str, *, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Keep the lines that meet a condition.

    vocable manifest filter all.jsonl short.jsonl 'duration < 10 and text'
    vocable manifest filter all.jsonl some.jsonl 'speaker in ("anna", "ben") and not match(id, "noisy")'

    A condition is written as in Python: fields by their names, texts in quotes, numbers, and, or, not, comparisons, in,
    + - * /, and the functions match(text, regular expression), replace(text, expression, new), lower, upper, strip,
    len, number and text. A field that a line lacks is null, and null is false.

    Args:
        manifest: the manifest (JSONL).
        condition: which lines to keep.
        strict: raise on the first broken line instead of leaving it out.
        rejections: where lines that are left out for being broken are noted.

    Raises:
        ConfigError: the condition cannot be read, or names no field of these lines.
        ManifestError: no line meets it.
    """
    utterances = read_manifest(manifest, strict, rejections)
    kept = [*filter(Condition(condition, utterances), utterances)]
    if not kept:
        raise ManifestError(f"{manifest}: none of {len(utterances)} lines meets the condition {condition!r}.")
    yield from kept


def assign(
    manifest: Path,
    assignments: list[str],
    *,
    where: str | None = None,
    strict: bool = False,
    rejections: Rejections | None = None,
) -> Iterator[Utterance]:
    """Fill in fields: each assignment is a field, = and a value; null takes the field away.

    vocable manifest set all.jsonl new.jsonl 'language="en"' 'speaker=match(id, "^([^-]+)-")'
    vocable manifest set all.jsonl new.jsonl 'split="test"' --where 'speaker in ("anna", "ben")'
    vocable manifest set all.jsonl new.jsonl 'text=lower(text)' 'take=null'

    Values and conditions are written as in Python: fields by their names, texts in quotes, numbers, comparisons,
    a if b else c, + - * /, and the functions match(text, regular expression), which gives the first group,
    replace(text, expression, new), lower, upper, strip, len, number and text.

    Args:
        manifest: the manifest (JSONL).
        assignments: such as language="en"; all read the line as it was.
        where: change only lines that meet this condition.
        strict: raise on the first broken line instead of leaving it out.
        rejections: where lines that are left out for being broken are noted.

    Raises:
        ConfigError: an assignment or the condition cannot be read, or names no field of these lines.
        ManifestError: a value does not fit its field, or no line meets the condition.
    """
    utterances = read_manifest(manifest, strict, rejections)
    folder, known = absolute(Path(manifest).parent), field_names(utterances)
    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{text!r} is no assignment. Write a field, = and a value: 'language=\"en\"'")
        values[name.strip()] = Expression(value)
        values[name.strip()].check_names(known)
    changing = [*map(Condition(where, utterances), utterances)]
    if not any(changing):
        raise ManifestError(f"{manifest}: none of {len(utterances)} lines meets the condition {where!r}.")
    for utterance, is_meant in zip(utterances, changing, strict=True):
        if not is_meant:
            yield utterance
            continue
        row = to_row(utterance, folder)
        new = {name: value(lambda field, of=utterance: field_of(of, field)) for name, value in values.items()}
        kept = {key: value for key, value in (row | new).items() if value is not None}
        try:
            yield to_utterance(kept, folder)
        except ManifestError as error:
            raise ManifestError(f"{manifest}, {utterance.id!r}: {error}") from error


def divide(
    manifest: Path,
    valid: float = 0.02,
    test: float = 0.0,
    by: By = "id",
    *,
    strict: bool = False,
    rejections: Rejections | None = None,
) -> Iterator[Utterance]:
    """Divide a manifest: write it again with `split` (train, valid or test) on each line, which all stages then obey.

    vocable manifest split all.jsonl divided.jsonl --valid 0.05 --by speaker

    A hash of the key decides, so an utterance is on the same side whatever else is in the manifest; with few speakers
    the shares come out roughly. Other divisions: vocable manifest set all.jsonl new.jsonl 'split="test"' --where ...

    Args:
        manifest: the manifest (JSONL); marks in it are replaced.
        valid: share to validate on.
        test: share to test on.
        by: key of the split: id; text, so that no sentence is on two sides; or speaker, so that no voice is.
        strict: raise on the first broken line instead of leaving it out.
        rejections: where lines that are left out are noted.

    Raises:
        ConfigError: the shares leave nothing to train on, or are below 0.
        ManifestError: no line has the key, or a side that should hold something is empty.
    """
    divided = mark_splits(read_manifest(manifest, strict, rejections), valid, test, by)
    if by != "id" and not any(getattr(utterance, by) for utterance in divided):
        raise ManifestError(
            f"{manifest}: no line has a {by}, so nothing can be divided by it. See what is there: "
            f"vocable manifest show {manifest}"
        )
    empty = [s for s, share in (("valid", valid), ("test", test)) if share and all(u.split != s for u in divided)]
    if empty:
        keys = len({getattr(utterance, by) for utterance in divided})
        kind = {"id": "utterances", "text": "texts", "speaker": "speakers"}[by]
        raise ManifestError(
            f"{manifest}: with --valid {valid:g} --test {test:g} none of {keys} {kind} is in {' or '.join(empty)}. "
            "Give a larger share, or mark lines yourself: vocable manifest set MANIFEST OUT 'split=\"valid\"' --where "
            "CONDITION"
        )
    yield from divided


def known_field(name: str, utterances: Sequence[Utterance]) -> str:
    """Return the name of a field that these lines may have.

    Raises:
        UnknownNameError: there is no such field; the nearest is named.
    """
    look_up("field", name, dict.fromkeys(field_names(utterances)))
    return name


class Condition:
    """An expression that a line meets or not; without one, all lines meet it."""

    def __init__(self, source: str | None, utterances: Sequence[Utterance]) -> None:
        """Read the condition; its fields must be among those of `utterances`."""
        self.expression = None if source is None else Expression(source)
        if self.expression is not None:
            self.expression.check_names(field_names(utterances))

    def __call__(self, utterance: Utterance) -> bool:
        """Whether an utterance meets it."""
        return self.expression is None or bool(self.expression(lambda name: field_of(utterance, name)))

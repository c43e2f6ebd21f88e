"""Our own sentence pairs: short English sentences, right and wrong in one word, from templates and a small lexicon.

    {the} {noun} {was|were} {tired}  ->  The boy was tired. / The boy were tired.

Twelve phenomena, thousands of pairs, 4 to 7 words. Each form is right as often as wrong (The boy was / the boys
were), so that how frequent a word is gives no hint; in word order, both sentences have the same words. Only in
npi_licensing the first word gives it away.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vocable.testsets.sentences import SentencePair


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _forms(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows of a word and its forms; a third column may hold several words."""
    return tuple(tuple(row.split(maxsplit=2)) for row in _phrases(text))


PEOPLE = _forms(
    "boy boys himself, girl girls herself, man men himself, woman women herself, king kings himself, "
    "queen queens herself, uncle uncles himself, aunt aunts herself, father fathers himself, mother mothers herself"
)
ANIMALS = _forms("dog dogs, horse horses, bird birds, cat cats, duck ducks, pig pigs")
THINGS = _forms(
    "box boxes, cup cups, book books, chair chairs, table tables, lamp lamps, coat coats, boat boats, "
    "window windows, door doors"
)
MASS = ("water", "milk", "bread", "rice", "sugar", "butter", "money", "music", "snow", "sand")
WITH_AN = ("apple", "orange", "egg", "onion", "oven", "engine", "umbrella", "axe", "iron", "arrow")
WITH_A = ("lemon", "cake", "potato", "ribbon", "toy", "hat", "basket", "letter", "hammer", "pear")
COLOURS = ("red", "green", "black", "white", "yellow", "small", "big", "old", "new", "heavy")
COMPARED = _forms(
    "smaller small, older old, newer new, heavier heavy, cheaper cheap, cleaner clean, darker dark, lighter light, "
    "stronger strong, longer long"
)
STATES = ("tired", "happy", "hungry", "angry", "late", "here", "outside", "asleep")
PLACES = _phrases(
    "at the party, in the garden, before lunch, after dinner, by the river, in the kitchen, at school, "
    "in the evening, during the show, at home"
)
SPOTS = _forms("on table, under bench, near bridge, behind house, beside bed, on roof")
ACTIONS = _forms(
    "run runs running, play plays playing, walk walks walking, jump jumps jumping, dance dances dancing, "
    "work works working, laugh laughs laughing, cook cooks cooking"
)
"""None begins with s: "the fathers swims" sounds like "the father swims"."""
WHEN = ("every day", "at night", "in summer", "on Sundays")
DONE_TO = ("found", "bought", "wanted", "carried", "needed", "fixed", "owned", "brought")
DONE_ALONE = ("slept", "fell", "arrived", "sneezed", "laughed", "smiled", "yawned", "cried")
HARMED = ("hurt", "saw", "washed", "blamed", "trusted", "hid", "dressed", "praised")
PAST_AND_PARTICIPLE = _forms(
    "took taken the bag, wrote written a letter, ate eaten the cake, broke broken the cup, drove driven the car, "
    "gave given an answer, saw seen the sea, sang sung a song, drank drunk the milk, stole stolen the ring, "
    "chose chosen a name, began begun the work"
)
BASE_AND_PAST = _forms(
    "buy bought, find found, see saw, eat ate, take took, say said, write wrote, sing sang, bring brought, lose lost"
)
SUBJECT_AND_OBJECT = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me"))
NAMES = ("Anna", "Tom", "Mary", "Peter", "Julia", "David")
SEEN = ("saw", "liked", "called", "helped", "followed", "remembered")
LATER = ("yesterday", "again", "last week", "this morning")
DETERMINERS = (("this", "these"), ("that", "those"))

Rows = Iterator[tuple[str, str, str]]
"""Sentences with {} in them, the right form and the wrong form."""


class Template(NamedTuple):
    """A kind of pair, and all its rows."""

    phenomenon: str
    type: str
    rows: Callable[[], Rows]


def make_sentence_pairs(per_type: int | None = 400, seed: int = 0) -> list[SentencePair]:
    """Return pairs of all templates, at most `per_type` of each, drawn by `seed`; None makes every one there is."""
    generator = random.Random(seed)
    pairs: list[SentencePair] = []
    for template in TEMPLATES:
        rows = sorted(set(template.rows()))
        generator.shuffle(rows)
        for number, (frame, right, wrong) in enumerate(rows[:per_type]):
            good, bad = (_sentence(frame.replace("{}", form)) for form in (right, wrong))
            pairs.append(SentencePair(f"{template.type}-{number:04d}", good, bad, template.phenomenon, template.type))
    return pairs


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + ("" if words.endswith("?") else ".")


def _both(frames: tuple[str, str], forms: Sequence[str]) -> Rows:
    """Two frames, two forms: in the first frame the first form is right, in the second the second."""
    yield frames[0], forms[0], forms[1]
    yield frames[1], forms[1], forms[0]


def _present() -> Rows:
    for (one, many, *_), (base, third, _), when in itertools.product(PEOPLE + ANIMALS, ACTIONS, WHEN):
        yield from _both((f"the {one} {{}} {when}", f"the {many} {{}} {when}"), (third, base))


def _copula() -> Rows:
    times = ((("is", "are"), "now"), (("was", "were"), "then"))
    for (one, many, *_), state, (forms, time) in itertools.product(PEOPLE + ANIMALS, STATES, times):
        yield from _both((f"the {one} {{}} {state} {time}", f"the {many} {{}} {state} {time}"), forms)


def _near_noun() -> Rows:
    """The verb agrees with the first noun, not with the one beside it."""
    for (one, many), (other, others), colour in itertools.product(THINGS, THINGS, COLOURS):
        if one != other:
            frames = (f"the {one} near the {others} {{}} {colour}", f"the {many} near the {other} {{}} {colour}")
            yield from _both(frames, ("is", "are"))


def _determiner() -> Rows:
    for name, verb, (one, many), forms in itertools.product(NAMES, DONE_TO, THINGS, DETERMINERS):
        yield from _both((f"{name} {verb} {{}} {one}", f"{name} {verb} {{}} {many}"), forms)


def _noun_number() -> Rows:
    for name, verb, things, (one, many) in itertools.product(NAMES, DONE_TO, THINGS, DETERMINERS):
        yield from _both((f"{name} {verb} {one} {{}}", f"{name} {verb} {many} {{}}"), things)


def _reflexive_gender() -> Rows:
    for (one, _, own), verb, when in itertools.product(PEOPLE, HARMED, LATER):
        other = "herself" if own == "himself" else "himself"
        yield f"the {one} {verb} {{}} {when}", own, other


def _reflexive_number() -> Rows:
    for (one, many, own), verb, when in itertools.product(PEOPLE, HARMED, LATER):
        yield from _both((f"the {one} {verb} {{}} {when}", f"the {many} {verb} {{}} {when}"), (own, "themselves"))


def _irregular() -> Rows:
    for name, (past, participle, thing), when in itertools.product(NAMES, PAST_AND_PARTICIPLE, ("before", "again")):
        yield from _both((f"{name} {{}} {thing} {when}", f"{name} has {{}} {thing} {when}"), (past, participle))


def _arguments() -> Rows:
    rows = itertools.product(PEOPLE, DONE_TO, DONE_ALONE, zip(THINGS, PLACES, strict=True))
    for (one, *_), transitive, intransitive, ((thing, _), place) in rows:
        frames = (f"the {one} {{}} the {thing}", f"the {one} {{}} {place}")
        yield from _both(frames, (transitive, intransitive))


def _amounts() -> Rows:
    for name, verb, mass, (_, things) in itertools.product(NAMES, ("has", "bought", "found"), MASS, THINGS):
        yield from _both((f"{name} {verb} too {{}} {mass}", f"{name} {verb} too {{}} {things}"), ("much", "many"))
        yield from _both((f"{name} {verb} a {{}} {mass}", f"{name} {verb} a {{}} {things}"), ("little", "few"))


def _articles() -> Rows:
    for name, verb, first, second in itertools.product(NAMES, DONE_TO, WITH_AN, WITH_A):
        yield from _both((f"{name} {verb} {{}} {first}", f"{name} {verb} {{}} {second}"), ("an", "a"))


def _case() -> Rows:
    for name, verb, forms, when in itertools.product(NAMES, SEEN, SUBJECT_AND_OBJECT, LATER):
        yield from _both((f"{{}} {verb} {name} {when}", f"{name} {verb} {{}} {when}"), forms)


def _verb_form() -> Rows:
    for (one, *_), (base, _, gerund), when in itertools.product(PEOPLE + ANIMALS, ACTIONS, ("now", "today", "again")):
        yield from _both((f"the {one} can {{}} {when}", f"the {one} is {{}} {when}"), (base, gerund))


def _do_question() -> Rows:
    for person, verbs, where in itertools.product(("he", "she", *NAMES), BASE_AND_PAST, ("there", "today", "then")):
        yield from _both((f"what did {person} {{}} {where}?", f"{person} {{}} it all {where}"), verbs)


def _comparative() -> Rows:
    for (thing, _), forms in itertools.product(THINGS, COMPARED):
        yield from _both((f"this {thing} is {{}} than that", f"this {thing} is very {{}} now"), forms)


def _adjective_order() -> Rows:
    verbs = ("carried", "owned", "brought", "fixed")  # not "wanted": one may want the coat red
    for name, verb, colour, (thing, _) in itertools.product(NAMES, verbs, COLOURS, THINGS):
        yield f"{name} {verb} the {{}}", f"{colour} {thing}", f"{thing} {colour}"


def _article_order() -> Rows:
    for colour, (thing, _), (where, spot) in itertools.product(COLOURS, THINGS, SPOTS):
        yield f"{{}} {thing} is {where} the {spot}", f"the {colour}", f"{colour} the"


def _preposition_order() -> Rows:
    for (one, *_), (where, spot), verb in itertools.product(PEOPLE + ANIMALS, SPOTS, ("slept", "waited", "was")):
        yield f"the {one} {verb} {{}} {spot}", f"{where} the", f"the {where}"


def _ever() -> Rows:
    for (one, *_), wrong, (_, participle, thing) in itertools.product(
        PEOPLE, ("every", "one", "this"), PAST_AND_PARTICIPLE
    ):
        yield f"{{}} {one} has ever {participle} {thing}", "no", wrong


TEMPLATES = (
    Template("subject_verb_agreement", "present_tense", _present),
    Template("subject_verb_agreement", "be", _copula),
    Template("subject_verb_agreement", "noun_between", _near_noun),
    Template("determiner_noun_agreement", "determiner", _determiner),
    Template("determiner_noun_agreement", "noun", _noun_number),
    Template("anaphor_agreement", "gender", _reflexive_gender),
    Template("anaphor_agreement", "number", _reflexive_number),
    Template("irregular_forms", "past_or_participle", _irregular),
    Template("argument_structure", "transitivity", _arguments),
    Template("quantifiers", "mass_or_count", _amounts),
    Template("articles", "a_or_an", _articles),
    Template("pronoun_case", "subject_or_object", _case),
    Template("verb_form", "can_or_is", _verb_form),
    Template("verb_form", "do_question", _do_question),
    Template("comparatives", "than", _comparative),
    Template("word_order", "adjective_noun", _adjective_order),
    Template("word_order", "article_adjective", _article_order),
    Template("word_order", "preposition_article", _preposition_order),
    Template("npi_licensing", "ever", _ever),
)

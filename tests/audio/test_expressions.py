"""Expressions over the fields of a line mean what Python would, know `null`, and can do nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocable.audio.expressions import Expression
from vocable.errors import ConfigError

LINE = {"id": "19-198-0001", "duration": 2.5, "text": "It's ONE day", "speaker": "19", "tags": ["a", "b"], "take": 3}


def value(source: str, **line):
    return Expression(source)({**LINE, **line}.get)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("duration > 1", True),
        ("1 < duration <= 2.5 and not take == 4", True),
        ('speaker in ("19", "20")', True),
        ('speaker not in ["19", "20"]', False),
        ('"ONE" in text', True),
        ("lower(text)", "it's one day"),
        ('match(id, "^([^-]+)-")', "19"),
        ('match(id, "[0-9]{4}$")', "0001"),
        ('match(id, "x")', None),
        ('replace(id, "-", "/")', "19/198/0001"),
        ('"timit-" + speaker', "timit-19"),
        ("number(speaker) * 2 + -1", 37.0),
        ("len(tags)", 2),
        ('"long" if duration > 2 else "short"', "long"),
        ("text and take", 3),
        ("language or speaker", "19"),
        ("true and not false", True),
    ],
)
def test_values(source, expected):
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("language < 3", False),
        ("language >= 3", False),
        ("3 > language", False),
        ("language == null", True),
        ("text != null", True),
        ("language is null", True),
        ('language != "en"', True),
        ('"a" in language', False),
        ('"a" not in language', False),
        ('language in ("en", null)', True),
        ("lower(language)", None),
        ('"x" + language', None),
        ("-language", None),
        ("not language", True),
    ],
)
def test_a_field_that_is_not_there_is_null(source, expected):
    assert value(source) is expected or value(source) == expected


@given(a=st.integers(-9, 9), b=st.integers(-9, 9), c=st.integers(1, 9))
def test_arithmetic_and_comparisons_are_those_of_python(a, b, c):
    for source in ("a + b - c", "a * b / c", "-a < b", "a == b or b >= c", "a if b < c else c", "not (a < b <= c)"):
        assert Expression(source)({"a": a, "b": b, "c": c}.get) == eval(source, {"a": a, "b": b, "c": c})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("duration >", "is not an expression"),
        ("duration = 3", "Equality is written =="),
        ("open('x')", "the functions are match"),
        ("text.upper()", "the functions are match"),
        ("().__class__", "cannot stand in an expression"),
        ("[x for x in text]", "cannot stand in an expression"),
        ("lambda: 1", "cannot stand in an expression"),
        ("2 ** 99", "cannot stand in an expression"),
        ("~take", "cannot stand in an expression"),
        ("text[0]", "cannot stand in an expression"),
        ("len(text, sep=1)", "the functions are match"),
        ("b'x'", "neither a text nor a number"),
    ],
)
def test_nothing_else_is_an_expression(source, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Expression(source)


def test_what_does_not_go_together_is_named():
    for source in ("text > 3", 'match(text, "(")', "take / 0", "text * 1000000000", "len()+1"):
        try:
            assert value(source) is None
        except ConfigError as error:
            assert source in str(error)
    with pytest.raises(ConfigError, match="text > 3"):
        value("text > 3")
    with pytest.raises(
        ConfigError, match=r'no line has a field .spaeker.\. Text stands in quotes: "spaeker"\. Did you'
    ):
        Expression('spaeker == "x"').check_names({"speaker", "id"})

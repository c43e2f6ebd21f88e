"""Shares are kept, every document is used once before any is used twice, and a step alone decides what comes."""

import collections

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequences.joint_examples import random_example, text_tokenizer
from vocable.audio.manifest import absolute
from vocable.errors import ConfigError, ManifestError
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.leakage import check_leakage, plain_text
from vocable.sequences.mixing import (
    BuiltDocuments,
    Mixture,
    MixtureConfig,
    assign_roles,
)
from vocable.sequences.packing import pack_documents
from vocable.types import Utterance


class FixedDocuments:
    """Documents that are the same each time."""

    def __init__(self, documents):
        self.documents = documents

    def __len__(self):
        return len(self.documents)

    def document(self, index, repeat):
        return self.documents[index]


def fixed(**sizes):
    """Sources whose documents say where they come from: `name=(documents, tokens of each)`."""
    return {
        name: FixedDocuments([torch.full((length,), 1000 * number + index) for index in range(count)])
        for number, (name, (count, length)) in enumerate(sizes.items())
    }


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    size=st.none() | st.integers(1, 60),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=50)
def test_shares_passes_and_steps(counts, weights, size, seed):
    sources = fixed(**{f"s{i}": (count, 3) for i, count in enumerate(counts)})
    ratios = {name: weights[i] for i, name in enumerate(sources)}
    config = MixtureConfig(ratios=ratios, by="sequences", epoch_documents=size, seed=seed)
    mixture = Mixture(sources, config)
    epochs = [mixture.draws(epoch) for epoch in range(6)]
    everything = [draw for epoch in epochs for draw in epoch]
    assert [len(epoch) for epoch in epochs] == [mixture.num_documents(epoch) for epoch in range(6)]
    for name, source in sources.items():
        mine = [draw for draw in everything if draw.source == name]
        # all of a source are used once before one is used twice
        uses = collections.Counter(draw.index for draw in mine)
        assert max(uses.values(), default=0) - min([uses[i] for i in range(len(source))]) <= 1
        assert sorted((d.repeat, d.index) for d in mine if d.repeat == 0) == [
            (0, index) for index in sorted({d.index for d in mine if d.repeat == 0})
        ]
        # the share holds to a document for each source
        expected = len(everything) * ratios[name] / sum(ratios.values())
        assert abs(len(mine) - expected) <= len(sources) + 1
    # what an epoch holds does not depend on what was asked before
    again = Mixture(sources, config)
    for epoch in (5, 0, 3):
        assert again.draws(epoch) == epochs[epoch]


def given_by(mixture, epochs):
    """Documents and tokens that each source of a mixture gives."""
    documents, tokens = collections.Counter(), collections.Counter()
    for draw in (draw for epoch in epochs for draw in mixture.draws(epoch)):
        documents[draw.source] += 1
        tokens[draw.source] += len(mixture.document(draw))
    return documents, tokens


def test_tokens_are_shared_out_whatever_the_lengths():
    sources = fixed(units=(200, 50), text=(300, 10), pairs=(100, 75))
    mixture = Mixture(sources)
    documents, tokens = given_by(mixture, range(3))
    assert mixture.ratios == pytest.approx({"units": 1 / 3, "text": 1 / 3, "pairs": 1 / 3})
    for count in tokens.values():
        assert count / tokens.total() == pytest.approx(1 / 3, abs=0.01)
    total = 200 * 50 + 300 * 10 + 100 * 75
    assert tokens.total() == pytest.approx(3 * total, rel=0.01)
    assert documents["text"] / 300 == pytest.approx(3 * total / 3 / 3000, rel=0.01)
    by_sequences = Mixture(sources, MixtureConfig(by="sequences", ratios={"units": 2.0, "text": 1.0, "pairs": 1.0}))
    documents, tokens = given_by(by_sequences, [0])
    assert documents == {"units": 300, "text": 150, "pairs": 150}


def test_seeds_and_epochs_draw_other_orders():
    sources = fixed(a=(30, 2), b=(30, 2))
    plans = [Mixture(sources, MixtureConfig(seed=seed)).draws(epoch) for seed, epoch in [(0, 0), (0, 0), (1, 0)]]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    first, second = Mixture(sources).draws(0), Mixture(sources).draws(1)
    assert sorted((d.source, d.index) for d in first) == sorted((d.source, d.index) for d in second)
    assert [(d.source, d.index) for d in first] != [(d.source, d.index) for d in second]
    assert {d.repeat for d in first} == {0} and {d.repeat for d in second} == {1}


def test_units_text_and_pairs_together():
    vocabulary = joint_vocabulary(text_tokenizer(), 12)
    examples = [random_example(seed, num_words=20) for seed in range(30)]
    roles = assign_roles([e.id for e in examples], {"units": 1.0, "text": 1.0, "pairs": 1.0})
    by_id = {example.id: example for example in examples}
    layouts = {"units": "unit-only", "text": "text-only", "pairs": "ast"}
    built = {name: make_layout(kind, vocabulary, text_tokenizer=text_tokenizer()) for name, kind in layouts.items()}
    mixture = Mixture({n: BuiltDocuments([by_id[id] for id in ids], built[n]) for n, ids in roles.items()})
    documents = mixture.epoch(0)
    first = {vocabulary.unit_open_id: 0, vocabulary.text_open_id: 0}
    for draw, document in zip(mixture.draws(0), documents, strict=True):
        first[int(document[0])] += 1
        assert int(document[-1]) == vocabulary.end_id
        if draw.source == "units":
            assert not vocabulary.is_text(document).any()
        if draw.source == "text":
            assert not vocabulary.is_speech(document).any()
    assert min(first.values()) > 0
    assert torch.equal(documents[0:1][0], documents[0])
    # pairs come back with other spans
    pair = next(draw for draw in mixture.draws(0) if draw.source == "pairs")
    later = [mixture.document(pair._replace(repeat=repeat)).tolist() for repeat in range(4)]
    assert len({tuple(row) for row in later}) > 1
    # and what comes out can be packed as any other documents
    rows = list(pack_documents(documents, 512, seed=0))
    assert sum(row.num_positions for row in rows) >= sum(len(document) for document in documents)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture({}), "There is no source"),
        (lambda: Mixture(fixed(a=(0, 1))), "The source 'a' is empty"),
        (lambda: Mixture(fixed(a=(1, 1)), MixtureConfig(ratios={"b": 1.0})), r"set for b \(1\); there are a"),
        (lambda: MixtureConfig(ratios={"a": 0.0}), r"mixture\.ratios\.a is 0\.0"),
        (lambda: MixtureConfig(epoch_documents=0), "epoch_documents is 0"),
        (lambda: assign_roles(["a"], {"units": 0.0, "text": 1.0}), r"units \(0\)"),
    ],
)
def test_impossible_mixtures_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_roles_are_disjoint_and_stay():
    ids = [f"u{i}" for i in range(3000)]
    shares = {"units": 1.0, "text": 1.0, "pairs": 2.0}
    roles = assign_roles(ids, shares)
    assert sorted(id for found in roles.values() for id in found) == sorted(ids)
    assert [len(found) / 3000 for found in roles.values()] == pytest.approx([0.25, 0.25, 0.5], abs=0.03)
    few = assign_roles(ids[:100], shares)
    assert all(set(few[name]) <= set(roles[name]) for name in shares)
    assert assign_roles(ids, shares, seed=1) != roles
    together = assign_roles(ids, shares, group=lambda id: id[:2])
    assert all(len({name for name in shares for id in together[name] if id.startswith(p)}) <= 1 for p in ("u1", "u2"))


def utterance(id, speaker=None, text=None):
    return Utterance(id=id, audio=absolute("a.wav"), speaker=speaker, text=text)


def test_leaks_by_id_speaker_and_text():
    train = [utterance("a", "s1", "The cat sat."), utterance("b", "s2", "Yes."), utterance("c", None, None)]
    test = [utterance("a", "s9", "Other words"), utterance("d", "s2", "the  CAT, sat"), utterance("e", "s2", "yes")]
    report = check_leakage(train, test)
    assert [(leak.kind, leak.value, leak.train_id, leak.test_ids) for leak in report.leaks] == [
        ("id", "a", "a", ("a",)),
        ("speaker", "s2", "b", ("d", "e")),
        ("text", "the cat sat", "a", ("d",)),
        ("text", "yes", "b", ("e",)),
    ]
    assert (report.num_leaked, report.num_train, report.num_test) == (3, 3, 3)
    assert report.unknown == {"speaker": 1, "text": 1}
    with pytest.raises(ManifestError) as caught:
        report.raise_if_any()
    message = str(caught.value)
    assert message.startswith("3 of 3 test utterances share something with training. 1 by id: 'a' (a, a). 1 by speaker")
    assert "2 by text: 'the cat sat' (a, d); 'yes' (b, e)" in message
    assert len(check_leakage(train, test, by=["text"], min_text_words=2).leaks) == 1
    check_leakage(train[2:], test).raise_if_any()


def test_many_leaks_are_counted_and_a_few_named():
    many = [utterance(f"u{i}", text="x" * 80 if i == 0 else f"t{i}") for i in range(9)]
    with pytest.raises(ManifestError, match=r"9 by id: 'u0' \(u0, u0\); .* and 6 more\. 9 by text: 'x{57}\.\.\.'"):
        check_leakage(many, many).raise_if_any()


def test_plain_text():
    assert plain_text("  “Don’t,” he said — ＯＫ!") == "don't he said ok"

"""Cutting, row planning, packing: every token once, nothing across documents, one order per seed and epoch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ConfigError
from vocable.sequences import MaskedDocument, concatenate, pack_documents
from vocable.sequences.packing import cut_documents, plan_rows, token_budget_batches

length_lists = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(lengths=length_lists, context=st.integers(2, 20))
def test_cutting_predicts_every_token_but_the_first_once(lengths, context):
    pieces, report = cut_documents(lengths, context)
    predicted = [(piece.document, place) for piece in pieces for place in range(piece.start + 1, piece.stop)]
    assert predicted == [(index, place) for index, length in enumerate(lengths) for place in range(1, length)]
    assert all(2 <= piece.length <= context for piece in pieces)
    assert report.num_cut == sum(length > context for length in lengths)
    assert report.num_too_short == sum(length < 2 for length in lengths)
    assert (report.num_pieces, report.num_tokens) == (len(pieces), sum(lengths))


@given(lengths=st.lists(st.integers(1, 30), max_size=80), room=st.integers(30, 60))
def test_rows_hold_every_document_once_and_are_not_overfull(lengths, room):
    rows = plan_rows(lengths, room)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= room for row in rows)


def test_rows_are_well_filled():
    lengths = torch.randint(20, 400, (500,)).tolist()
    rows = plan_rows(lengths, 2048)
    assert sum(lengths) / (2048 * len(rows)) > 0.95


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ConfigError, match="A document has 9 tokens, a row only 8"):
        plan_rows([3, 9], 8)


def test_packed_row_by_hand():
    batch = concatenate([torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([9, 4])])
    assert batch.token_ids.tolist() == [[5, 6, 7, 8, 9, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 2, 2]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, -100, 4]]
    assert (batch.lengths, batch.num_targets, batch.num_positions) == ((3, 1, 2), 3, 6)


def test_empty_rows_are_refused():
    with pytest.raises(ConfigError, match="at least one document"):
        concatenate([])
    with pytest.raises(ConfigError, match="no document may be empty"):
        concatenate([torch.tensor([], dtype=torch.long)])


def test_epochs_differ_and_repeat_exactly():
    documents = [torch.arange(n) for n in torch.randint(2, 40, (40,)).tolist()]

    def epoch(seed, number):
        return [b.token_ids.tolist() for b in pack_documents(documents, 64, seed=seed, epoch=number)]

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    in_order = [length for batch in pack_documents(documents, 10_000) for length in batch.lengths]
    assert in_order == [len(document) for document in documents]


def test_long_documents_are_cut_while_packing():
    batches = list(pack_documents([torch.arange(10)], 8, context_tokens=4))
    pieces = [part.tolist() for b in batches for part in b.token_ids[0].split(list(b.lengths))]
    assert pieces == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 100))
def test_token_budget_batches(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in batches)


def test_masks_of_documents_say_what_is_predicted():
    masked = MaskedDocument(torch.tensor([5, 6, 7, 8]), torch.tensor([True, False, True, True]))
    batch = concatenate([torch.tensor([1, 2, 3]), masked])
    assert batch.token_ids.tolist() == [[1, 2, 3, 5, 6, 7, 8]]
    assert batch.labels.tolist() == [[-100, 2, 3, -100, -100, 7, 8]]
    assert batch.num_targets == 4
    pieces = list(pack_documents([masked], 8, context_tokens=3))  # cut with one token of context carried over
    assert [label for row in pieces for label in row.labels[0].tolist() if label >= 0] == [7, 8]

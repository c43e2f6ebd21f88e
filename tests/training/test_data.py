"""The stream of packed rows: complete epochs, exact positions, equal rows for any number of processes."""

import pytest
import torch

from vocable.errors import ConfigError
from vocable.training.data import PackedStream


def stream(documents, seed=0):
    return PackedStream(documents, context_tokens=16, max_tokens=48, seed=seed)


def rows(batches):
    return [batch.token_ids.tolist() for batch in batches]


def test_each_epoch_predicts_every_token_once(make_documents):
    documents = make_documents(30)
    data = stream(documents)
    wanted = sorted(token for document in documents for token in document[1:].tolist())
    for _ in range(2):
        seen = []
        for _ in range(len(data.plan)):
            (batch,) = data.next_rows(1)
            seen += batch.labels[batch.labels != -100].tolist()
        assert sorted(seen) == wanted


def test_going_back_to_a_position(make_documents):
    data = stream(make_documents(20))
    data.next_rows(len(data.plan) + 3)
    state = data.state_dict()
    expected = rows(data.next_rows(2 * len(data.plan)))
    fresh = stream(make_documents(20))
    fresh.load_state_dict(state)
    assert rows(fresh.next_rows(2 * len(fresh.plan))) == expected
    assert rows(stream(make_documents(20), seed=1).next_rows(3)) != rows(stream(make_documents(20)).next_rows(3))


def test_processes_share_the_same_rows(make_documents):
    documents = make_documents(20)
    whole = rows(stream(documents).next_rows(12))
    parts = [rows(stream(documents).next_rows(12, process, 3)) for process in range(3)]
    assert [parts[i % 3][i // 3] for i in range(12)] == whole


def test_documents_are_read_lazily(make_documents):
    documents = make_documents(20)
    read = []

    class Lazy(list):
        def __getitem__(self, index):
            read.append(index)
            return documents[index]

    data = stream(Lazy(documents))
    (batch,) = data.next_rows(1)
    assert len(read) == len(batch.lengths) < 20


def test_nothing_to_predict():
    with pytest.raises(ConfigError, match="None of the 2 training documents has two tokens"):
        stream([torch.tensor([1]), torch.tensor([2])])

"""The stream of packed rows: complete epochs, exact positions, equal rows for any number of processes."""

import pytest
import torch

from vocable.errors import ConfigError
from vocable.training.data import EpochStream, PackedStream


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
    read.clear()  # types of arguments are checked on an item
    (batch,) = data.next_rows(1)
    assert len(read) == len(batch.lengths) < 20


def test_nothing_to_predict():
    with pytest.raises(ConfigError, match="None of the 2 training documents has two tokens"):
        stream([torch.tensor([1]), torch.tensor([2])])


def changing(epoch):
    """Documents whose lengths and tokens depend on the epoch, one of them too short."""
    return [torch.tensor([100 * epoch + index] * (1 + (index + epoch) % 7)) for index in range(25)]


def epoch_stream(window=8):
    return EpochStream(changing, context_tokens=5, max_tokens=12, window=window)


def test_documents_of_each_epoch_are_predicted_once():
    data = epoch_stream()
    for epoch in range(3):
        wanted = sorted(token for document in changing(epoch) for token in document[1:].tolist())
        seen = []
        while len(seen) < len(wanted):
            (batch,) = data.next_rows(1)
            seen += batch.labels[batch.labels != -100].tolist()
        assert sorted(seen) == wanted


def test_a_changing_stream_goes_back_to_a_position():
    data = epoch_stream()
    data.next_rows(37)
    state = data.state_dict()
    assert state["epoch"] > 0
    expected = rows(data.next_rows(60))
    fresh = epoch_stream()
    fresh.load_state_dict(state)
    assert rows(fresh.next_rows(60)) == expected
    whole = rows(epoch_stream().next_rows(12))
    parts = [rows(epoch_stream().next_rows(12, process, 3)) for process in range(3)]
    assert [parts[i % 3][i // 3] for i in range(12)] == whole


def test_nothing_to_predict_is_refused():
    with pytest.raises(ConfigError, match="No document of the first epoch has two tokens"):
        EpochStream(lambda epoch: [torch.tensor([1])] * 3, context_tokens=5, max_tokens=12)
    data = EpochStream(lambda epoch: changing(0) if epoch == 0 else [], context_tokens=5, max_tokens=12)
    with pytest.raises(ConfigError, match="No document of epoch 1"):
        data.next_rows(1000)

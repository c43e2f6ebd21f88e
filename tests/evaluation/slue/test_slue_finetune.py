"""Heads: votes by hand, cached states against plain forward passes, and learning a toy world."""

import copy

import pytest
import torch
from torch import nn

from evaluation.slue import toy
from vocable.errors import ConfigError, NumericsError
from vocable.evaluation.slue.heads import (
    EntityTask,
    FineTuneConfig,
    SentimentTask,
    dev_score,
    fine_tune,
    frozen_features,
    predict,
    vote,
)
from vocable.evaluation.slue.metrics import WORD_TAGS, Found
from vocable.evaluation.slue.rows import NO_WORD, RowMaker, TaskRow, make_examples
from vocable.lm.packed import hidden_states


@pytest.fixture(scope="module")
def lm():
    return toy.joint_lm(toy.word_tokenizer())


@pytest.fixture(scope="module")
def entity_rows(lm):
    labelled, speech = toy.toy_set()
    return make_examples(labelled, "entities", RowMaker(lm), speech).splits


@pytest.fixture(scope="module")
def sentiment_rows(lm):
    labelled, speech = toy.toy_set()
    return make_examples(labelled, "sentiment", RowMaker(lm), speech).splits


def test_votes_by_hand():
    """Word 0: two of three tokens for class 1. Word 1: one each, class 2 is surer. Word 2: no token."""
    logits = torch.tensor([[9.0, 0, 0], [0, 1, 0], [0, 1, 0], [0.5, 0, 0], [0, 0, 4.0]])
    assert vote(logits, torch.tensor([0, 0, 0, 1, 1]), 3) == [1, 2, None]


def test_votes_make_entities():
    task = EntityTask()
    row = TaskRow(
        torch.arange(6), torch.tensor([NO_WORD, 0, 0, 1, 2, NO_WORD]), "New York rocks", ((0, 3), (4, 8), (9, 14))
    )
    logits = torch.zeros(4, len(WORD_TAGS))
    for place, tag in enumerate(["B-PLACE", "B-PLACE", "I-PLACE", "O"]):
        logits[place, WORD_TAGS.index(tag)] = 5
    assert task.predict(logits, row) == [Found("PLACE", "new york")]


def test_targets_are_the_tags_of_the_words_that_positions_belong_to(entity_rows):
    task = EntityTask()
    for modality in ("speech", "text"):
        for row, labels in entity_rows["train"][modality]:
            targets = task.targets(row, labels)
            (entity,) = labels.entities
            assert len(targets) == int((row.words != NO_WORD).sum())
            tagged = {int(w) for w, t in zip(row.words[row.words != NO_WORD], targets) if WORD_TAGS[int(t)] != "O"}
            assert [row.text[slice(*row.spans[w])].strip(".,") for w in tagged] == [entity.phrase(labels.text)]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_cached_features_are_those_of_single_forward_passes(lm, sentiment_rows, pooling):
    rows = [example.row for modality in ("speech", "text") for example in sentiment_rows["dev"][modality]]
    model = copy.deepcopy(lm.model)
    found = frozen_features(model, SentimentTask(pooling), rows, max_tokens=64)
    for row, feature in zip(rows, found, strict=True):
        with torch.no_grad():
            states = lm.model(row.token_ids[None], output_hidden_states=True).hidden_states[-1][0]
        expected = states.mean(dim=0) if pooling == "mean" else states[-1]
        # float32 sums in another order; ten times the worst difference seen, 3e-6
        torch.testing.assert_close(feature[0], expected, atol=3e-5, rtol=1e-4)


def test_cached_states_of_words_are_those_of_single_forward_passes(lm, entity_rows):
    rows = [example.row for example in entity_rows["dev"]["speech"]]
    for row, feature in zip(rows, frozen_features(copy.deepcopy(lm.model), EntityTask(), rows), strict=True):
        with torch.no_grad():
            states = lm.model(row.token_ids[None], output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(feature, states[row.words != NO_WORD], atol=3e-5, rtol=1e-4)


def test_models_with_attention_of_their_own_give_the_same_states(sentiment_rows):
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    rows = [example.row for example in sentiment_rows["dev"]["text"]][:4]
    size = max(int(row.token_ids.max()) for row in rows) + 1
    model = BloomForCausalLM(BloomConfig(vocab_size=size, hidden_size=16, n_layer=1, n_head=2)).eval()
    with torch.no_grad():
        for states, row in zip(hidden_states(model, [row.token_ids for row in rows]), rows, strict=True):
            alone = model.transformer(row.token_ids[None]).last_hidden_state[0]
            torch.testing.assert_close(states, alone, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(("train", "epochs"), [("head", 24), ("all", 8)])
def test_sentiment_is_learned_from_text(lm, sentiment_rows, train, epochs):
    config = FineTuneConfig(
        train=train,
        epochs=epochs,
        patience=epochs,
        batch_utterances=8,
        head_learning_rate=0.3 if train == "head" else 0.03,
        learning_rate=5e-3,
        dropout=0.0,
        warmup_steps=5,
    )
    task = SentimentTask()
    before = copy.deepcopy(lm.model.state_dict())
    learnt = fine_tune(lm.model, task, sentiment_rows["train"]["text"], sentiment_rows["dev"]["text"], config)
    test = sentiment_rows["test"]["text"]
    score = dev_score(task, test, predict(learnt.model, learnt.head, task, [e.row for e in test], config))
    assert score > 0.6  # the majority class has 1/6
    assert learnt.dev_scores[learnt.best_epoch - 1] == max(learnt.dev_scores)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    changed = any(not torch.equal(value, before[name]) for name, value in learnt.model.state_dict().items())
    assert changed == (train == "all")
    dev = sentiment_rows["dev"]["text"]  # what is kept is the best epoch, not the last
    kept = dev_score(task, dev, predict(learnt.model, learnt.head, task, [e.row for e in dev], config))
    assert kept == pytest.approx(max(learnt.dev_scores))


def test_entities_are_learned_from_units(lm, entity_rows):
    config = FineTuneConfig(epochs=6, patience=6, batch_utterances=8, head_learning_rate=0.1, dropout=0.0)
    task = EntityTask()
    learnt = fine_tune(lm.model, task, entity_rows["train"]["speech"], entity_rows["dev"]["speech"], config)
    test = entity_rows["test"]["speech"]
    assert dev_score(task, test, predict(learnt.model, learnt.head, task, [e.row for e in test], config)) > 0.8


def test_seeds_reproduce_and_features_may_be_given(lm, sentiment_rows):
    config = FineTuneConfig(epochs=3, batch_utterances=8)
    task = SentimentTask()
    train, dev = sentiment_rows["train"]["text"], sentiment_rows["dev"]["text"]
    features = [frozen_features(lm.model, task, [e.row for e in part]) for part in (train, dev)]
    first = fine_tune(lm.model, task, train, dev, config, seed=3)
    second = fine_tune(lm.model, task, train, dev, config, seed=3, features=(features[0], features[1]))
    other = fine_tune(lm.model, task, train, dev, config, seed=4)
    assert torch.equal(first.head.weight, second.head.weight) and first.dev_scores == second.dev_scores
    assert not torch.equal(first.head.weight, other.head.weight)


def test_training_stops_when_patience_ends(lm, sentiment_rows):
    config = FineTuneConfig(epochs=50, patience=2, head_learning_rate=1e-9)
    learnt = fine_tune(
        lm.model, SentimentTask(), sentiment_rows["train"]["text"], sentiment_rows["dev"]["text"], config
    )
    assert len(learnt.dev_scores) == learnt.best_epoch + 2 < 50


def test_one_class_and_empty_splits_are_refused(lm, sentiment_rows):
    task, config = SentimentTask(), FineTuneConfig(epochs=1)
    train, dev = sentiment_rows["train"]["text"], sentiment_rows["dev"]["text"]
    with pytest.raises(ConfigError, match="16 train utterances have one class for sentiment, 'Positive'"):
        fine_tune(lm.model, task, [e for e in train if e.labels.sentiment == "Positive"], dev, config)
    with pytest.raises(ConfigError, match="sentiment has 48 train and 0 dev utterances"):
        fine_tune(lm.model, task, train, [], config)


def test_a_loss_that_is_no_number_is_named(lm, sentiment_rows):
    train, dev = sentiment_rows["train"]["text"], sentiment_rows["dev"]["text"]
    features = [torch.full((1, 32), float("nan"))] * len(train), [torch.zeros(1, 32)] * len(dev)
    with pytest.raises(NumericsError, match="Lower the learning rate"):
        fine_tune(lm.model, SentimentTask(), train, dev, FineTuneConfig(epochs=1), features=features)


@pytest.mark.parametrize(
    "bad",
    [{"train": "lora"}, {"pooling": "max"}, {"epochs": 0}, {"learning_rate": 0}, {"dropout": 1}, {"warmup_steps": -1}],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        FineTuneConfig(**bad)


def test_a_head_says_something_about_rows_of_any_order(lm, sentiment_rows):
    task, config = SentimentTask(), FineTuneConfig()
    rows = [example.row for example in sentiment_rows["test"]["speech"]]
    torch.manual_seed(0)
    head = nn.Linear(32, 3)
    found = predict(lm.model, head, task, rows, config)
    assert predict(lm.model, head, task, rows[::-1], config) == found[::-1]
    assert set(found) <= set(task.classes)


@pytest.mark.parametrize("train", ["head", "all"])
def test_an_epoch_is_that_of_a_plain_loop(lm, sentiment_rows, train):
    """The same weights, to the bit, as AdamW with a warm-up written out."""
    task, rows = SentimentTask(), sentiment_rows["train"]["speech"]
    config = FineTuneConfig(train=train, epochs=1, batch_utterances=7, warmup_steps=4, max_gradient_norm=0.1)
    found = fine_tune(lm.model, task, rows, sentiment_rows["dev"]["speech"], config, seed=3)
    model = copy.deepcopy(lm.model).eval()
    torch.manual_seed(3)
    head = nn.Linear(found.head.in_features, found.head.out_features)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    groups = [{"params": list(head.parameters()), "lr": config.head_learning_rate}]
    if train == "all":
        groups.append({"params": list(model.train().parameters()), "lr": config.learning_rate})
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3)).tolist()
    cached = frozen_features(model, task, [example.row for example in rows])
    for start in range(0, len(order), 7):
        chosen = [rows[index] for index in order[start : start + 7]]
        read = [cached[index] for index in order[start : start + 7]]
        if train == "all":
            states = hidden_states(model, [example.row.token_ids for example in chosen])
            read = [task.features(*pair) for pair in zip(states, (example.row for example in chosen))]
        scores = head(nn.functional.dropout(torch.cat(read), config.dropout))
        loss = nn.functional.cross_entropy(scores, torch.cat([task.targets(*example) for example in chosen]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        schedule.step()
    assert torch.equal(found.head.weight, head.weight) and torch.equal(found.head.bias, head.bias)
    for name, weights in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], weights), name

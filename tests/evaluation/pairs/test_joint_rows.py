"""Cross-modal StoryCloze with a model that reads units and text, against rows written out by hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from evaluation.tiny_text_lm import save_tiny_text_lm
from vocable.evaluation.pairs import PairItem, PairSet, Segment
from vocable.evaluation.pairs.benchmark import PairsConfig
from vocable.evaluation.pairs.items import with_modalities
from vocable.evaluation.pairs.models import PairModel
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.storycloze import StoryCloze
from vocable.evaluation.unusable import UnusableError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.joint_lm import JointLM
from vocable.lm.spoken import Segment as LMSegment
from vocable.sequences.joint_layouts import UnitOnlyLayout, make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.types import SpeechTokens, Utterance

UNITS = {"c": [4, 4, 7, 1], "r": [2, 9, 9], "w": [5, 0]}
TEXTS = {"c": "Anna fell.", "r": "She cried.", "w": "It rained on."}


@pytest.fixture
def tokenizer(tmp_path):
    return AutoTokenizer.from_pretrained(save_tiny_text_lm(tmp_path / "text"))


@pytest.fixture
def layout(tokenizer):
    return UnitOnlyLayout(vocabulary=joint_vocabulary(tokenizer, 10)).bind(tokenizer)


@pytest.fixture
def tokens():
    return {name: SpeechTokens(codes=torch.tensor([units])) for name, units in UNITS.items()}


@pytest.fixture
def pair_set(tmp_path):
    utterances = {name: Utterance(id=name, audio=tmp_path / name, text=text) for name, text in TEXTS.items()}
    halves = {side: (Segment(speech="c"), Segment(speech=end)) for side, end in (("positive", "r"), ("negative", "w"))}
    item = PairItem(id="p", group={"version": "topic", "story": "p"}, **halves)
    return PairSet(benchmark="storycloze", items=[item], utterances=utterances)


def row_by_hand(layout, tokenizer, ending, modalities, boundary):
    """Ids and first scored place, by the rules of the module's docstring."""
    known, offset = layout.vocabulary, layout.vocabulary.speech_offset
    context_kind, _, ending_kind = modalities.partition("->")
    ids, first = [], 0
    for place, (name, kind) in enumerate((("c", context_kind), (ending, ending_kind or context_kind))):
        if place == 0:
            opener = known.unit_open_id if kind == "S" else known.text_open_id
            ids += [opener] if boundary != "none" else []
        elif context_kind != (ending_kind or context_kind):
            ids.append(known.text_to_unit_id if kind == "S" else known.unit_to_text_id)
        first = len(ids)
        if kind == "S":
            ids += [unit + offset for unit in torch.unique_consecutive(torch.tensor(UNITS[name])).tolist()]
        else:
            ids += tokenizer.encode((" " if place else "") + TEXTS[name], add_special_tokens=False)
    return ids + ([known.end_id] if boundary == "bos_eos" else []), first


def reading(model, layout):
    """The language model of a bound layout."""
    card = LMCard(vocabulary=layout.vocabulary, layout=layout.card(), tokenizer_fingerprint="")
    return JointLM(LoadedLM(model, card, layout.text_tokenizer))


@pytest.mark.parametrize("modalities", ["S", "S->T", "T->S", "T"])
@pytest.mark.parametrize("boundary", ["none", "bos", "bos_eos"])
@pytest.mark.parametrize("text_logits", ["kept", "masked"])
def test_every_pairing_of_modalities(layout, tokenizer, tokens, pair_set, modalities, boundary, text_logits):
    known = layout.vocabulary
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "opt", vocab_size=known.size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    crossed = with_modalities(pair_set, modalities)
    classes = known.classes if text_logits == "masked" else None
    chosen = PairsConfig(data=Path("data"), model="model", scored="ending", text_logits=text_logits, boundary=boundary)
    reader = PairModel(lm=reading(model, layout), tokens=tokens)
    result = run_benchmark(StoryCloze(chosen, {"pairs": crossed, "model": reader}))
    for side, ending in (("positive", "r"), ("negative", "w")):
        ids, first = row_by_hand(layout, tokenizer, ending, modalities, boundary)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        expected = 0.0
        for place in range(first, len(ids)):
            scores = logits[place - 1]
            if classes is not None:
                scores = scores.masked_fill(classes != classes[ids[place]], float("-inf"))
            expected -= float(scores.log_softmax(-1)[ids[place]])
        assert result.items[0][f"tokens_{side}"] == len(ids) - first
        # float32 products of other sizes: ten times the worst difference seen, 1e-5
        assert result.items[0][f"nll_{side}"] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_read_is_named(layout, tokens):
    model = PairModel(lm=reading(None, layout), tokens=tokens)
    cases = [
        ((Segment(speech="c"),), True, "no context before it"),
        ((Segment(speech="ghost"),), False, "an utterance has no tokens"),
        ((Segment(text=" "),), False, "empty"),
    ]
    for segments, ending_only, reason in cases:
        with pytest.raises(UnusableError, match=reason):
            model.row(segments, "bos", ending_only)


@pytest.mark.parametrize("name", ["ast", "sims", "spirit-lm"])
@pytest.mark.parametrize("opener", [True, False])
def test_a_row_opens_a_modality_as_its_layout_does(tokenizer, tokens, name, opener):
    """SUTLM's alternating rows switch with the symbol of the direction, SIMS and Spirit-LM with another opener."""
    layout = make_layout(name, joint_vocabulary(tokenizer, 10), text_tokenizer=tokenizer, opener=opener)
    known, lm = layout.vocabulary, reading(None, layout)
    spoken = [unit + known.speech_offset for unit in (2, 9)]
    written = tokenizer.encode("Anna fell.", add_special_tokens=False)
    mark = known.text_to_unit_id if name == "ast" else known.unit_open_id
    segments = [LMSegment(text="Anna fell."), LMSegment(tokens=tokens["r"])]
    trained, first = lm.row(segments), [known.text_open_id] if opener else []
    assert trained.token_ids.tolist() == [*first, *written, mark, *spoken, known.end_id]
    ending = lm.row(segments, boundary="bos", ending_only=True)
    assert ending.token_ids.tolist() == [known.text_open_id, *written, mark, *spoken]
    assert ending.token_ids[ending.scored].tolist() == spoken
    mark = known.unit_to_text_id if name == "ast" else known.text_open_id
    other = lm.row(segments[::-1], boundary="none")
    assert other.token_ids.tolist() == [*spoken, mark, *written]

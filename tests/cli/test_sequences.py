"""`vocable subwords` and `vocable sequences` on shards written by hand."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sequences.joint_examples import FRAME_RATE, random_example, text_tokenizer
from vocable import cli
from vocable.audio.manifest import write_manifest
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.picture import line_cells, sequence_lines, sequence_svg
from vocable.sequences.subwords import UnitSubwords
from vocable.tokens.shard_rows import make_schema, tokens_to_row, utterance_to_row
from vocable.tokens.streams import streams_of_card
from vocable.types import Utterance

CARD = {"codebook_size": 12, "num_codebooks": 1, "frame_rate": FRAME_RATE, "fingerprint": "0123456789abcdef"}


def write_shards(folder, pairs, card=CARD):
    """One Parquet file as 'vocable tokenize' writes it."""
    folder.mkdir(parents=True)
    schema = make_schema(streams_of_card(card), {"run": "r", "card": card, "result": {}})
    rows = [
        utterance_to_row(utterance, folder) | tokens_to_row(tokens, streams_of_card(card))
        for utterance, tokens in pairs
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "tokens-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A manifest with words, shards whose rows have none yet, and a text tokenizer in a folder."""
    folder = tmp_path_factory.mktemp("corpus")
    pairs, utterances = [], []
    for seed in range(12):
        example = random_example(seed, num_words=14)
        utterance = Utterance(id=example.id, audio=folder / "a.wav", text=example.text, speaker=f"s{seed % 3}")
        utterances.append(replace(utterance, words=example.words))
        pairs.append((utterance, example.tokens))
    write_manifest(utterances, folder / "manifest.jsonl")
    write_shards(folder / "tokens", pairs)
    text_tokenizer().save_pretrained(folder / "text")
    return folder


def run(*words):
    return cli.main([str(word) for word in words])


def test_fit_then_rate(corpus, tmp_path, capsys):
    out = tmp_path / "subwords"
    assert run("subwords", "fit", corpus / "tokens", out, "--vocabulary-size", "40") == 0
    assert "40 subwords of up to" in capsys.readouterr().out
    assert UnitSubwords.load(out).size == 40
    assert run("subwords", "fit", corpus / "tokens", out) == 2
    assert "holds subwords already" in capsys.readouterr().err
    numbers = tmp_path / "rate.json"
    words = ["subwords", "rate", out, corpus / "tokens", "--text-tokenizer", corpus / "text", "--out", numbers]
    assert run(*words) == 0
    values = json.loads(numbers.read_text())
    assert values["frames_per_second"] == 50.0
    assert values["subwords_per_second"] < values["runs_per_second"] < 50.0
    assert values["text_tokens_per_second"] > 0
    assert (values["num_utterances"], values["num_with_text"]) == (12, 12)


def test_subwords_of_another_tokenizer_are_refused(corpus, tmp_path, capsys):
    assert run("subwords", "fit", corpus / "tokens", tmp_path / "s", "--vocabulary-size=20", "--over=frames") == 0
    example = random_example(0)
    utterance = Utterance(id="a", audio=tmp_path / "a.wav")
    other = write_shards(tmp_path / "other", [(utterance, example.tokens)], CARD | {"fingerprint": "f" * 16})
    assert run("subwords", "rate", tmp_path / "s", other) == 2
    assert "made for fingerprint 0123456789abcdef" in capsys.readouterr().err


def test_show_prints_every_word_once(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    base = ["sequences", "show", corpus / "manifest.jsonl", corpus / "tokens", "--text-tokenizer", corpus / "text"]
    picture = tmp_path / "row.html"
    words = [*base, "--id=u3", "--layout=ast", "spans.speech_words=[1,2]", "spans.text_words=[1,2]"]
    assert run(*words, "--picture", picture) == 0
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if "│" in line]
    said = " ".join(row[-2] for row in cells).lower().strip(" .")
    assert said.split() == [word.word.lower() for word in random_example(3, num_words=14).words]
    assert "<U2T>" in shown and "<T2U>" in shown
    assert picture.read_text().count("<svg") == 1
    assert run(*base, "--layout", "sims", "spans.mean_words=2", "--epoch", "1") == 0
    assert run(*base, "--layout", "ast", "spans.kind=bernoulli", "spans.switch=1.0") == 0
    assert "u0: ast, epoch 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--id=u99"], "The manifest has no utterance 'u99'; it has 12, e.g. 'u0'"),
        (["--layout=asd"], "Unknown layout 'asd'. Did you mean 'ast'?"),
        (["spans.speech_word=[1,2]"], "unknown setting 'spans.speech_word'. Did you mean 'spans.speech_words'?"),
        (["--layout=cst", "spans.kind=poisson"], "The layout 'cst' has no setting 'spans'"),
        (["--picture=row.png"], "row.png: a picture is a .svg or .html file"),
    ],
)
def test_show_says_what_is_wrong(corpus, capsys, words, message):
    base = ["sequences", "show", corpus / "manifest.jsonl", corpus / "tokens", "--text-tokenizer", corpus / "text"]
    assert run(*base, *words) == 2
    assert message in capsys.readouterr().err


def test_pictures_show_segments_at_their_times():
    example = random_example(7, num_words=14)
    vocabulary = joint_vocabulary(text_tokenizer(), 12)
    layout = make_layout("ast", vocabulary, text_tokenizer=text_tokenizer())
    sequence = layout.build_sequence(example)
    lines = sequence_lines(sequence, vocabulary, FRAME_RATE)
    assert [line.modality for line in lines] == [*(segment.modality for segment in sequence.segments), None]
    assert sum(line.num_tokens + len(line.symbols.split()) for line in lines) == len(sequence.token_ids)
    assert line_cells(lines[-1]) == (str(len(sequence.token_ids) - 1), "<E>", "", "", "", "")
    for line, segment in zip(lines, sequence.segments):
        if segment.frames:
            assert (line.start_seconds, line.end_seconds) == tuple(frame / FRAME_RATE for frame in segment.frames)
    svg = ET.fromstring(sequence_svg(sequence, vocabulary, FRAME_RATE, "a < b & c"))
    space = "{http://www.w3.org/2000/svg}"
    labels = [node.text for node in svg.iter(f"{space}text")]
    assert labels[0] == "a < b & c"
    for word in example.words:
        assert word.word in labels
    cells = [node for node in svg.iter(f"{space}rect") if node.get("height") == "18"]
    assert len(cells) == len(sequence.token_ids)


def test_sequences_without_times_have_a_picture_too():
    example = random_example(7)
    vocabulary = joint_vocabulary(text_tokenizer(), 12)
    for name in ("unit-only", "text-only", "cst"):
        layout = make_layout(name, vocabulary, text_tokenizer=text_tokenizer())
        sequence = layout.revert(layout.build(example))
        ET.fromstring(sequence_svg(sequence, vocabulary))
        contents = [line.content for line in sequence_lines(sequence, vocabulary)]
        assert "" in contents  # the end symbol
        assert any("units)" in content or content == example.text for content in contents)


def test_leakage_command(corpus, tmp_path, capsys):
    other = Utterance(id="z", audio=tmp_path / "a.wav", text="Something else", speaker="s9")
    write_manifest([other], tmp_path / "clean.jsonl")
    assert run("sequences", "leakage", corpus / "manifest.jsonl", tmp_path / "clean.jsonl") == 0
    assert "share no id, no speaker and no text" in capsys.readouterr().out
    write_manifest([replace(other, speaker="s1")], tmp_path / "leak.jsonl")
    assert run("sequences", "leakage", corpus / "manifest.jsonl", tmp_path / "leak.jsonl") == 2
    assert "1 by speaker: 's1' (u1, z)" in capsys.readouterr().err

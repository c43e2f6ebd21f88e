"""The aligners that run a model, or read what one wrote."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.audio.writing import write_audio
from vocable.errors import AlignmentError, AssetError, ConfigError, ManifestError, UnknownNameError
from vocable.quickstart.data import STORIES
from vocable.recognition.aligner import Found
from vocable.recognition.ctc import ctc_viterbi
from vocable.recognition.normalise import spoken_words
from vocable.recognition.opening import AlignerConfig, open_aligner
from vocable.recognition.pocketsphinx_aligner import guess_phones
from vocable.recognition.words import word_labels
from vocable.types import Utterance


@pytest.fixture(scope="module")
def tiny_ctc(tmp_path_factory):
    """A random wav2vec 2.0 that writes letters, in a folder as checkpoints are published."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("ctc")
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}), encoding="utf-8")
    Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(symbols),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


@pytest.fixture
def utterance(tmp_path, make_speechlike):
    write_audio(tmp_path / "a.flac", make_speechlike(16_000 * 3), 16_000)
    return Utterance(id="a", audio=tmp_path / "a.flac", start=0.5, duration=2.0, text="It's a llama, see?")


def test_a_ctc_checkpoint_of_transformers(tiny_ctc, utterance):
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    aligner = open_aligner(AlignerConfig(aligner=f"ctc:{tiny_ctc}"))
    words = spoken_words(utterance.text)
    times, notes, unused = aligner.find(utterance, words, "en")
    assert (list(notes), list(unused)) == ([], [])
    waveform = read_utterance(utterance, 16_000)
    inputs = Wav2Vec2Processor.from_pretrained(tiny_ctc)(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    log_probs = Wav2Vec2ForCTC.from_pretrained(tiny_ctc)(**inputs).logits.log_softmax(-1)
    letters = aligner.vocabulary.symbols
    assert set(letters) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ'") and aligner.vocabulary.delimiter == 4
    labels, owners, _ = word_labels(words, aligner.vocabulary)
    assert labels == [4 if char == "|" else letters[char] for char in "IT'S|A|LLAMA|SEE"]
    (path,) = ctc_viterbi(log_probs.detach(), [labels])
    for word, time in enumerate(times):
        spans = [span for span, owner in zip(path.spans.tolist(), owners) if owner == word]
        # frames are 320 samples apart and see 400: the middle of frame 0 is sample 200, 40 later than that of a hop
        assert time[:2] == pytest.approx(((spans[0][0] * 320 + 40) / 16_000, (spans[-1][1] * 320 + 40) / 16_000))
        mean = np.mean([value for a, b in spans for value in path.frame_log_probs[a:b].tolist()])
        assert time.confidence == pytest.approx(math.exp(mean), rel=1e-4)
    assert times[-1].end <= 2.01


def test_what_a_ctc_aligner_refuses(tiny_ctc, utterance, tmp_path):
    aligner = open_aligner(AlignerConfig(aligner=f"ctc:{tiny_ctc}", max_seconds=1.5))
    with pytest.raises(AlignmentError, match=r"a lasts 2 s, more than max_seconds, 1.5"):
        aligner.find(utterance, spoken_words("a"), "en")
    write_audio(tmp_path / "short.flac", torch.zeros(200), 16_000)
    short = Utterance(id="s", audio=tmp_path / "short.flac", text="a")
    with pytest.raises(AlignmentError, match=r"s, 0.013 s: the model cannot read it"):
        aligner.find(short, spoken_words("a"), "en")
    with pytest.raises(AssetError, match="not a complete CTC checkpoint"):
        open_aligner(AlignerConfig(aligner=f"ctc:{tmp_path}"))


def write_posteriors(folder, symbols, **files):
    (folder / "posteriors.json").write_text(
        json.dumps({"vocabulary": symbols, "blank": "_", "delimiter": "|", "frame_rate": 25, "offset": 0.02})
    )
    for name, array in files.items():
        np.savez(folder / f"{name}.npz", log_probs=array)


def test_posteriors_of_the_caller(tmp_path):
    symbols = ["a", "b", "|", "_"]
    frames = [3, 0, 0, 1, 2, 3, 1, 1]
    log_probs = np.full((8, 4), math.log(0.1))
    log_probs[np.arange(8), frames] = math.log(0.7)
    write_posteriors(tmp_path, symbols, a=log_probs, logits=log_probs + 3, narrow=log_probs[:, :3])
    save_file({"log_probs": torch.from_numpy(log_probs)}, tmp_path / "s.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "empty.safetensors")
    aligner = open_aligner(AlignerConfig(aligner=f"posteriors:{tmp_path}"))
    words = spoken_words("Ab b")

    def find(id):
        return aligner.find(Utterance(id=id, audio=tmp_path), words, "en")

    for id in ("a", "s"):
        times = find(id).times
        assert [t[:2] for t in times] == [pytest.approx((0.06, 0.18)), pytest.approx((0.26, 0.34))]
        assert [t.confidence for t in times] == [pytest.approx(0.7)] * 2
    with pytest.raises(AlignmentError, match="no log posteriors: the log of a row's sum is 3, not 0"):
        find("logits")
    with pytest.raises(AlignmentError, match=r"log_probs has shape \(8, 3\); expected \(frames, 4\)"):
        find("narrow")
    with pytest.raises(AlignmentError, match=r"empty\.safetensors: no readable array 'log_probs'"):
        find("empty")
    with pytest.raises(AlignmentError, match="There is no file called 'none'"):
        find("none")
    (tmp_path / "posteriors.json").write_text('{"vocabulary": ["a"]}')
    with pytest.raises(ConfigError, match=r"posteriors.json: cannot be read \(KeyError: 'blank'\)"):
        open_aligner(AlignerConfig(aligner=f"posteriors:{tmp_path}"))


@pytest.mark.parametrize(
    ("aligner", "error", "message"),
    [
        ("pocketsphynx", UnknownNameError, "Did you mean 'pocketsphinx'"),
        ("pocketsphinx:en", ConfigError, "write it as pocketsphinx"),
        ("ctc", ConfigError, "write it as ctc:facebook/wav2vec2-base-960h"),
        ("ctm:/none.ctm", ManifestError, "cannot be read"),
        ("textgrid:/none", ConfigError, "no such folder"),
    ],
)
def test_names_of_aligners(aligner, error, message):
    with pytest.raises(error, match=message):
        open_aligner(AlignerConfig(aligner=aligner))


def embedded(number):
    """An embedded recording: its word times are those of the synthesiser."""
    return read_manifest(STORIES)[number]


def mean_deviation(times, words):
    return np.mean([abs(time.start - word.start) for time, word in zip(times, words, strict=True)])


def test_pocketsphinx_is_close_to_the_synthesiser():
    pytest.importorskip("pocketsphinx")
    aligner = open_aligner(AlignerConfig(aligner="pocketsphinx"))
    first, second = embedded(0), embedded(1)
    times = aligner.find(first, spoken_words(first.text), "en").times
    assert mean_deviation(times, first.words) < 0.03  # seen: 0.014
    aligner.find(second, spoken_words(second.text), "en")
    assert aligner.find(first, spoken_words(first.text), "en").times == times  # nothing is carried over


def test_pocketsphinx_guesses_what_its_dictionary_lacks():
    pytest.importorskip("pocketsphinx")
    aligner = open_aligner(AlignerConfig(aligner="pocketsphinx"))
    utterance = embedded(0)  # Anna had a blue kite with a long red tail.
    words = spoken_words("Anna had a bloohe kite's with a ждб red tail.")
    times, notes, _ = aligner.find(utterance, words, "en")
    assert [index for index, time in enumerate(times) if time is None] == [7]
    assert [(note.index, note.note) for note in notes] == [
        (3, "the dictionary lacks 'bloohe': read as B L UW HH"),
        (7, "the dictionary lacks 'ждб': it is left out of the search"),
    ]
    assert abs(times[3].start - utterance.words[3].start) < 0.05
    assert aligner.find(utterance, words, "en") == Found(times, notes, ())  # words are added once
    with pytest.raises(AlignmentError, match="in 'de'; this aligner knows English only"):
        aligner.find(utterance, words, "de")
    with pytest.raises(AlignmentError, match="none of its words can be pronounced"):
        aligner.find(utterance, spoken_words("ждб"), "en")
    with pytest.raises(AlignmentError, match="no path through the words was found"):
        aligner.find(utterance, spoken_words(" ".join(["extraordinarily"] * 20)), "en")


@pytest.mark.parametrize(
    ("word", "phones"),
    [("quenelles", "K W EH N EH L EH S"), ("café", "K AE F EH"), ("ghee", "IY"), ("made", "M AE D"), ("жa", None)],
)
def test_guessed_phones(word, phones):
    assert guess_phones(word) == phones


@pytest.mark.asset("openai/whisper-tiny.en")
def test_whisper_stamps():
    aligner = open_aligner(AlignerConfig(aligner="whisper:openai/whisper-tiny.en"))
    utterance = embedded(0)
    times, _, unused = aligner.find(utterance, spoken_words(utterance.text), "en")
    assert None not in times and not unused
    assert mean_deviation(times, utterance.words) < 0.15  # seen: 0.10

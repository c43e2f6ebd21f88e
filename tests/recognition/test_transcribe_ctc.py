"""CTC recognisers, against the decoding rule written out by hand."""

import json

import pytest
import torch

from vocable.errors import AssetError, ConfigError
from vocable.recognition.transcribe import CTCTranscriber, load_ctc_transcriber, load_transcriber

LETTERS = ["<pad>", "|", "a", "b", "c", "d"]


@pytest.fixture
def checkpoint(tmp_path):
    """Wav2Vec2ForCTC with one narrow layer and six symbols, group norm over time as in the published base models."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path / "ctc"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(folder / "vocab.json", pad_token="<pad>", unk_token="<pad>").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    torch.manual_seed(3)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(40, 8), conv_kernel=(80, 16), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, pad_token_id=0, initializer_range=1.0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():  # a head that tells frames apart, so that several letters are heard
        hidden = model.wav2vec2(torch.randn(1, 32_000)).last_hidden_state[0]
        model.lm_head.bias.copy_(-model.lm_head.weight @ hidden.mean(0))
    model.save_pretrained(folder)
    return folder


def by_hand(model, waveform):
    """Best symbol of each frame, runs merged, blanks dropped, word borders as spaces."""
    values = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
    with torch.no_grad():
        best = model(values[None]).logits[0].argmax(-1).tolist()
    merged = [symbol for place, symbol in enumerate(best) if place == 0 or symbol != best[place - 1]]
    return "".join(" " if LETTERS[s] == "|" else LETTERS[s] for s in merged if s != 0).strip()


def test_transcripts_equal_the_rule_by_hand(checkpoint, make_speechlike):
    transcriber = load_transcriber(str(checkpoint))
    assert isinstance(transcriber, CTCTranscriber)
    waveforms = [make_speechlike(length, seed=seed) for seed, length in enumerate((9000, 4000, 16000))]
    expected = [by_hand(transcriber.model, waveform) for waveform in waveforms]
    assert transcriber.transcribe(waveforms) == expected
    assert len(set("".join(expected))) > 1  # not the same letter everywhere
    assert transcriber.transcribe(waveforms[1:2]) == expected[1:2]  # batch mates change nothing
    assert transcriber.transcribe([torch.zeros(10)]) == [""]
    assert transcriber.weights["name"] == str(checkpoint) and len(transcriber.weights["sha256"]) == 64


def test_long_recordings_are_cut_and_joined(checkpoint, make_speechlike):
    transcriber = load_ctc_transcriber(str(checkpoint))
    from vocable.audio.pieces import cut_at_quiet

    waveform = make_speechlike(16_000 * 40, seed=1)
    pieces = cut_at_quiet(waveform, 16_000)
    assert len(pieces) == 2
    joined = " ".join(text for piece in pieces if (text := by_hand(transcriber.model, piece)))
    assert transcriber.transcribe([waveform]) == [joined]


def test_what_is_no_recogniser(tmp_path, checkpoint):
    from tiny import save_tiny_lm

    with pytest.raises(ConfigError, match=r"a 'opt' model .*recognisers that can be read are Whisper and"):
        load_transcriber(str(save_tiny_lm("opt", tmp_path / "lm")))
    with pytest.raises(AssetError, match="not a transformers checkpoint"):
        load_transcriber(str(tmp_path))
    (checkpoint / "preprocessor_config.json").unlink()
    (checkpoint / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(AssetError, match="not a complete CTC checkpoint"):
        load_transcriber(str(checkpoint))

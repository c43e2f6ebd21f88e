import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import soundfile
import torch

from vocable.audio.io import read_utterance
from vocable.audio.manifest import Rejections
from vocable.errors import AssetError, AudioFormatError, ConfigError, FingerprintError, UnknownNameError
from vocable.features import EncoderConfig, LogMelConfig, LogMelEncoder, load_encoder
from vocable.tokens import (
    KMeans,
    KMeansConfig,
    SpeechTokenizer,
    UnitTokenizer,
    UnitTokenizerConfig,
    collapse_runs,
    load_tokenizer,
    register_tokenizer,
    streaming,
)
from vocable.tokens.agreement import compare_tokens, encode_each
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.unit_tokenizer import _features_to_fit_on
from vocable.types import SpeechTokens, Utterance

CONFIG = UnitTokenizerConfig(
    encoder=EncoderConfig(name="log-mel", layer=0),
    kmeans=KMeansConfig(num_clusters=12, init_frames=400, max_iterations=4),
    name="tiny",
)


@pytest.fixture
def utterances(tmp_path: Path, make_speechlike) -> list[Utterance]:
    made = []
    for index, num_samples in enumerate((16_000, 9_000, 24_001, 12_345)):
        path = tmp_path / "audio" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, make_speechlike(num_samples, seed=index).numpy(), 16_000)
        made.append(Utterance(id=str(index), audio=path))
    return made


@pytest.fixture
def tokenizer(utterances: list[Utterance]) -> UnitTokenizer:
    return UnitTokenizer.fit(utterances, CONFIG)


def test_encoding_is_encoder_then_nearest_centroid_then_runs(tokenizer: UnitTokenizer, make_speechlike):
    waveform = make_speechlike(20_000, seed=7)
    (tokens,) = tokenizer.encode([waveform])
    (features,) = tokenizer.encoder.encode([waveform])
    distances = (features.double()[:, None] - tokenizer.kmeans.centroids.double()).square().sum(-1)
    units, durations = collapse_runs(distances.argmin(-1))
    assert torch.equal(tokens.units, units) and torch.equal(tokens.durations, durations)
    assert tokens.num_frames == 125 and len(set(units.tolist())) > 3
    plain = UnitTokenizer(tokenizer.encoder, tokenizer.kmeans, replace(CONFIG, collapse=False))
    (frames,) = plain.encode([waveform])
    assert frames.durations is None and torch.equal(frames.units, distances.argmin(-1))
    assert plain.fingerprint == tokenizer.fingerprint


def test_units_do_not_depend_on_company_or_on_how_a_recording_arrives(tokenizer: UnitTokenizer, make_speechlike):
    waveforms = [make_speechlike(length, seed=length) for length in (1600, 32_000, 7_777, 32_000, 161)]
    alone = encode_each(tokenizer, waveforms)
    assert tokenizer.encode(waveforms) == alone
    assert compare_tokens(alone, tokenizer.encode(waveforms)).num_different == 0
    tokenizer.kmeans.block_frames = 60
    (whole,) = tokenizer.encode([waveforms[1]])
    for size in (700, 16_000, 50_000):
        assert tokenizer.encode_stream(waveforms[1].split(size)) == whole


def test_physics_and_card(tokenizer: UnitTokenizer):
    assert (tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.num_codebooks) == (16_000, 100.0, 1)
    assert tokenizer.codebook_size == 12
    assert tokenizer.bits_per_second == pytest.approx(358.496, abs=1e-3)  # 100 * log2(12)
    card = tokenizer.card()
    assert json.loads(json.dumps(card)) == card
    assert card["fingerprint"] == tokenizer.fingerprint and card["encoder"]["family"] == "log-mel"


def test_fitting_is_deterministic_and_reports(tokenizer: UnitTokenizer, utterances: list[Utterance]):
    again = UnitTokenizer.fit(utterances, CONFIG)
    assert again.fingerprint == tokenizer.fingerprint
    assert tokenizer.report is not None
    assert tokenizer.report.num_frames == sum(tokenizer.encoder.num_frames(n) for n in (16_000, 9_000, 24_001, 12_345))
    other = UnitTokenizer.fit(utterances, replace(CONFIG, kmeans=replace(CONFIG.kmeans, seed=1)))
    assert other.fingerprint != tokenizer.fingerprint


def test_fitting_on_fewer_hours(utterances: list[Utterance]):
    seen: list[Utterance] = []
    config = replace(CONFIG, fit_hours=1.5 / 3600)
    UnitTokenizer.fit(utterances, config, on_utterance=seen.append)
    assert len(seen) < 4
    with pytest.raises(ConfigError, match="fit_hours is -1"):
        replace(CONFIG, fit_hours=-1.0)


@pytest.fixture
def everything_is_long(monkeypatch):
    monkeypatch.setattr(streaming, "STREAM_SECONDS", 0.3)
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 0.11)


WINDOWED = replace(CONFIG, encoder=EncoderConfig(name="log-mel", layer=0, window_seconds=0.5, context_seconds=0.1))


def test_long_recordings_are_fitted_in_pieces_of_the_same_features(utterances, everything_is_long, monkeypatch):
    encoder = load_encoder(WINDOWED.encoder)
    pieces = list(_features_to_fit_on(utterances, encoder, WINDOWED, None, True, None))
    waveforms = [read_utterance(utterance, 16_000) for utterance in utterances]
    assert len(pieces) > len(utterances) and max(map(len, pieces)) <= 50  # never more than a window
    assert torch.equal(
        torch.cat(pieces), torch.cat([p for w in waveforms for p in encoder.encode_stream(w.split(999))])
    )
    assert torch.equal(torch.cat(pieces), torch.cat(encoder.encode(waveforms)))
    streamed = UnitTokenizer.fit(utterances, WINDOWED)
    monkeypatch.setattr(streaming, "STREAM_SECONDS", 600.0)
    whole = UnitTokenizer.fit(utterances, WINDOWED)
    assert streamed.fingerprint == whole.fingerprint
    assert [streamed.encode_stream(w.split(999)) for w in waveforms] == whole.encode(waveforms)


def test_a_long_recording_that_breaks_off_is_not_used_in_part(tmp_path, utterances, everything_is_long):
    soundfile.write(tmp_path / "whole.flac", soundfile.read(utterances[2].audio)[0], 16_000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) * 2 // 3])
    cut = Utterance(id="cut", audio=tmp_path / "cut.flac")
    rejections = Rejections(tmp_path / "out")
    encoder = load_encoder(WINDOWED.encoder)
    pieces = list(_features_to_fit_on([cut, utterances[0]], encoder, WINDOWED, rejections, False, None))
    assert rejections.count == 1 and sum(map(len, pieces)) == encoder.num_frames(16_000)
    with pytest.raises(AudioFormatError, match=r"cut\.flac"):
        list(_features_to_fit_on([cut], encoder, WINDOWED, None, True, None))


def test_unreadable_files_are_noted_or_stop_the_fit(tmp_path: Path, utterances: list[Utterance]):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    broken = [*utterances, Utterance(id="bad", audio=tmp_path / "bad.wav")]
    rejections = Rejections(tmp_path / "out")
    fitted = UnitTokenizer.fit(broken, CONFIG, rejections=rejections)
    assert fitted.report is not None and fitted.report.num_frames > 0
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert row["id"] == "bad" and "bad.wav" in row["reason"]
    with pytest.raises(AudioFormatError, match=r"bad\.wav"):
        UnitTokenizer.fit(broken, CONFIG, strict=True)


def test_saving_and_loading(tokenizer: UnitTokenizer, tmp_path: Path, make_speechlike):
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "fit_report.json", "model.safetensors"]
    waveform = make_speechlike(9_999)
    for loaded in (
        load_tokenizer(folder),
        UnitTokenizer.from_pretrained(folder),
        SpeechTokenizer.from_pretrained(folder),
    ):
        assert isinstance(loaded, UnitTokenizer)
        assert loaded.config == tokenizer.config and loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode([waveform]) == tokenizer.encode([waveform])


def test_a_codebook_of_another_encoder_is_refused(tokenizer: UnitTokenizer, tmp_path: Path):
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    header = json.loads((folder / "config.json").read_text())
    header["config"]["units"]["encoder"]["log_mel"] = {"min_frequency": 60.0}
    (folder / "config.json").write_text(json.dumps(header))
    with pytest.raises(FingerprintError) as error:
        load_tokenizer(folder)
    message = str(error.value)
    found = LogMelEncoder(LogMelConfig(min_frequency=60.0)).description()
    for description in (tokenizer.encoder.description(), found):
        assert encoder_fingerprint(description) in message
    assert "log_mel.min_frequency: 0.0 -> 60.0" in message and "fit a new codebook" in message


def test_a_changed_codebook_is_refused(tokenizer: UnitTokenizer, tmp_path: Path):
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    other = UnitTokenizer(tokenizer.encoder, KMeans(tokenizer.kmeans.centroids + 1), CONFIG)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(FingerprintError, match=f"{tokenizer.fingerprint}.*{other.fingerprint}"):
        load_tokenizer(folder)


def test_a_codebook_of_another_width_is_refused(tokenizer: UnitTokenizer):
    with pytest.raises(ConfigError, match="codebook has 80 dimensions, but 'log-mel' layer 0 gives 40"):
        UnitTokenizer(LogMelEncoder(LogMelConfig(num_mels=40)), tokenizer.kmeans, CONFIG)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), AssetError, "there is no config.json"),
        (lambda f: (f / "config.json").write_text("{"), AssetError, "not readable as JSON"),
        (lambda f: (f / "config.json").write_text("{}"), AssetError, "lacks card, config, fingerprint"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), AssetError, "model.safetensors: cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), AssetError, "model.safetensors: cannot be read"),
        (
            lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace('"units",', '"unit",', 1)),
            UnknownNameError,
            "Unknown tokenizer type 'unit'. Did you mean 'units'?",
        ),
    ],
)
def test_damaged_folders(tokenizer: UnitTokenizer, tmp_path: Path, damage, error, message):
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    damage(folder)
    with pytest.raises(error, match=message.replace("?", r"\?")):
        load_tokenizer(folder)


def test_other_kinds_can_be_registered(tokenizer: UnitTokenizer, tmp_path: Path):
    @register_tokenizer("another")
    class Another(UnitTokenizer):
        pass

    folder = Another(tokenizer.encoder, tokenizer.kmeans, CONFIG).save_pretrained(tmp_path / "another")
    assert type(load_tokenizer(folder)) is Another
    assert load_tokenizer(folder).fingerprint != tokenizer.fingerprint

    @register_tokenizer("third")
    class Third(UnitTokenizer):
        pass

    with pytest.raises(ConfigError, match="holds a Another, not a Third"):
        Third.from_pretrained(folder)


class Whistle:
    """A vocoder that holds one note per frame."""

    sample_rate = 8_000
    tokenizer_fingerprint: str | None = None
    voices = ()

    def synthesize(self, tokens: list[SpeechTokens], voice: str | None = None) -> list[torch.Tensor]:
        return [torch.full((80 * item.num_frames,), 0.5 if voice else 0.1) for item in tokens]


def test_decoding_needs_a_synthesizer_made_for_this_tokenizer(tokenizer: UnitTokenizer, make_speechlike):
    tokens = tokenizer.encode([make_speechlike(3200)])
    with pytest.raises(
        ConfigError, match=r"'tiny' .* has no synthesizer and cannot make sound.*tokenizer.synthesizer = "
    ):
        tokenizer.decode(tokens)
    tokenizer.synthesizer = Whistle()
    assert [len(waveform) for waveform in tokenizer.decode(tokens)] == [1600]
    assert float(tokenizer.decode(tokens, voice="low")[0][0]) == 0.5
    stranger = Whistle()
    stranger.tokenizer_fingerprint = "0123456789abcdef"
    with pytest.raises(FingerprintError, match=f"fingerprint 0123456789abcdef, but .* {tokenizer.fingerprint}"):
        tokenizer.synthesizer = stranger


def test_upload(tokenizer: UnitTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uploaded = {}

    def upload_folder(repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, tmp_path / "hub")
        uploaded[repo_id] = commit_message
        return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda repository, **_settings: uploaded.setdefault(repository))
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    assert tokenizer.push_to_hub("me/units") == "https://hub/commit"
    assert uploaded == {"me/units": "Upload tokenizer"}
    assert load_tokenizer(tmp_path / "hub").fingerprint == tokenizer.fingerprint
    assert 'load_tokenizer("me/units")' in (tmp_path / "hub" / "README.md").read_text()


def test_agreement_counts_frames():
    a = SpeechTokens(codes=torch.tensor([[1, 2]]), durations=torch.tensor([2, 2]))
    b = SpeechTokens(codes=torch.tensor([[1, 2, 3, 3, 3]]))
    agreement = compare_tokens([a], [b])
    assert (agreement.num_frames, agreement.num_different) == (5, 4)
    assert agreement.mismatch_rate == 0.8


@pytest.mark.asset("whisper-tiny.en")
def test_whisper_units_do_not_depend_on_company(make_speechlike, tmp_path: Path):
    encoder = load_encoder(EncoderConfig())
    waveforms = [make_speechlike(length, seed=length) for length in (20_000, 3_333, 47_111)]
    centroids = torch.cat(encoder.encode(waveforms))[::4]
    tokenizer = UnitTokenizer(encoder, KMeans(centroids), UnitTokenizerConfig())
    assert tokenizer.encode(waveforms) == encode_each(tokenizer, waveforms)
    loaded = load_tokenizer(tokenizer.save_pretrained(tmp_path / "whisper"))
    assert loaded.encode(waveforms[:1]) == tokenizer.encode(waveforms[:1])

"""Vocoders on the command line: `vocable vocoder train`, `synthesize` and `resynthesize`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import vocable
from vocable.errors import ConfigError
from vocable.progress import track

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vocable.tokens.shard_columns import TokenRows
    from vocable.training.vocoder import VocoderRecipe
    from vocable.types import SpeechTokens, Utterance


def train(
    manifest: Path,
    out: Path,
    tokenizer: str,
    stream: str | None = None,
    also: tuple[Path, ...] = (),
    main_share: float | None = None,
    config: Path | None = None,
    start_from: Path | None = None,
    num_processes: int = 1,
    overrides: Annotated[tuple[str, ...], VocoderRecipe] = (),
) -> None:
    """Train a vocoder for a tokenizer, on any speech in any language.

    Begins with a pretrained decoder (init=random: with nothing), and learns to copy voices where the manifests name
    several speakers. Speech with phone times ("phones" in the manifest, as test sets and stories of ours have) teaches
    it content as well. A run that was stopped continues when the same command is given again.

    vocable vocoder train all.jsonl runs/vocoder --tokenizer units --config recipes/vocoder/cpu.yaml
    vocable vocoder train all.jsonl runs/vocoder --tokenizer units init=random training.max_minutes=40

    Args:
        manifest: utterances to train on (JSONL), or a folder of their token shards.
        out: folder for tokens, logs, checkpoints and the result, `vocoder`.
        tokenizer: folder of the tokenizer, or its name on the Hugging Face hub.
        stream: name of the stream that the vocoder will read, where the tokenizer has several.
        also: further manifests or folders of token shards.
        main_share: share of the training, 0 to 1, that is on the first manifest. Without it, as much as it has speech.
        config: yaml with the sections vocoder and training.
        start_from: folder of a vocoder whose weights are the start, in place of the pretrained decoder's.
        num_processes: processes that tokenize.
        overrides: settings of the recipe.
    """
    import functools
    import json
    import operator

    from vocable.config import load_config
    from vocable.features.speaker import load_speaker_encoder
    from vocable.synthesis.text_to_speech import TextToSpeech, TextToSpeechConfig
    from vocable.synthesis.vocoder import UnitVocoder
    from vocable.tokens.fingerprint import check_fingerprint
    from vocable.training.phone_targets import PhoneTargets
    from vocable.training.vocoder import VocoderRecipe, train_vocoder
    from vocable.training.vocoder_data import voices_by_speech

    units = vocable.load_tokenizer(tokenizer).stream(stream)
    (read,) = units.streams
    if read.rate is None:
        raise ConfigError(f"The tokens of {tokenizer} follow words, not frames; this vocoder reads frames.")
    groups = []
    for source in (manifest, *also):
        shards = vocable.TokenShards(_tokenized(source, out, tokenizer, num_processes)).stream(stream)
        name = f"the token shards {shards.folder}"
        check_fingerprint(units.fingerprint, shards.fingerprint, f"The tokenizer {tokenizer}", name)
        groups.append(shards)
    pairs = functools.reduce(operator.add, groups)
    vectors = units.unit_vectors()
    speakers = {name for name in pairs.values("speaker") if name}
    physics: dict[str, Any] = {
        "codebook_size": max(read.codebook_sizes),
        "num_codebooks": read.num_levels,
        "codebook_sizes": read.codebook_sizes if len(set(read.codebook_sizes)) > 1 else None,
        "codebook_dim": None if vectors is None else vectors.vectors.shape[1],
        "encoder_fingerprint": None if vectors is None else vectors.encoder_fingerprint,
        "frontend.num_symbols": TextToSpeechConfig().num_symbols,
        "token_frame_rate": read.rate,
        "collapsed": pairs.any_durations,
        "tokenizer_fingerprint": units.fingerprint,
    }
    encoder = load_speaker_encoder() if len(speakers) > 1 else None
    if encoder is not None:
        physics["decoder.speaker_dim"] = encoder.dim
    settings = [f"vocoder.{name}={json.dumps(value)}" for name, value in physics.items()]
    recipe = load_config(VocoderRecipe, config, (*settings, *overrides))
    pretrained = TextToSpeech.from_pretrained() if recipe.init == "pretrained" else None
    vocoder = train_vocoder(
        pairs,
        recipe.vocoder,
        recipe.training,
        out,
        start_from=UnitVocoder.from_pretrained(start_from) if start_from else pretrained,
        weights=_weights(groups, main_share),
        codebooks=None if vectors is None else [vectors.vectors],
        encoder=encoder,
        reference=None if pretrained is None else pretrained.decoder,
        targets=PhoneTargets(pretrained) if pretrained is not None else None,
        voices=voices_by_speech(pairs, recipe.min_voice_seconds, read.rate),
    )
    parameters = sum(parameter.numel() for parameter in vocoder.parameters()) / 1e6
    print(f"{out / 'vocoder'}: {parameters:.1f} M parameters, {len(vocoder.voices)} voices")
    print(f"Next: vocable vocoder resynthesize RECORDING again.wav --tokenizer {tokenizer} --vocoder {out / 'vocoder'}")


def align(
    manifest: Path,
    out: Path,
    vocoder: Path,
    tokenizer: str = "vocable/units-500",
    phonemizer: Literal["hibari", "espeak-ng", "given"] | None = None,
    worst: float = 0.03,
) -> None:
    """Find the phonemes of recordings with text, by a vocoder, to train a vocoder on: words, phones and symbols.

    A vocoder that was trained on speech with known symbols (a synthesiser's) finds those of recordings. What it cannot
    read, and the worst matches, are left out, with the reason in OUT.rejected.jsonl beside it.

    vocable vocoder align train.jsonl aligned.jsonl --vocoder runs/first/vocoder

    Args:
        manifest: recordings with text (JSONL).
        out: the manifest to write.
        vocoder: folder of the vocoder.
        tokenizer: folder of the tokenizer that it reads, or its name.
        phonemizer: from text to phonemes: hibari (English, extra `voice`), espeak-ng, or given (the text is phonemes).
            Without it, the first that is installed.
        worst: share of the utterances, those that match their text worst, to leave out.
    """
    from vocable.audio.manifest import Rejections, note_rejection
    from vocable.errors import AlignmentError, AudioFormatError, OutputError
    from vocable.synthesis.phonemes import open_phonemizer
    from vocable.synthesis.text_to_speech import TextToSpeech
    from vocable.synthesis.vocoder import UnitVocoder
    from vocable.training.symbol_aligner import SymbolAligner

    if not 0 <= worst < 1:
        raise ConfigError(f"--worst is {worst}; it is a share of the utterances, from 0 to below 1.")
    if out.exists():
        raise OutputError(f"{out} is there already. Choose another name, or delete it.")
    units = vocable.load_tokenizer(tokenizer)
    speaker = vocable.load_synthesizer(vocoder, units)
    if not isinstance(speaker, UnitVocoder):
        raise ConfigError(f"{vocoder} is no unit vocoder of Vocable, so it tells no phonemes apart.")
    aligner = SymbolAligner(speaker, units, TextToSpeech.from_pretrained(), open_phonemizer(phonemizer))
    rejections, scored = Rejections.beside(out), []
    for utterance in track(vocable.read_manifest(manifest), "Aligning"):
        try:
            scored.append(aligner.align(utterance))
        except (AlignmentError, AudioFormatError) as error:
            note_rejection(
                utterance.audio, utterance.id, utterance.audio, str(error), strict=False, rejections=rejections
            )
    limit = sorted(score for _, score in scored)[int(worst * len(scored))] if scored else 0.0
    for utterance, score in scored:
        if score < limit:
            reason = f"matches its text badly: {score:.2f} nats a frame"
            note_rejection(utterance.audio, utterance.id, utterance.audio, reason, strict=False, rejections=rejections)
    kept = [utterance for utterance, score in scored if score >= limit]
    vocable.write_manifest(kept, out)
    print(f"{out}: {len(kept)} utterances; {rejections.count} left out")


@dataclass(frozen=True, kw_only=True)
class SpeakingConfig:
    """How tokens are spoken."""

    voice: str | Path | None = None
    """A voice of the vocoder, or a recording of one to copy. Without it, its first."""
    predict_durations: bool = False
    """Let the vocoder choose how long units last, even where the tokens say it."""
    limit: int | None = None
    """Most utterances; the rest is left out."""


def synthesize(tokens: Path, out: Path, vocoder: Path, speaking: SpeakingConfig) -> None:
    """Turn token shards into sound: one WAV file an utterance, and a manifest.

    vocable vocoder synthesize tokens spoken --vocoder runs/vocoder

    Args:
        tokens: folder of token shards.
        out: folder to write.
        vocoder: folder of the vocoder.
        speaking: how tokens are spoken.
    """
    from vocable.tokens.fingerprint import check_fingerprint

    speaker = vocable.load_synthesizer(vocoder)
    shards = vocable.TokenShards(tokens).matching(speaker.tokenizer_fingerprint)
    if speaker.tokenizer_fingerprint is not None:
        check_fingerprint(speaker.tokenizer_fingerprint, shards.fingerprint, "The vocoder", f"the tokens {tokens}")
    spoken = ((item, speaker.synthesize([_timed(row, speaking)], speaking.voice)[0]) for item, row in shards)
    _write_all(spoken, len(shards), out, speaker.sample_rate, speaking)


def resynthesize(
    audio: Path,
    out: Path,
    speaking: SpeakingConfig,
    tokenizer: str = "vocable/units-500",
    vocoder: Path | None = None,
    prosody: Literal["tokens", "recording"] = "tokens",
) -> None:
    """Turn speech into tokens and back: what survives the tokenizer, to listen to.

    vocable vocoder resynthesize one.wav heard --voice own --prosody recording
    vocable vocoder resynthesize dev.jsonl heard --tokenizer units --vocoder runs/vocoder

    Args:
        audio: an audio file, or a manifest (.jsonl).
        out: folder to write.
        speaking: how tokens are spoken; the voice `own` is that of each recording.
        tokenizer: folder of the tokenizer, or its name on the Hugging Face hub; as it stands, the one that comes with
            Vocable.
        vocoder: folder of the vocoder. Without it, the tokenizer's own decoder, else the vocoder that comes with
            Vocable.
        prosody: source of pitch and energy: the tokens, or the recording, moved to the voice.
    """
    from vocable.audio.io import Audio, read_clip
    from vocable.synthesis.opening import attach_synthesizer

    utterances = (
        vocable.read_manifest(audio) if audio.suffix == ".jsonl" else [vocable.Utterance(id=audio.stem, audio=audio)]
    )
    units = attach_synthesizer(vocable.load_tokenizer(tokenizer), vocoder)

    def spoken() -> Iterable[tuple[Utterance, Tensor]]:
        for utterance in utterances:
            clip = read_clip(utterance, units.sample_rate)
            recording = Audio(clip.waveform, units.sample_rate)
            (tokens,) = units.encode([clip])
            voice = recording if speaking.voice == "own" else speaking.voice
            source = [recording] if prosody == "recording" else None
            yield utterance, units.decode([_timed(tokens, speaking)], voice, source)[0]

    _write_all(spoken(), len(utterances), out, units.decode_rate, speaking)


def _tokenized(source: Path, out: Path, tokenizer: str, processes: int) -> Path:
    """Return the folder of token shards; those of a manifest are made, under <out>/tokens."""
    import hashlib

    from vocable.systems.from_speech import tokenize_manifest

    if source.is_dir():
        return source
    path_hash = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:6]
    folder = out / "tokens" / f"{source.stem}-{path_hash}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenize_manifest(source, folder, tokenizer, processes=processes)
    return folder


def _weights(groups: Sequence[TokenRows], main_share: float | None) -> np.ndarray | None:
    """Weights by which `main_share` of all training frames come from the first group; None for equal ones."""
    import numpy as np

    if main_share is None or len(groups) == 1:
        return None
    if not 0 < main_share < 1:
        raise ConfigError(f"--main-share is {main_share}; it must lie between 0 and 1.")
    sizes = [int(group.num_frames.sum()) for group in groups]
    main = main_share / (1 - main_share) * sum(sizes[1:]) / sizes[0]
    return np.repeat([main, 1.0], [len(groups[0]), sum(map(len, groups[1:]))])


def _timed(tokens: SpeechTokens, config: SpeakingConfig) -> SpeechTokens:
    """Return the tokens, without their durations if the vocoder is to predict them."""
    import torch

    def one_column_a_run(one: SpeechTokens) -> SpeechTokens:
        if one.durations is not None:
            return one.without_durations()
        return vocable.SpeechTokens(codes=torch.unique_consecutive(one.codes, dim=1))

    return tokens.map_streams(one_column_a_run) if config.predict_durations else tokens


def _write_all(
    spoken: Iterable[tuple[Utterance, Tensor]], available: int, out: Path, sample_rate: int, config: SpeakingConfig
) -> None:
    """Write WAV files named by utterance, and a manifest of them."""
    import dataclasses
    import itertools

    from vocable.files import name_of

    total = available if config.limit is None else min(config.limit, available)
    out.mkdir(parents=True, exist_ok=True)
    written, seconds = [], 0.0
    for utterance, waveform in track(itertools.islice(spoken, total), "Speaking", total):
        path = out / name_of(utterance.id, ".wav")
        vocable.write_audio(path, waveform, sample_rate)
        seconds += len(waveform) / sample_rate
        changed = {"audio": path, "start": 0.0, "duration": len(waveform) / sample_rate, "words": None}
        changed |= {"speaker": str(config.voice)} if config.voice not in (None, "own") else {}
        written.append(dataclasses.replace(utterance, **changed))
    vocable.write_manifest(written, out / "manifest.jsonl")
    print(f"{out / 'manifest.jsonl'}: {len(written)} utterances, {seconds:.1f} s of speech")


COMMANDS = {
    "vocoder train MANIFEST OUT": train,
    "vocoder align MANIFEST OUT": align,
    "vocoder synthesize TOKENS OUT": synthesize,
    "vocoder resynthesize AUDIO OUT": resynthesize,
}

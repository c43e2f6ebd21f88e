"""Tokens and frames to evaluate: from files on disk, or encoded now; in the order of the manifest, gaps counted.

    utterances  ->  TokenSource  ->  (utterance, tokens)
    utterances  ->  FrameSource  ->  (id, frames): codes (frames, num_codebooks) or vectors (frames, dim)

Encoded once, evaluated often: with files, no encoder is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vocable.errors import AudioFormatError, ConfigError
from vocable.evaluation.runner import Run, TokensConfig
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.runs import frames_of
from vocable.tokens.streams import streams_of_card
from vocable.types import Clip, SpeechTokens, Stream, Utterance

if TYPE_CHECKING:
    from torch import Tensor

    from vocable.tokens.tokenizer import SpeechTokenizer


def encode_all(tokenizer: SpeechTokenizer, clips: Sequence[Clip | Tensor]) -> list[SpeechTokens | None]:
    """Encode together; where one is refused (too short, say), one by one, so that the others go on: None for it."""
    try:
        return list(tokenizer.encode(clips)) if clips else []
    except AudioFormatError:
        return [None] if len(clips) == 1 else [tokens for clip in clips for tokens in encode_all(tokenizer, [clip])]


class TokenSource:
    """Tokens by utterance; `card` is the tokenizer's, `excluded` counts utterances without tokens, by reason.

    They are of one stream, or with `whole` of all that there are.

    Raises:
        ConfigError: neither or both are given, the stream is not known, or no utterance of the manifest has tokens.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokens: Path | None = None,
        tokenizer: SpeechTokenizer | None = None,
        stream: str | None = None,
        whole: bool = False,
    ) -> None:
        if (tokens is None) == (tokenizer is None):
            raise ConfigError("Give either a folder of token shards (tokens) or a tokenizer, not both and not neither.")
        self.utterances = list(utterances)
        self.excluded: Counter[str] = Counter()
        self._tokenizer = tokenizer if tokenizer is None or whole else tokenizer.stream(stream)
        self._stored: Mapping[str, SpeechTokens] | None = None
        if tokens is not None:
            from vocable.tokens.shards import TokenShards

            shards = TokenShards(tokens) if whole else TokenShards(tokens).stream(stream)
            wanted = {utterance.id for utterance in self.utterances}
            self._stored = {found.id: item for found, item in shards if found.id in wanted}
            self.card: dict[str, Any] = shards.card
            if not self._stored:
                raise ConfigError(f"{tokens}: none of the manifest's {len(wanted)} utterances has tokens there.")
        elif self._tokenizer is not None:
            self.card = self._tokenizer.card()

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All that is read."""
        return streams_of_card(self.card)

    @property
    def stream(self) -> Stream:
        """The stream that is read."""
        return self.streams[0]

    @property
    def frame_rate(self) -> float:
        """Frames per second.

        Raises:
            ConfigError: the tokens follow words.
        """
        rate = self.stream.rate
        if not rate:
            raise ConfigError(f"The tokens of {self.card.get('name')!r} follow words, not frames: they have no phones.")
        return float(rate)

    def __iter__(self) -> Iterator[tuple[Utterance, SpeechTokens]]:
        for utterance in self.utterances:
            tokens = self._of(utterance)
            if tokens is not None and tokens.num_positions:
                yield utterance, tokens
            elif tokens is not None:
                self.excluded["no tokens: audio too short"] += 1

    def _of(self, utterance: Utterance) -> SpeechTokens | None:
        if self._stored is not None:
            if utterance.id not in self._stored:
                self.excluded["no tokens in the shards"] += 1
            return self._stored.get(utterance.id)
        from vocable.audio.io import read_clip

        assert self._tokenizer is not None
        try:
            return self._tokenizer.encode([read_clip(utterance, self._tokenizer.sample_rate)])[0]
        except AudioFormatError:
            self.excluded["unreadable or refused audio"] += 1
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTestConfig(TokensConfig):
    """The settings of a benchmark that learns from the tokens of some utterances, and is tested on others."""

    manifest: Path
    """The utterances to train on (JSONL)."""
    test_manifest: Path
    """The utterances to test on; none of them in the other manifest."""
    test_tokens: Path | None = None
    """Folder of token shards of the test utterances. Without it, they are in the other folder."""

    def __post_init__(self) -> None:
        TokensConfig.__post_init__(self)
        if self.test_tokens is not None and self.tokens is None:
            raise ConfigError("test_tokens is given without tokens. Give both, or a tokenizer.")


class TrainTest(NamedTuple):
    """Tokens to train on and to test on."""

    train: TokenSource
    test: TokenSource

    @classmethod
    def open(cls, run: Run, config: TrainTestConfig) -> TrainTest:
        """Open both, and record their tokenizer.

        Raises:
            ConfigError: an utterance is in both; or see `TokenSource`.
            FingerprintError: they are of different tokenizers.
        """

        def source(manifest: Path, tokens: Path | None) -> TokenSource:
            return TokenSource(run.read_manifest(manifest), tokens, run.tokenizer(), config.stream)

        train = run.open("train", lambda: source(config.manifest, config.tokens))
        test = run.open("test", lambda: source(config.test_manifest, config.test_tokens or config.tokens))
        prints = train.card["fingerprint"], test.card["fingerprint"]
        check_fingerprint(*prints, "The token set to train on", "the one to test on")
        both = {one.id for one in train.utterances} & {one.id for one in test.utterances}
        if both:
            raise ConfigError(
                f"{len(both)} utterances are in both manifests, {min(both)!r} for one: test on others than were "
                "trained on."
            )
        run.fingerprints["tokenizer"] = prints[0]
        return cls(train, test)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSource:
    """Iterate for the id and the frames of every utterance that has some."""

    frame_rate: float
    """Frames per second."""
    read: Callable[[], Iterator[tuple[str, Tensor]]]
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of everything that makes the frames."""
    excluded: Counter[str] = field(default_factory=Counter)
    """Utterances left out while reading, by reason."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.read()


def token_frames(source: TokenSource) -> FrameSource:
    """Codes frame by frame, those of several codebooks side by side.

    Raises:
        ConfigError: the tokens follow words.
    """

    return FrameSource(
        frame_rate=source.frame_rate,
        read=lambda: ((utterance.id, frames_of(tokens).mT) for utterance, tokens in source),
        fingerprints={"tokenizer": source.card["fingerprint"]},
        excluded=source.excluded,
    )


def encoder_frames(utterances: Sequence[Utterance], name: str, layer: int, device: str = "cpu") -> FrameSource:
    """Features of an encoder, by name or folder, up to a layer.

    Raises:
        AssetError, ConfigError: see `load_encoder`.
    """
    from vocable.audio.io import read_utterance
    from vocable.features import EncoderConfig, load_encoder
    from vocable.tokens.fingerprint import encoder_fingerprint

    encoder = load_encoder(EncoderConfig(name=name, layer=layer)).to(device)
    excluded: Counter[str] = Counter()

    def read() -> Iterator[tuple[str, Tensor]]:
        for utterance in utterances:
            try:
                frames = encoder.encode([read_utterance(utterance, encoder.sample_rate)])[0].cpu()
            except AudioFormatError:
                excluded["unreadable or refused audio"] += 1
                continue
            yield utterance.id, frames

    fingerprints = {"encoder": encoder_fingerprint(encoder.description())}
    return FrameSource(frame_rate=encoder.frame_rate, read=read, fingerprints=fingerprints, excluded=excluded)


def stored_frames(utterances: Sequence[Utterance], folder: Path, frame_rate: float | None) -> FrameSource:
    """Arrays <id>.npy in a folder, (frames, dim); utterances without one are passed over.

    Raises:
        ConfigError: no frame rate is given; while reading, a file is no such array or holds NaN or infinity.
    """
    import numpy as np
    import torch

    folder = Path(folder)
    if frame_rate is None or not 0 < frame_rate < float("inf"):
        raise ConfigError(f"frame_rate is {frame_rate}: say how many frames a second the files in {folder} have.")

    def read() -> Iterator[tuple[str, Tensor]]:
        for utterance in utterances:
            path = folder / f"{utterance.id}.npy"
            if not path.is_file():
                continue
            try:
                table = torch.from_numpy(np.load(path, allow_pickle=False))
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(f"{path}: not a readable array of numbers: {error}") from error
            if table.ndim != 2 or not bool(torch.isfinite(table).all()):
                raise ConfigError(f"{path}: shape {tuple(table.shape)}; expected finite numbers, (frames, dim).")
            yield utterance.id, table

    return FrameSource(frame_rate=frame_rate, read=read)

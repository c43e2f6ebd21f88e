"""The contract of every speech tokenizer: its streams, `encode` and `decode`, a fingerprint, and a saved folder.

    clips  --encode-->  SpeechTokens (codes per stream)  --decode (with a synthesizer)-->  waveforms

A folder holds `config.json` and `model.safetensors`, never a pickle. `load_tokenizer` reads any of them: the classes
enter themselves with `@register_tokenizer("name")`, or through the entry point group `vocable.tokenizers`.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from vocable import __version__
from vocable.audio.io import Audio
from vocable.audio.waveforms import check_waveform
from vocable.errors import AssetError, AudioFormatError, ConfigError, FingerprintError
from vocable.features.voice import Voice
from vocable.files import replace_file
from vocable.registry import look_up
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.streams import card_of_stream, choose_stream, find_stream, stream_fingerprint, streams_to_card
from vocable.types import Clip, SpeechTokens, Stream, Word

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ENTRY_POINTS = "vocable.tokenizers"

S = TypeVar("S", bound="SpeechTokenizer")


@runtime_checkable
class Synthesizer(Protocol):
    """Turns tokens into speech: a vocoder for units, the decoder of a codec."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms that it makes, Hz."""
        ...

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Fingerprint of the tokenizer whose tokens it reads; None where that is not recorded."""
        ...

    @property
    def voices(self) -> Sequence[str]:
        """Names that `synthesize` accepts, the default first; empty where voices have no names."""
        ...

    def synthesize(self, tokens: Sequence[SpeechTokens], voice: Voice | None = None) -> list[Tensor]:
        """Return one waveform, (samples,), per item."""
        ...


@runtime_checkable
class ProsodyFollower(Protocol):
    """A synthesizer that can take pitch and energy from recordings of the same words at the same times."""

    follows_prosody: ClassVar[bool]

    def synthesize(
        self,
        tokens: Sequence[SpeechTokens],
        voice: Voice | None = None,
        prosody: Sequence[Audio | Path | None] | None = None,
    ) -> list[Tensor]:
        """Return one waveform, (samples,), per item."""
        ...


class UnitVectors(NamedTuple):
    """The vectors that units stand for, and the encoder in whose space they lie."""

    vectors: Float[Tensor, "codebook_size dim"]
    encoder_name: str
    encoder_fingerprint: str


class SpeechTokenizer(ABC):
    """Turns clips into discrete tokens; with a synthesizer, attached or its own, back into speech.

    `encode` treats every clip by itself: `encode([a, b])` equals `[encode([a])[0], encode([b])[0]]` bit for bit.
    """

    tokenizer_type: ClassVar[str]
    """The name under which the class is registered."""
    needs_text: bool = False
    """Whether every clip must come with its text."""
    needs_words: bool = False
    """Whether every clip must come with its words and their times."""
    batchings: tuple[str, ...] = ("exact",)
    """Ways of batching that `encode` knows; all but `exact` keep the promise above only nearly."""
    _synthesizer: Synthesizer | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for people; not part of the fingerprint."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Samples per second of the waveforms that `encode` reads, Hz."""

    @property
    @abstractmethod
    def streams(self) -> tuple[Stream, ...]:
        """The streams of codes that `encode` writes."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name of exactly these weights and settings: whatever is derived from the tokens carries it."""

    @abstractmethod
    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        """Return the tokens of checked clips, on the CPU; `encode` calls this."""

    def encode(self, clips: Sequence[Clip | Float[Tensor, " _samples"]], batching: str = "exact") -> list[SpeechTokens]:
        """Return the tokens of clips, each of any length; tokens lie on the CPU.

        Args:
            clips: Mono at `sample_rate`; a plain waveform is a clip without text and words.
            batching: One of `batchings`.

        Raises:
            AudioFormatError: a waveform is empty, not one-dimensional, or holds NaN; or a clip lacks the text or the
                words that this tokenizer needs.
            UnknownNameError: this tokenizer does not know the batching.
        """
        look_up("batching", batching, dict.fromkeys(self.batchings))
        return self.encode_clips([self._checked(index, clip) for index, clip in enumerate(clips)], batching)

    def encode_stream(
        self,
        blocks: Iterable[Float[Tensor, " _samples"]],
        text: str | None = None,
        words: tuple[Word, ...] | None = None,
    ) -> SpeechTokens:
        """Return the tokens of one recording that arrives in blocks, as `encode` would of the whole.

        This one joins the blocks; tokenizers that can work in little memory override it.
        """
        return self.encode([Clip(torch.cat(list(blocks)), text, words)])[0]

    def _checked(self, index: int, clip: Clip | Tensor) -> Clip:
        if isinstance(clip, Tensor):
            clip = Clip(clip)
        check_waveform(clip.waveform, f"waveforms[{index}]")
        if self.needs_text and clip.text is None:
            raise AudioFormatError(
                f"waveforms[{index}] comes without text, which the tokenizer {self.name!r} needs. Give it in the "
                "manifest, as `text`"
            )
        if self.needs_words and clip.words is None:
            raise AudioFormatError(
                f"waveforms[{index}] comes without words and their times, which the tokenizer {self.name!r} needs. Add "
                "them to the manifest: vocable align"
            )
        return clip

    @property
    def bits_per_second(self) -> float | None:
        """Sum over streams and levels of rate * log2(codebook size); None when a stream follows words."""
        return streams_to_card(self.streams)["bits_per_second"]

    def stream(self, name: str | None = None) -> "SpeechTokenizer":
        """Return this tokenizer as one that writes a single stream: what readers of units and codes take.

        Raises:
            ConfigError: there is no such stream, or there are several and no name is given.
        """
        chosen = self._one_stream(name)
        return self if len(self.streams) == 1 else _StreamOfTokenizer(self, chosen)

    def matching(self, fingerprint: str | None) -> "SpeechTokenizer":
        """Return the stream with this fingerprint; the tokenizer itself where no stream has it."""
        name = find_stream(self.streams, self.fingerprint, fingerprint)
        return self if name is None else self.stream(name)

    def _one_stream(self, name: str | None = None) -> Stream:
        return choose_stream(self.streams, name, f"The tokenizer {self.name!r}")

    @property
    def frame_rate(self) -> float | None:
        """Frames per second of the only stream before run collapsing, Hz; None when tokens follow words."""
        return self._one_stream().rate

    @property
    def num_codebooks(self) -> int:
        """Levels of the only stream."""
        return self._one_stream().num_levels

    @property
    def codebook_size(self) -> int:
        """Codes of the only level of the only stream."""
        return self._one_stream().codebook_size

    def card(self) -> dict[str, Any]:
        """Return what a reader of the tokens must know, as JSON values; stored with shards and language models."""
        return {
            "name": self.name,
            "tokenizer_type": self.tokenizer_type,
            "fingerprint": self.fingerprint,
            "sample_rate": self.sample_rate,
            **streams_to_card(self.streams),
            "vocable_version": __version__,
        }

    def in_bfloat16(self) -> "SpeechTokenizer | None":
        """Return the same tokenizer in half the precision, to measure what that changes; None where there is none."""
        return None

    def unit_vectors(self) -> UnitVectors | None:
        """Return the vectors that the units stand for, where they lie in an encoder's space; else None."""
        return None

    @property
    def synthesizer(self) -> Synthesizer | None:
        """Turns the tokens back into speech; a codec attaches its own decoder when it is made."""
        return self._synthesizer

    @synthesizer.setter
    def synthesizer(self, synthesizer: Synthesizer | None) -> None:
        made_for = None if synthesizer is None else synthesizer.tokenizer_fingerprint
        if made_for is not None:
            check_fingerprint(made_for, self.fingerprint, "The synthesizer", f"the tokenizer {self.name!r}")
        self._synthesizer = synthesizer

    @property
    def whole(self) -> "SpeechTokenizer":
        """The tokenizer with all of its streams, where this is a view of one."""
        return self

    def synthesizer_of(self, stream: str) -> Synthesizer | None:
        """Return what makes speech of one of several streams alone; None where nothing does."""
        return None

    @property
    def decode_rate(self) -> int:
        """Samples per second of what `decode` returns, Hz.

        Raises:
            ConfigError: no synthesizer is attached.
        """
        return self._attached().sample_rate

    def decode(
        self,
        tokens: Sequence[SpeechTokens],
        voice: Voice | None = None,
        prosody: Sequence[Audio | Path | None] | None = None,
    ) -> list[Tensor]:
        """Return one waveform, (samples,), at `decode_rate`, per item.

        Args:
            tokens: All streams of each item, as `encode` returns them.
            voice: A name, a recording or a speaker vector; None takes the synthesizer's default.
            prosody: For each item, the recording whose pitch and energy it shall have; None leaves them to the tokens.

        Raises:
            ConfigError: no synthesizer is attached, or it does not follow the prosody of recordings.
        """
        if prosody is None:
            return self._attached().synthesize(list(tokens), voice=voice)
        synthesizer = cast(object, self._attached())
        if not isinstance(synthesizer, ProsodyFollower):
            raise ConfigError(
                f"The synthesizer of {self.name!r} takes pitch and energy from the tokens; it cannot take them from a "
                "recording. Unit vocoders of Vocable can."
            )
        return synthesizer.synthesize(list(tokens), voice=voice, prosody=prosody)

    def _attached(self) -> Synthesizer:
        if self.synthesizer is None:
            raise ConfigError(
                f"The tokenizer {self.name!r} (fingerprint {self.fingerprint}) has no synthesizer and cannot make "
                "sound. Attach one that was trained on its tokens: tokenizer.synthesizer = "
                "load_synthesizer(FOLDER, tokenizer)"
            )
        return self.synthesizer

    @abstractmethod
    def saved_config(self) -> dict[str, Any]:
        """Return the settings that `from_saved` needs, as JSON values."""

    @abstractmethod
    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the weights that `from_saved` needs."""

    @classmethod
    @abstractmethod
    def from_saved(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str, source: str
    ) -> "SpeechTokenizer":
        """Build the tokenizer again; `source` names the folder in messages."""

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write config.json and model.safetensors, each whole or not at all.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = Path(folder)
        header = {
            "tokenizer_type": self.tokenizer_type,
            "fingerprint": self.fingerprint,
            "config": self.saved_config(),
            "card": self.card(),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.saved_tensors().items()}
        with replace_file(folder / WEIGHTS_FILE) as file:
            file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        with replace_file(folder / CONFIG_FILE) as file:
            file.write(json.dumps(header, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        return folder

    @classmethod
    def from_pretrained(cls: type[S], name_or_folder: Path | str, device: str = "cpu") -> S:
        """Read a tokenizer that `save_pretrained` wrote, from a folder or from the Hugging Face hub.

        Raises:
            AssetError: there is no such folder, or its files are damaged.
            ConfigError: it holds a tokenizer of another kind.
            FingerprintError: the encoder or codebook found is not the one that was saved.
        """
        tokenizer = load_tokenizer(name_or_folder, device)
        if not isinstance(tokenizer, cls):
            raise ConfigError(
                f"{name_or_folder} holds a {type(tokenizer).__name__}, not a {cls.__name__}. "
                "Read it with load_tokenizer, which takes any kind."
            )
        return tokenizer

    def push_to_hub(self, repository: str, private: bool = False, message: str = "Upload tokenizer") -> str:
        """Upload the tokenizer, with a README made from its card, to the Hugging Face hub; returns the address.

        Args:
            repository: "owner/name"; made if it does not exist.
            private: Whether a new repository is private.
            message: Of the commit.
        """
        import huggingface_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / "README.md").write_text(self._readme(repository), encoding="utf-8")
            huggingface_hub.create_repo(repository, private=private, exist_ok=True)
            commit = huggingface_hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        return str(commit)

    def _readme(self, repository: str) -> str:
        values = {key: value for key, value in self.card().items() if not isinstance(value, (dict, list))}
        values |= {f"stream {one.name}": str(one) for one in self.streams}
        rows = "\n".join(f"| {key} | {value} |" for key, value in values.items())
        return (
            "---\nlibrary_name: vocable\ntags: [speech, tokenizer]\n---\n\n"
            f"# {repository}\n\nA speech tokenizer for [Vocable](https://pypi.org/project/vocable/).\n\n"
            f"| | |\n| --- | --- |\n{rows}\n\n"
            f'```python\nfrom vocable.tokens import load_tokenizer\n\ntokenizer = load_tokenizer("{repository}")\n```\n'
        )


class _StreamOfTokenizer(SpeechTokenizer):
    """One of several streams, as a tokenizer; saving it saves the whole."""

    def __init__(self, whole: SpeechTokenizer, stream: Stream) -> None:
        self._whole, self._stream = whole, stream
        self.tokenizer_type = whole.tokenizer_type  # type: ignore[misc]  # that of the folder
        self.needs_text, self.needs_words, self.batchings = whole.needs_text, whole.needs_words, whole.batchings
        self._synthesizer = whole.synthesizer_of(stream.name)

    @property
    def name(self) -> str:
        return self._whole.name

    @property
    def sample_rate(self) -> int:
        return self._whole.sample_rate

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (self._stream,)

    @property
    def whole(self) -> SpeechTokenizer:
        return self._whole

    @property
    def fingerprint(self) -> str:
        return stream_fingerprint(self._whole.fingerprint, self._stream.name)

    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        return [tokens.stream(self._stream.name) for tokens in self._whole.encode_clips(clips, batching)]

    def encode_stream(
        self,
        blocks: Iterable[Float[Tensor, " _samples"]],
        text: str | None = None,
        words: tuple[Word, ...] | None = None,
    ) -> SpeechTokens:
        return self._whole.encode_stream(blocks, text, words).stream(self._stream.name)

    def card(self) -> dict[str, Any]:
        return card_of_stream(self._whole.card(), self._stream.name)

    def saved_config(self) -> dict[str, Any]:
        return self._whole.saved_config()

    def saved_tensors(self) -> dict[str, Tensor]:
        return self._whole.saved_tensors()

    def save_pretrained(self, folder: Path | str) -> Path:
        return self._whole.save_pretrained(folder)

    @classmethod
    def from_saved(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str, source: str
    ) -> "SpeechTokenizer":
        raise NotImplementedError("The whole tokenizer is saved and loaded; then take its stream.")


_TYPES: dict[str, type[SpeechTokenizer]] = {}
T = TypeVar("T", bound=type[SpeechTokenizer])


def register_tokenizer(name: str) -> Callable[[T], T]:
    """Enter a class under `name`, which its config.json files then carry as `tokenizer_type`."""

    def enter(kind: T) -> T:
        kind.tokenizer_type = name
        _TYPES[name] = kind
        return kind

    return enter


def load_tokenizer(name_or_folder: Path | str, device: str = "cpu") -> SpeechTokenizer:
    """Read a tokenizer of any kind; its config.json says which. See `SpeechTokenizer.from_pretrained` for errors."""
    folder = resolve_folder(name_or_folder)
    header = _read_header(folder)
    kind = _tokenizer_class(header["tokenizer_type"])
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE, device="cpu")
    except (OSError, safetensors.SafetensorError) as error:
        raise AssetError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}). Copy or download it again.") from error
    tokenizer = kind.from_saved(header["config"], tensors, device, str(name_or_folder))
    if tokenizer.fingerprint != header["fingerprint"]:
        raise FingerprintError(
            f"{name_or_folder} was saved with fingerprint {header['fingerprint']}, but what is loaded from it now has "
            f"fingerprint {tokenizer.fingerprint}: {WEIGHTS_FILE} or {CONFIG_FILE} was changed. Copy the folder again."
        )
    return tokenizer


def read_card(name_or_folder: Path | str) -> dict[str, Any]:
    """Return the card of a saved tokenizer without loading any weights."""
    return _read_header(resolve_folder(name_or_folder))["card"]


def _tokenizer_class(name: str) -> type[SpeechTokenizer]:
    if name not in _TYPES:
        for entry in entry_points(group=ENTRY_POINTS):
            if entry.name == name:
                _TYPES[name] = entry.load()
    return look_up("tokenizer type", name, _TYPES)


def resolve_folder(name_or_folder: Path | str) -> Path:
    """Return the folder itself, or that of an asset or a model on the Hugging Face hub; errors are those of assets."""
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    from vocable.assets import resolve

    return Path(resolve(str(name_or_folder)))


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AssetError(f"{folder}: there is no {CONFIG_FILE}; this is not a tokenizer folder.") from error
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: not readable as JSON: {error}") from error
    missing = {"tokenizer_type", "fingerprint", "config", "card"} - set(header if isinstance(header, dict) else ())
    if missing:
        raise AssetError(f"{path}: lacks {', '.join(sorted(missing))}; it was not written by a Vocable tokenizer.")
    return header

"""What every speech tokenizer is: its physics, `encode` and `decode`, a fingerprint, and a folder it is saved in.

    waveforms  --encode-->  SpeechTokens  --decode (with a vocoder)-->  waveforms

A folder holds `config.json` and `model.safetensors`, never a pickle. `load_tokenizer` reads any of them: the classes
enter themselves with `@register_tokenizer("name")`, or through the entry point group `vocable.tokenizers`.
"""

import json
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from vocable import __version__
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.files import replace_file
from vocable.registry import look_up
from vocable.tokens.fingerprint import check_fingerprint
from vocable.types import SpeechTokens

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ENTRY_POINTS = "vocable.tokenizers"

S = TypeVar("S", bound="SpeechTokenizer")


@runtime_checkable
class Vocoder(Protocol):
    """What `SpeechTokenizer.decode` needs; an attribute `tokenizer_fingerprint`, if there is one, is checked."""

    @property
    def sample_rate(self) -> int:
        """Of the waveforms it makes, Hz."""
        ...

    def synthesize(self, tokens: list[SpeechTokens], voice: str | None = None) -> list[Tensor]:
        """Return one waveform, (samples,), per item."""
        ...


class SpeechTokenizer(ABC):
    """Turns waveforms into discrete tokens; with a vocoder attached (`tokenizer.vocoder = ...`), back into speech.

    `encode` treats every waveform by itself: `encode([a, b])` equals `[encode([a])[0], encode([b])[0]]` bit for bit.
    """

    tokenizer_type: ClassVar[str]
    """The name under which the class is registered."""
    _vocoder: Vocoder | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it; not part of the fingerprint."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Samples per second of the waveforms that `encode` reads, Hz."""

    @property
    @abstractmethod
    def frame_rate(self) -> float | None:
        """Frames per second before run collapsing, Hz; None when tokens follow words."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Parallel codes per position."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Entries per codebook."""

    @property
    def bits_per_second(self) -> float | None:
        """frame_rate * num_codebooks * log2(codebook_size): the rate without run collapsing or entropy coding."""
        return None if self.frame_rate is None else self.frame_rate * self.num_codebooks * math.log2(self.codebook_size)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name of exactly these weights and settings: whatever is derived from the tokens carries it."""

    @abstractmethod
    def encode(self, waveforms: Sequence[Float[Tensor, " _samples"]], batching: str = "exact") -> list[SpeechTokens]:
        """Return the tokens of mono waveforms at `sample_rate`, each of any length; tokens lie on the CPU.

        Args:
            waveforms: Each by itself.
            batching: `exact` keeps the promise above. Some tokenizers know faster ways that only keep it nearly.

        Raises:
            AudioFormatError: a waveform is empty, not one-dimensional, or holds NaN.
        """

    def encode_stream(self, blocks: Iterable[Float[Tensor, " _samples"]]) -> SpeechTokens:
        """Return the tokens of one recording that arrives in blocks, as `encode` would of the whole.

        This one joins the blocks; tokenizers that can work in little memory override it.
        """
        return self.encode([torch.cat(list(blocks))])[0]

    def card(self) -> dict[str, Any]:
        """Return what a reader of the tokens must know, as JSON values; stored with shards and language models."""
        return {
            "name": self.name,
            "tokenizer_type": self.tokenizer_type,
            "fingerprint": self.fingerprint,
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "num_codebooks": self.num_codebooks,
            "codebook_size": self.codebook_size,
            "bits_per_second": self.bits_per_second,
            "vocable_version": __version__,
        }

    @property
    def vocoder(self) -> Vocoder | None:
        """What turns tokens back into speech."""
        return self._vocoder

    @vocoder.setter
    def vocoder(self, vocoder: Vocoder | None) -> None:
        made_for = getattr(vocoder, "tokenizer_fingerprint", None)
        if made_for is not None:
            check_fingerprint(made_for, self.fingerprint, "The vocoder", f"the tokenizer {self.name!r}")
        self._vocoder = vocoder

    def decode(self, tokens: Sequence[SpeechTokens], voice: str | None = None) -> list[Tensor]:
        """Return one waveform, (samples,), at the vocoder's sample rate, per item.

        Raises:
            ConfigError: no vocoder is attached.
        """
        if self.vocoder is None:
            raise ConfigError(
                f"The tokenizer {self.name!r} (fingerprint {self.fingerprint}) has no vocoder and cannot make sound. "
                "Attach one that was trained on its tokens: tokenizer.vocoder = UnitVocoder.from_pretrained(FOLDER)"
            )
        return self.vocoder.synthesize(list(tokens), voice=voice)

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
        rows = "\n".join(f"| {key} | {value} |" for key, value in self.card().items() if not isinstance(value, dict))
        return (
            "---\nlibrary_name: vocable\ntags: [speech, tokenizer]\n---\n\n"
            f"# {repository}\n\nA speech tokenizer for [Vocable](https://pypi.org/project/vocable/).\n\n"
            f"| | |\n| --- | --- |\n{rows}\n\n"
            f'```python\nfrom vocable.tokens import load_tokenizer\n\ntokenizer = load_tokenizer("{repository}")\n```\n'
        )


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
    folder = _resolve(name_or_folder)
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
    return _read_header(_resolve(name_or_folder))["card"]


def _tokenizer_class(name: str) -> type[SpeechTokenizer]:
    if name not in _TYPES:
        for entry in entry_points(group=ENTRY_POINTS):
            if entry.name == name:
                _TYPES[name] = entry.load()
    return look_up("tokenizer type", name, _TYPES)


def _resolve(name_or_folder: Path | str) -> Path:
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

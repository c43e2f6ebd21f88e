"""A language model that `vocable train` wrote: where it lies, which tokenizer is its own, how results name it."""

from pathlib import Path
from typing import Any

from vocable.assets.weights import weights_record
from vocable.errors import ConfigError
from vocable.lm.checkpoint import CARD_NAME, LMCard, LoadedLM
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.streams import fingerprints_of_card
from vocable.tokens.tokenizer import CONFIG_FILE, SpeechTokenizer, load_tokenizer, read_card


def find_lm(run: Path) -> Path:
    """Return the folder of a language model: `run` itself, or the best or last one of a training run, or of its `lm/`.

    Raises:
        ConfigError: none of them holds a language model of Vocable.
    """
    for folder in (run, *(parent / name for parent in (run, run / "lm") for name in ("best", "last"))):
        if (folder / CARD_NAME).is_file():
            return folder
    raise ConfigError(
        f"{run}: no language model is here (no {CARD_NAME} in it, nor in best/, last/, or lm/ with these)."
    )


def find_tokenizer(lm: Path, fingerprint: str) -> Path:
    """Return the tokenizer folder with this fingerprint, or a stream with it, among the parents of a model.

    Raises:
        ConfigError: there is none.
    """
    for parent in list(lm.resolve().parents)[:4]:
        folder = parent / "tokenizer"
        if (folder / CONFIG_FILE).is_file() and fingerprint in fingerprints_of_card(read_card(folder)):
            return folder
    raise ConfigError(
        f"{lm} was trained on tokens of the tokenizer {fingerprint}, which is not beside it. "
        "Name its folder: --tokenizer"
    )


def load_tokenizer_of(lm: Path, card: LMCard, tokenizer: Path | None, device: str) -> SpeechTokenizer:
    """Load the tokenizer of a language model: the one named, or the one beside the model.

    Args:
        lm: folder of the model, as `find_lm` returns it.
        card: its card.
        tokenizer: folder of the tokenizer; None looks beside the model.
        device: where it encodes.

    Raises:
        ConfigError: none is named, and none is beside the model.
        FingerprintError: it is not the one that the model was trained with.
    """
    place = tokenizer or find_tokenizer(lm, card.tokenizer_fingerprint)
    found = load_tokenizer(place, device=device).matching(card.tokenizer_fingerprint)
    owner = f"The language model {lm}"
    check_fingerprint(card.tokenizer_fingerprint, found.fingerprint, owner, f"the tokenizer {place}")
    return found


def lm_record(folder: Path, lm: LoadedLM) -> dict[str, Any]:
    """Name the weights of a language model for a result: folder, hash, and the type that they were computed in."""
    return {**weights_record(str(folder), folder), "dtype": str(lm.model.dtype).removeprefix("torch.")}


def default_cache() -> Path:
    """Return the folder where tokens and transcripts are kept for the next model: that of the assets."""
    from vocable.assets.cache import cache_folder

    return cache_folder()

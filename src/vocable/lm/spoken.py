"""Open the spoken language model in a folder: one object, whatever it reads and however its rows look.

    load_lm(folder) -> rows(documents) -> score, states          segments in, numbers out
                    -> continue_(prompts)                        segments in, segments out, ready for a synthesizer

The kind of vocabulary in the folder's card says which class it is: units alone (TWIST), units and text (SUTLM), or text
with the codes of its words (TASLM). What each offers stands in model.py; nothing outside this folder asks which one it
has.
"""

from pathlib import Path
from typing import Any

from vocable.errors import ConfigError
from vocable.files import restore_folder
from vocable.lm.checkpoint import CARD_NAME, LMCard, LoadedLM, read_card
from vocable.lm.joint_lm import JointLM
from vocable.lm.model import LanguageModel, Reply, SpokenLM
from vocable.lm.unit_lm import UnitLM
from vocable.lm.word_lm import WordLM
from vocable.registry import look_up
from vocable.sequences.joint_rows import Segment
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.tokenizer import SpeechTokenizer

__all__ = ["SPOKEN_LMS", "LanguageModel", "Reply", "Segment", "SpokenLM", "find_lm", "load_lm", "open_lm"]

SPOKEN_LMS: dict[str, type[SpokenLM]] = {"units": UnitLM, "joint": JointLM, "words": WordLM}
"""By the kind of vocabulary in a model's card."""


def load_lm(
    folder: Path | str,
    *,
    tokenizer: SpeechTokenizer | Path | None = None,
    dtype: str | None = None,
    device: str = "cpu",
) -> SpokenLM:
    """Open a language model that Vocable trained.

    Args:
        folder: the model, or the run that it was trained in.
        tokenizer: the speech tokenizer whose tokens it will read, or its folder; None: the one beside the model,
            opened when it is first needed.
        dtype: type of the weights, e.g. 'bfloat16'; None keeps the saved one.
        device: where it computes.

    Raises:
        ConfigError: no language model is there.
        AssetError: the folder is damaged.
        FingerprintError: the tokenizer is not the one that the model was trained with.
    """
    found = find_lm(Path(folder))
    restore_folder(found)
    card = read_card(found)
    if isinstance(tokenizer, SpeechTokenizer):
        tokenizer = tokenizer.matching(card.tokenizer_fingerprint)
        expected, owner = card.tokenizer_fingerprint, f"the language model {found}"
        check_fingerprint(expected, tokenizer.fingerprint, owner, "the tokenizer")
    loaded = _class_of(card).read(found, card, dtype, device)
    return open_lm(loaded, found, tokenizer, device, str(folder))


def open_lm(loaded: LoadedLM, *rest: Any, **named: Any) -> SpokenLM:
    """Make the object of a model in memory, by its card; further arguments as of `SpokenLM`.

    Raises:
        UnknownNameError: no class reads this kind of vocabulary.
    """
    return _class_of(loaded.card)(loaded, *rest, **named)


def _class_of(card: LMCard) -> type[SpokenLM]:
    return look_up("kind of language model", card.vocabulary.kind, SPOKEN_LMS)


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

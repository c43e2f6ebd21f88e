"""What a run of PELM makes, kept on disk step by step under what it was made from, so that nothing is made twice.

    <folder>/kept/continuations.jsonl    model, rows, prompt, cell, sampling, seed  ->  text, or units
                  transcripts.jsonl      units, the way from units to text          ->  text
                  measures.jsonl         prompt, text, the external model           ->  one row of `measure`

A run that was stopped goes on where it was; one with another external model generates and transcribes nothing again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vocable.assets.weights import weights_key
from vocable.evaluation.half_generation import Made, continue_halves
from vocable.evaluation.halves import Cell, CutUtterance, HalfModel
from vocable.evaluation.keyed_store import KeyedStore, tokens_as_json, tokens_from_json
from vocable.evaluation.metrics.continuations import TEXT_CONVENTIONS
from vocable.evaluation.pelm_summary import Empty, measure
from vocable.evaluation.units_to_text import UnitsToText
from vocable.lm.generation import GenerationConfig
from vocable.lm.text_lm import TextLM
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
from vocable.types import SpeechTokens

BLOCK_SPOKEN = 8
"""Units transcribed before they are kept."""
BLOCK_TEXTS = 32
"""Texts measured before they are kept."""

Advance = Callable[[int], None]
"""Called with what was done since the last call, what was kept from an earlier run included."""


class KeptContinuations:
    """A model's continuations, made where they are not on disk."""

    def __init__(
        self, folder: Path | None, model: HalfModel, config: GenerationConfig, max_text_tokens: int, seed: int
    ) -> None:
        """Read what is there, and name the model by its weights.

        Raises:
            OutputError: the file cannot be read.
        """
        self.model, self.config, self.max_text_tokens, self.seed = model, config, max_text_tokens, seed
        self.store = _store(folder, "continuations.jsonl")
        self.num_made = 0
        self._settings = _generation_settings(model, config, max_text_tokens, seed)

    def __call__(self, chosen: Sequence[CutUtterance], cell: Cell, on_progress: Advance) -> list[Made]:
        """Continue the prompt half of every utterance; see `continue_halves`."""
        keys = {one.id: self._key(one, cell) for one in chosen}
        missing = [one for one in chosen if keys[one.id] not in self.store]
        on_progress(len(chosen) - len(missing))

        def keep(made: Mapping[str, Made]) -> None:
            for name, one in made.items():
                self.store.put(keys[name], _made_as_json(one))
            self.num_made += len(made)
            on_progress(len(made))

        limits = {"max_text_tokens": self.max_text_tokens, "seed": self.seed}
        continue_halves(self.model, missing, cell, self.config, **limits, on_made=keep)
        return [_made_from_json(self.store[keys[one.id]]) for one in chosen]

    def _key(self, one: CutUtterance, cell: Cell) -> str:
        prompt = self.model.prompt(one.prompt, cell).tolist()
        return fingerprint({**self._settings, "prompt": prompt, "cell": cell, "id": one.id})


class KeptTranscripts:
    """What units say, written down where it is not on disk."""

    def __init__(self, folder: Path | None, units_to_text: UnitsToText, tokenizer: str | None) -> None:
        """Read what is there; `tokenizer` is the fingerprint of the one whose units they are.

        Raises:
            OutputError: the file cannot be read.
        """
        self.units_to_text = units_to_text
        self.store = _store(folder, "transcripts.jsonl")
        self.num_made = 0
        self._settings = {
            "tokenizer": tokenizer,
            "weights": weights_key(units_to_text.weights),
            "conventions": dict(units_to_text.conventions),
        }

    def __call__(self, tokens: Sequence[SpeechTokens], on_progress: Advance) -> list[str]:
        """Return one text each; see `UnitsToText`."""
        keys = [fingerprint({**self._settings, "units": tokens_as_json(one)}) for one in tokens]
        missing = _first_places(keys, self.store)
        on_progress(len(tokens) - len(missing))
        for start in range(0, len(missing), BLOCK_SPOKEN):
            block = missing[start : start + BLOCK_SPOKEN]
            for place, text in zip(block, self.units_to_text([tokens[place] for place in block]), strict=True):
                self.store.put(keys[place], text)
            self.num_made += len(block)
            on_progress(len(block))
        return [self.store[key] for key in keys]


class KeptMeasures:
    """Measures of texts behind their prompts, taken where they are not on disk."""

    def __init__(self, folder: Path | None, text_lm: TextLM, empty: Empty) -> None:
        """Read what is there.

        Raises:
            OutputError: the file cannot be read.
        """
        self.text_lm = text_lm
        self.empty: Empty = empty
        self.store = _store(folder, "measures.jsonl")
        self.num_made = 0
        self._settings = {
            "weights": weights_key(text_lm.weights),
            "conventions": {**text_lm.conventions, **TEXT_CONVENTIONS},
            "empty": empty,
        }

    def __call__(self, prompts: Sequence[str], texts: Sequence[str], on_progress: Advance) -> list[dict[str, Any]]:
        """Return one row each; see `measure`."""
        pairs = list(zip(prompts, texts, strict=True))
        keys = [fingerprint({**self._settings, "prompt": prompt, "text": text}) for prompt, text in pairs]
        missing = _first_places(keys, self.store)
        on_progress(len(pairs) - len(missing))
        for start in range(0, len(missing), BLOCK_TEXTS):
            block = missing[start : start + BLOCK_TEXTS]
            rows = measure([prompts[i] for i in block], [texts[i] for i in block], self.text_lm, self.empty)
            for place, row in zip(block, rows, strict=True):
                self.store.put(keys[place], row)
            self.num_made += len(block)
            on_progress(len(block))
        return [self.store[key] for key in keys]


def _store(folder: Path | None, name: str) -> KeyedStore:
    return KeyedStore(None if folder is None else Path(folder) / "kept" / name)


def count_made(*kept: KeptContinuations | KeptTranscripts | KeptMeasures | None) -> dict[str, int]:
    """Say what was made in this run, rather than read from disk."""
    names = {KeptContinuations: "continuations generated", KeptTranscripts: "units transcribed"}
    counts = Counter[str]()
    for one in kept:
        if one is not None:
            counts[names.get(type(one), "texts measured")] += one.num_made
    return dict(counts)


def _generation_settings(model: HalfModel, config: GenerationConfig, max_text_tokens: int, seed: int) -> dict[str, Any]:
    """What decides a continuation beside its prompt. The name of a folder does not: a model may move."""
    assert model.lm is not None
    sampling = asdict(config)
    for not_of_the_units in ("batch_size", "cache", "seed"):
        del sampling[not_of_the_units]
    card = getattr(model.lm, "card", None)
    return {
        "lm": tensor_sha256(model.lm.model.state_dict()),
        "rows": model.description(),
        "unit_seconds": None if card is None else card.unit_seconds,
        "silence_units": None if card is None else card.silence_units,
        "fingerprints": dict(model.fingerprints),
        "sampling": sampling,
        "max_text_tokens": max_text_tokens,
        "seed": seed,
    }


def _first_places(keys: Sequence[str], store: KeyedStore) -> list[int]:
    """Where each key that is not on disk comes first: equal ones are made once."""
    first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in store}
    return sorted(first.values())


def _made_as_json(made: Made) -> dict[str, Any]:
    return {**made._asdict(), "tokens": None if made.tokens is None else tokens_as_json(made.tokens)}


def _made_from_json(value: Mapping[str, Any]) -> Made:
    tokens = value["tokens"]
    return Made(**{**value, "tokens": None if tokens is None else tokens_from_json(tokens)})

"""Do units follow phones? PNMI and purities of a tokenizer on speech whose phones are known.

    manifest with phones, tokens  ->  frames labelled with phone and unit  ->  joint counts  ->  scores with intervals

Labels are sampled at frame centres (`phone_labels`), statistics are those of `metrics/phones`, intervals come from
drawing utterances (or speakers) again and counting again (`recount`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.metrics.phones import PhoneUnitStatistics, phone_unit_statistics
from vocable.evaluation.phone_labels import frame_labels, utterance_phones
from vocable.evaluation.recount import Counts, Described, count_scores, gather_counts
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.token_sources import TokenSource, frame_codes
from vocable.types import Phone, Utterance

MIN_FRAMES_PER_CELL = 10
"""Below this many frames per cell of the table, the result warns that PNMI is inflated."""

SCORES = {
    "pnmi": Described("higher", "I(phone; unit) / H(phone) over frames"),
    "phone_purity": Described("higher", "frames right if each unit is called by its commonest phone"),
    "cluster_purity": Described("higher", "frames right if each phone is called by its commonest unit"),
    "unit_entropy_bits": Described(None, "entropy of the unit over labelled frames"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneUnitsConfig:
    """What is counted."""

    ignore: tuple[str, ...] = ()
    """Labels whose frames are left out, e.g. silence; by default every label counts, as in the source."""
    codebook: int = 0
    """Which codebook, where there are several."""
    num_resamples: int = 500
    """Of the bootstrap."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.codebook < 0 or self.num_resamples < 1:
            raise ConfigError(
                f"codebook is {self.codebook} (0 or more), num_resamples {self.num_resamples} (1 or more)."
            )


@dataclass(slots=True)
class _Labelled:
    """The labelled frames of one utterance."""

    utterance: Utterance
    phones: np.ndarray
    units: np.ndarray
    num_unlabelled: int
    num_ignored: int


def evaluate_phone_units(
    source: TokenSource,
    labels: Mapping[str, Sequence[Phone]] | None = None,
    config: PhoneUnitsConfig | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Count phones against units, and score the table.

    Args:
        source: utterances and their tokens.
        labels: phones by utterance id; None reads them from each manifest line (`phones`).
        config: see `PhoneUnitsConfig`.
        on_progress: called with 1 after each utterance.

    Raises:
        ConfigError: the codebook does not exist, or the tokens have no frame rate.
        ManifestError: no frame has a label.
    """
    config = config or PhoneUnitsConfig()
    started = time.perf_counter()
    excluded: Counter[str] = Counter()
    names: dict[str, int] = {}
    labelled = list(_label(source, labels, config, names, excluded, on_progress))
    excluded += source.excluded
    labelled = [one for one in labelled if one.phones.size]
    if not labelled:
        raise ManifestError(
            f"No frame of {len(source.utterances)} utterances has a phone ({_reasons(excluded)}). A manifest line has "
            'them as "phones": [{"phone": ..., "start": ..., "end": ...}]; or pass a .ctm or .tsv file.'
        )
    codebook_size = int(source.card["codebook_size"])
    counts = gather_counts([one.phones * codebook_size + one.units for one in labelled], len(names) * codebook_size)
    speakers = [one.utterance.speaker for one in labelled]
    scores, biases = count_scores(
        counts, lambda table: _statistic(table, codebook_size), SCORES, speakers, config.num_resamples, config.seed
    )
    found = phone_unit_statistics(counts.total().reshape(-1, codebook_size))
    return EvaluationResult(
        benchmark="phones",
        scores=scores,
        conventions={
            "labels": "manifest" if labels is None else "file",
            "sampled_at": "frame centres, (i + 0.5) / frame_rate",
            "frame_rate": source.frame_rate,
            "codebook": config.codebook,
            "codebook_size": codebook_size,
            "ignored_labels": list(config.ignore),
            "interval": "bootstrap, recounted; centred on the value",
            "num_resamples": config.num_resamples,
        },
        fingerprints={"tokenizer": source.card["fingerprint"]},
        weights={},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(excluded),
        notes=_notes(counts),
        measurements=_measurements(found, labelled, names, counts, biases),
        items=[_item(one) for one in labelled],
    )


def _label(
    source: TokenSource,
    labels: Mapping[str, Sequence[Phone]] | None,
    config: PhoneUnitsConfig,
    names: dict[str, int],
    excluded: Counter[str],
    on_progress: Callable[[int], None] | None,
) -> Iterable[_Labelled]:
    """Frames of each utterance that have a phone; `names` grows by the phones met."""
    for utterance, tokens in source:
        if on_progress is not None:
            on_progress(1)
        phones = utterance_phones(utterance) if labels is None else labels.get(utterance.id)
        if phones is None:
            excluded["utterance without phones"] += 1
            continue
        codes = frame_codes(tokens)
        if config.codebook >= codes.shape[0]:
            raise ConfigError(f"codebook is {config.codebook}, but these tokens have {codes.shape[0]}, from 0 on.")
        found = frame_labels(phones, codes.shape[1], source.frame_rate)
        kept = [i for i, label in enumerate(found) if label is not None and label not in config.ignore]
        yield _Labelled(
            utterance=utterance,
            phones=np.array([names.setdefault(str(found[i]), len(names)) for i in kept], dtype=np.int64),
            units=codes[config.codebook].numpy()[kept].astype(np.int64),
            num_unlabelled=found.count(None),
            num_ignored=sum(label in config.ignore for label in found),
        )


def _statistic(table: np.ndarray, codebook_size: int) -> dict[str, float]:
    return phone_unit_statistics(table.reshape(-1, codebook_size))._asdict()


def _item(one: _Labelled) -> dict[str, Any]:
    """A row a utterance; the frames themselves are kept, so that other tables can be made of them."""
    return {
        "id": one.utterance.id,
        "speaker": one.utterance.speaker,
        "num_frames": len(one.phones),
        "num_unlabelled": one.num_unlabelled,
        "num_ignored": one.num_ignored,
        "phones": one.phones.tolist(),
        "units": one.units.tolist(),
    }


def _measurements(
    found: PhoneUnitStatistics,
    labelled: Sequence[_Labelled],
    names: Mapping[str, int],
    counts: Counts,
    biases: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "num_frames": int(counts.counts.sum()),
        "num_unlabelled_frames": sum(one.num_unlabelled for one in labelled),
        "num_ignored_frames": sum(one.num_ignored for one in labelled),
        "num_phones": len(names),
        "num_units_seen": len({int(unit) for one in labelled for unit in np.unique(one.units)}),
        "mutual_information_bits": found.mutual_information_bits,
        "phone_entropy_bits": found.phone_entropy_bits,
        "phone_names": list(names),
        "bootstrap_bias": dict(biases),
    }


def _notes(counts: Counts) -> list[str]:
    frames = counts.counts.sum()
    notes = ["PNMI and phone purity grow with the codebook: compare tokenizers at equal codebook size."]
    if frames < MIN_FRAMES_PER_CELL * counts.num_cells:
        notes.append(
            f"{frames:.0f} frames fill a table of {counts.num_cells} cells: PNMI and phone purity come out too high. "
            f"From {MIN_FRAMES_PER_CELL * counts.num_cells} frames on this matters little."
        )
    return notes


def _reasons(excluded: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in excluded.items()) or "no phone covers a frame's centre"

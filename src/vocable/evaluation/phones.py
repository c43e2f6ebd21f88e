"""Do units follow phones? PNMI and purities of a tokenizer on speech whose phones are known.

    manifest with phones, tokens  ->  frames labelled with phone and unit  ->  joint counts  ->  scores with intervals

Labels are sampled at frame centres (`phone_labels`), intervals come from drawing utterances (or speakers) again and
counting again (`recount`). Source of the statistics: HuBERT (Hsu et al., 2021, arXiv:2106.07447), section IV, "Metrics
of target quality". All three grow with the number of units when there are few frames, and phone purity and PNMI with
the number of units in any case: compare them at equal codebook size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.phone_labels import Fold, PhoneLabels, read_phones
from vocable.evaluation.recount import Described, count_scores, gather_counts
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, Item, Items, SampledConfig, TokensConfig
from vocable.tokens.runs import frames_of

MIN_FRAMES_PER_CELL = 10
"""Below this many frames per cell of the table, the result warns that PNMI is inflated."""

SCORES = {
    "pnmi": Described("higher", "I(phone; unit) / H(phone) over frames"),
    "phone_purity": Described("higher", "frames right if each unit is called by its commonest phone"),
    "cluster_purity": Described("higher", "frames right if each phone is called by its commonest unit"),
    "unit_entropy_bits": Described(None, "entropy of the unit over labelled frames"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhonesConfig(TokensConfig):
    """Settings of the count."""

    manifest: Path
    """The utterances (JSONL); a line may hold "phones", a list of {phone, start, end} in seconds."""
    phones: Path | None = None
    """A .ctm or .tsv file with the phones, instead of the manifest's."""
    ignore: tuple[str, ...] = ()
    """Labels whose frames are left out, such as sil and sp. By default all count, as in the source."""
    fold: Fold | None = None
    """Classes that labels are put into: timit-39 makes 39 of TIMIT's 61, closures and pauses being sil."""
    codebook: int = 0
    """Which codebook, from 0 on, where there are several."""
    num_resamples: int = 500
    """Resamples of the bootstrap."""

    def __post_init__(self) -> None:
        SampledConfig.__post_init__(self)
        if self.codebook < 0:
            raise ConfigError(f"codebook is {self.codebook}; the first one is 0.")


class Phones(Benchmark[PhonesConfig]):
    """Compare units with phones: PNMI, phone purity and cluster purity, with 95 % intervals.

    Writes phones.json and phones.items.parquet (phone and unit of every labelled frame). The phones must be known: from
    a forced aligner, or from a synthesiser that says how long each phone is ('vocable stories build' keeps them).

    vocable evaluate phones --manifest dev.jsonl --tokenizer units --phones ali.ctm --ignore sil,spn --out results
    vocable evaluate phones --manifest timit.jsonl --tokenizer units --fold timit-39 --ignore sil --out results
    """

    name, Config = "phones", PhonesConfig

    def items(self) -> Iterator[Item]:
        """Label the frames of each utterance; the frames are kept, so that other tables can be made of them."""
        config = self.config
        labels = self.run.open("labels", lambda: read_phones(config.phones) if config.phones is not None else None)
        source = self.run.tokens()
        self.labelled_by = "manifest" if labels is None else "file"
        sizes = source.stream.codebook_sizes
        self.rate, self.size = source.frame_rate, sizes[min(config.codebook, len(sizes) - 1)]
        self.names: dict[str, int] = {}
        self.frame_phones = PhoneLabels(labels, config.ignore, config.fold)
        for utterance, tokens in self.run.watch("Counting phones and units", source, len(source.utterances)):
            codes = frames_of(tokens)
            if config.codebook >= codes.shape[0]:
                raise ConfigError(f"codebook is {config.codebook}, but these tokens have {codes.shape[0]}, from 0 on.")
            found = self.frame_phones.of(utterance, codes.shape[1], self.rate)
            if found is None:
                self.run.excluded["utterance without phones"] += 1
            elif found.places:
                yield {
                    "id": utterance.id,
                    "speaker": utterance.speaker,
                    "num_frames": len(found.places),
                    "num_unlabelled": found.num_unlabelled,
                    "num_ignored": found.num_ignored,
                    "phones": [self.names.setdefault(phone, len(self.names)) for phone in found.phones],
                    "units": codes[config.codebook][found.places].tolist(),
                }

    def nothing(self, reasons: str) -> ManifestError:
        """Say what the manifest should hold."""
        return ManifestError(
            f"No frame of {len(self.run.tokens().utterances)} utterances has a phone "
            f"({reasons or 'no phone covers a frame centre'}). A manifest line has them as "
            '"phones": [{"phone": ..., "start": ..., "end": ...}]; or pass a .ctm or .tsv file.'
        )

    def scores(self, items: Items) -> dict[str, Score]:
        """Score the table of joint counts, and those of resampled utterances."""
        cells = [np.array(item["phones"]) * self.size + np.array(item["units"]) for item in items]
        counts = gather_counts(cells, len(self.names) * self.size)
        self.found = self._statistic(counts.total())
        scores, self.biases = count_scores(
            counts, self._statistic, SCORES, [item["speaker"] for item in items], **self.draws
        )
        return scores

    def _statistic(self, table: np.ndarray) -> Mapping[str, float]:
        return phone_unit_statistics(table.reshape(-1, self.size))._asdict()

    def conventions(self) -> dict[str, Any]:
        """How frames are labelled and counted."""
        return {
            "labels": self.labelled_by,
            "sampled_at": "frame centres, (i + 0.5) / frame_rate",
            "frame_rate": self.rate,
            "codebook": self.config.codebook,
            "codebook_size": self.size,
            "ignored_labels": list(self.config.ignore),
            "fold": self.config.fold,
            "interval": "bootstrap, recounted; centred on the value",
            "num_resamples": self.config.num_resamples,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """Sizes of the table, and what the scores are made of."""
        return {
            "num_frames": sum(item["num_frames"] for item in items),
            "num_unlabelled_frames": sum(item["num_unlabelled"] for item in items),
            "num_ignored_frames": sum(item["num_ignored"] for item in items),
            "num_phones": len(self.names),
            "num_units_seen": len({unit for item in items for unit in item["units"]}),
            "mutual_information_bits": self.found["mutual_information_bits"],
            "phone_entropy_bits": self.found["phone_entropy_bits"],
            "phone_names": list(self.names),
            "bootstrap_bias": self.biases,
        }

    def notes(self, items: Items) -> list[str]:
        """Warn of silence that counts, and of tables with few frames."""
        notes = [
            *self.frame_phones.notes(),
            "PNMI and phone purity grow with the codebook: compare tokenizers at equal codebook size.",
        ]
        frames, num_cells = sum(item["num_frames"] for item in items), len(self.names) * self.size
        if frames < MIN_FRAMES_PER_CELL * num_cells:
            notes.append(
                f"{frames} frames fill a table of {num_cells} cells: PNMI and phone purity come out too high. "
                f"From {MIN_FRAMES_PER_CELL * num_cells} frames on this matters little."
            )
        return notes


class PhoneUnitStatistics(NamedTuple):
    """Purities and mutual information of a table of joint counts; p is the share of frames."""

    phone_purity: float
    """sum over units of max over phones of p(phone, unit): accuracy of calling each unit by its commonest phone."""
    cluster_purity: float
    """sum over phones of max over units of p(phone, unit): the converse; falls when a phone has several units."""
    pnmi: float
    """I(phone; unit) / H(phone): share of the uncertainty about the phone that the unit removes, 0 to 1."""
    mutual_information_bits: float
    phone_entropy_bits: float
    unit_entropy_bits: float


def phone_unit_statistics(joint: np.ndarray) -> PhoneUnitStatistics:
    """Compute purities and PNMI of joint counts, (phones, units). With one phone only, PNMI is NaN: nothing is learnt.

    Raises:
        ConfigError: the table is not two-dimensional, is empty, or holds a negative or infinite count.
    """
    joint = np.asarray(joint, dtype=np.float64)
    if joint.ndim != 2 or not np.isfinite(joint).all() or (joint < 0).any() or joint.sum() == 0:
        raise ConfigError("Joint counts must be a table (phones, units) of finite counts, at least one of them not 0.")
    shares = joint / joint.sum()
    phones, units = shares.sum(1), shares.sum(0)
    phone_entropy, unit_entropy = entropy_bits(phones), entropy_bits(units)
    information = max(phone_entropy + unit_entropy - entropy_bits(shares.ravel()), 0.0)
    return PhoneUnitStatistics(
        phone_purity=float(shares.max(0).sum()),
        cluster_purity=float(shares.max(1).sum()),
        pnmi=information / phone_entropy if phone_entropy > 0 else float("nan"),
        mutual_information_bits=information,
        phone_entropy_bits=phone_entropy,
        unit_entropy_bits=unit_entropy,
    )


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of the shares of some counts, in bits; 0 log 0 is 0."""
    counts = counts[counts > 0]
    if counts.size < 2:  # exactly 0, not 0 up to rounding
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())

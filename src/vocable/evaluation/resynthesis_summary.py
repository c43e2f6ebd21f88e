"""Sum the items of a resynthesis run up: scores with intervals, conventions, notes a reader needs, weights used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vocable.evaluation.judges import JUDGE_RATE, Judges, encoder_name
from vocable.evaluation.metrics.wer import LEVELS, ErrorCounts, error_rate
from vocable.evaluation.results import Score, mean_score, ratio_score

if TYPE_CHECKING:
    from vocable.evaluation.resynthesis import ResynthesisConfig
    from vocable.evaluation.unit_metrics import UnitStatistics
    from vocable.tokens.tokenizer import SpeechTokenizer

Items = Sequence[Mapping[str, Any]]


def resynthesis_scores(items: Items, judges: Judges, config: ResynthesisConfig) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    settings = {"seed": config.seed, "num_resamples": config.num_resamples}
    with_text = [item for item in items if item["reference_source"] == "manifest"]
    without_text = [item for item in items if item["reference_source"] == "asr of the original"]
    for short, level in zip(("wer", "cer"), LEVELS):
        for name, whose in (("topline", "original"), ("resynthesis", "resynthesis")):
            meaning = f"{level}s of the text not heard in the {whose}, share"
            scores[f"{short}_{name}"] = _rate(with_text, whose, level, meaning, settings)
        scores[f"{short}_loss"] = _rate_difference(with_text, level, settings)
        if without_text:
            meaning = f"{level}s heard in the original but not in the resynthesis, share; utterances without text"
            scores[f"{short}_resynthesis_to_asr"] = _rate(without_text, "resynthesis", level, meaning, settings)
    means = {
        "mos_topline": ("mos_original", "predicted opinion score of the original, 1 to 5"),
        "mos_resynthesis": ("mos_resynthesis", "predicted opinion score of the resynthesis, 1 to 5"),
        "speaker_similarity": ("speaker_similarity", "cosine similarity of resynthesis and original voices"),
        "voice_similarity": ("voice_similarity", "cosine similarity of the resynthesis and the voice reference"),
    }
    for name, (key, meaning) in means.items():
        kept = [item for item in items if item.get(key) is not None]
        if kept:
            values, speakers = [item[key] for item in kept], [item["speaker"] for item in kept]
            scores[name] = mean_score(values, speakers, better="higher", meaning=meaning, **settings)
    return scores


def _rate(items: Items, whose: str, level: str, meaning: str, settings: dict[str, int]) -> Score:
    counts = [ErrorCounts(*(item[f"{whose}_{level}_{part}"] for part in ErrorCounts._fields)) for item in items]
    return error_rate(counts, [item["speaker"] for item in items], meaning=meaning, **settings)


def _rate_difference(items: Items, level: str, settings: dict[str, int]) -> Score:
    """Resynthesis minus topline, paired by utterance."""
    edits = ("substitutions", "deletions", "insertions")
    lost = [
        sum(item[f"resynthesis_{level}_{edit}"] - item[f"original_{level}_{edit}"] for edit in edits) for item in items
    ]
    return ratio_score(
        lost,
        [item[f"original_{level}_reference_length"] for item in items],
        [item["speaker"] for item in items],
        better="lower",
        meaning=f"error rate in {level}s, resynthesis minus topline, paired",
        **settings,
    )


def resynthesis_conventions(
    tokenizer: SpeechTokenizer, judges: Judges, config: ResynthesisConfig, relation: str
) -> dict[str, Any]:
    reference = config.voice_reference
    return {
        **judges.transcriber.conventions,
        "judge_and_tokenizer_encoder": relation,
        "tokenizer_encoder": encoder_name(tokenizer),
        "normaliser": config.normaliser,
        "error_rate": "all edits / all reference words (characters with spaces)",
        "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over utterances and over speakers",
        "durations": config.durations,
        "voice": config.voice,
        "voice_reference": reference.name if reference is not None else None,
        "mos": judges.mos.name if judges.mos else None,
        "speaker_encoder": judges.speaker.name if judges.speaker else None,
        "num_utterances": config.num_utterances,
        "judge_sample_rate": JUDGE_RATE,
    }


def resynthesis_notes(items: Items, relation: str, encoder: str | None, judges: Judges) -> list[str]:
    notes = []
    if relation == "same":
        notes.append("The recogniser is the tokenizer's own encoder: error rates of the resynthesis are too good.")
    if relation == "same family":
        notes.append(
            f"The recogniser {judges.transcriber.name} and the tokenizer's encoder {encoder} are of one family: "
            "a judge of another family would be safer."
        )
    if relation == "unknown":
        notes.append("The tokenizer does not name its encoder, so nobody can say whether the judge is independent.")
    without_text = sum(item["reference_source"] == "asr of the original" for item in items)
    if without_text:
        notes.append(f"{without_text} utterances have no text; they are judged against the judge's own transcript.")
    silent = sum(not item["transcript_resynthesis"] for item in items)
    if silent:
        notes.append(f"In {silent} resyntheses nothing was heard; every word of them counts as deleted.")
    if len(items) < 30:
        notes.append(f"Only {len(items)} utterances: intervals are rough.")
    return notes


def resynthesis_measurements(items: Items, seconds: Mapping[str, float], statistics: UnitStatistics) -> dict[str, Any]:
    audio = sum(item["seconds"] for item in items)
    speech = sum(item["resynthesis_seconds"] for item in items)
    return {
        "audio_seconds": audio,
        "resynthesis_seconds": speech,
        "compute_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "real_time_factor": {name: value / audio for name, value in seconds.items()},
        "units": dataclasses.asdict(statistics),
    }


def vocoder_fingerprint(tokenizer: SpeechTokenizer) -> dict[str, str]:
    """Hash of the synthesizer's weights, where it has any."""
    import torch

    from vocable.tokens.fingerprint import tensor_sha256

    synthesizer = tokenizer.synthesizer
    if not isinstance(synthesizer, torch.nn.Module):
        return {}
    return {"vocoder": tensor_sha256(synthesizer.state_dict())[:16]}

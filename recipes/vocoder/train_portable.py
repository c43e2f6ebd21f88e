"""Train the small vocoder that comes with Vocable: many voices, and any k-means codebook of one encoder.

    python recipes/vocoder/train_portable.py OUT MANIFEST [MANIFEST ...] [training.max_steps=20000 ...]

Frames of the encoder are computed once, several codebooks of several sizes are fitted on different parts of the speech,
and the vocoder sees units of all of them by their vectors (synthesis/codebook.py). A killed run goes on.
"""

import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.config import load_config
from vocable.errors import AudioFormatError
from vocable.features import EncoderConfig, load_encoder
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.fingerprint import encoder_fingerprint as name_encoder
from vocable.tokens.kmeans import KMeans, KMeansConfig, fit_kmeans
from vocable.training.vocoder import VocoderTrainingConfig, train_vocoder
from vocable.training.vocoder_data import voices_by_speech
from vocable.types import SpeechTokens, Utterance

ENCODER = EncoderConfig(name="openai/whisper-tiny.en", layer=2)
CODEBOOKS = ((100, 0), (100, 1), (100, 2), (50, 3), (200, 4), (500, 5))
"""(clusters, seed): each is fitted on another random half of the speech."""
KEPT_SECONDS = 100.0
"""Speakers with less speech help in training; their rows of the voice table are not kept."""


def main() -> None:
    """Do the next thing that is missing in OUT, until the vocoder is there."""
    words = sys.argv[1:]
    overrides = [word for word in words if "=" in word]
    out, *manifests = (Path(word) for word in words if "=" not in word)
    out.mkdir(parents=True, exist_ok=True)
    parts = [[u for u in read_manifest(path) if u.extra.get("split") != "test"] for path in manifests]
    utterances = [utterance for part in parts for utterance in part]
    weight = {utterance.id: 1 / seconds_of(part) ** 0.5 for part in parts for utterance in part}
    units, vectors, encoder_fingerprint = prepare(utterances, out)
    pairs = []
    first_row = [sum(len(v) for v in vectors[:j]) for j in range(len(vectors))]
    for index, utterance in enumerate(utterances):
        if utterance.id in units:
            for shift in range(2):  # each utterance by the units of two codebooks
                j = (index + 3 * shift) % len(vectors)
                codes = units[utterance.id][j].long() + first_row[j]
                pairs.append((utterance, SpeechTokens(codes=codes[None])))
    config = VocoderConfig(
        codebook_size=sum(len(v) for v in vectors),
        codebook_dim=vectors[0].shape[1],
        encoder_fingerprint=encoder_fingerprint,
        voices=voices_by_speech(pairs),
    )
    training = load_config(VocoderTrainingConfig, None, [word.removeprefix("training.") for word in overrides])
    start = UnitVocoder(config)
    start.set_codebooks(vectors, standardise=True)
    weights = [weight[utterance.id] for utterance, _ in pairs]
    vocoder = train_vocoder(pairs, config, training, out / "run", start_from=start, weights=weights)
    finish(vocoder, pairs, vectors[0], out)


def seconds_of(utterances: list[Utterance]) -> float:
    """Length of a manifest; each manifest is heard in proportion to the root of it, so that a small one counts."""
    return sum(utterance.duration for utterance in utterances)


def prepare(utterances: list[Utterance], out: Path) -> tuple[dict[str, list[torch.Tensor]], list[torch.Tensor], str]:
    """Units of every utterance in every codebook, the codebooks, and the encoder's fingerprint; kept in `out`."""
    store, encoder = out / "units.pt", load_encoder(ENCODER)
    if not store.is_file():
        started, features = time.perf_counter(), {}
        for number, utterance in enumerate(utterances):
            try:
                features[utterance.id] = encoder.encode([read_utterance(utterance, encoder.sample_rate)])[0].half()
            except AudioFormatError as error:
                print(error, file=sys.stderr)
            if number % 200 == 0:
                print(f"features: {number} of {len(utterances)}, {time.perf_counter() - started:.0f} s", flush=True)
        codebooks = [fit(list(features.values()), *settings) for settings in CODEBOOKS]
        units = {
            name: [codebook.assign(frames.float()).to(torch.int32) for codebook in codebooks]
            for name, frames in features.items()
        }
        save_file({str(j): codebook.centroids for j, codebook in enumerate(codebooks)}, out / "codebooks.safetensors")
        torch.save(units, store)
    loaded = load_file(out / "codebooks.safetensors")
    vectors = [loaded[str(j)] for j in range(len(CODEBOOKS))]
    return torch.load(store, weights_only=True), vectors, name_encoder(encoder.description())


def fit(features: list[torch.Tensor], num_clusters: int, seed: int) -> KMeans:
    """Fit one codebook on a random half of the utterances."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tolist()
    half = [features[i].float() for i in order[: len(order) // 2]]
    fitted = fit_kmeans(half, KMeansConfig(num_clusters=num_clusters, seed=seed, max_iterations=15))
    print(f"codebook of {num_clusters}: perplexity {fitted.report.perplexity:.1f}", flush=True)
    return fitted.kmeans


def finish(vocoder: UnitVocoder, pairs: list, codebook: torch.Tensor, out: Path) -> None:
    """Keep the voices with enough speech, in the order of the manifests, and one codebook; write in half precision."""
    seconds: dict[str, float] = defaultdict(float)
    for utterance, tokens in pairs:
        seconds[utterance.speaker or ""] += tokens.num_frames / 50 / 2
    kept = [name for name in seconds if name in vocoder.voices and seconds[name] >= KEPT_SECONDS]
    small = vocoder.with_voices(kept).for_codebook(codebook, "")
    small.config = replace(small.config, tokenizer_fingerprint=None)
    small.save_pretrained(out / "vocoder", dtype=torch.float16)
    print(json.dumps({"voices": kept, "folder": str(out / "vocoder")}))


if __name__ == "__main__":
    main()

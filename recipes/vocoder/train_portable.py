"""Train the vocoder that comes with Vocable: any voice, and any k-means codebook of one encoder.

    python recipes/vocoder/train_portable.py OUT TOKENIZER MANIFEST [...] [start=VOCODER] [training.max_minutes=40 ...]

The first codebook is that of TOKENIZER, the others are fitted on random halves of the speech; the vocoder sees units of
all of them by their vectors (synthesis/codebook.py). Frames of the encoder are computed once. Utterances with symbols
or phones teach content. Speech marked `valid` or `test` in the manifests is not heard. A killed run goes on. The
commands in their order, with the settings of each step: README.md.
"""

import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.config import load_config
from vocable.errors import AudioFormatError
from vocable.features.speaker import load_speaker_encoder
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.kmeans import KMeans, KMeansConfig, fit_kmeans
from vocable.tokens.tokenizer import load_tokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer
from vocable.training.phone_targets import PhoneTargets
from vocable.training.vocoder import VocoderTrainingConfig, train_vocoder
from vocable.training.vocoder_data import voices_by_speech
from vocable.types import SpeechTokens, Utterance

CODEBOOKS = ((100, 1), (200, 2), (1000, 3))
"""(clusters, seed) of the further codebooks."""
MOST_RECORDINGS = 40
"""Speakers with more recordings are heard no more often than with so many."""
KEPT_SECONDS = 100.0
"""Speakers with as much speech are known by name."""


def main() -> None:
    """Do the next thing that is missing in OUT, until the vocoder is there."""
    words = sys.argv[1:]
    settings = [word for word in words if "=" in word]
    starts = [Path(word.removeprefix("start=")) for word in settings if word.startswith("start=")]
    overrides = [word for word in settings if not word.startswith("start=")]
    out, *places = (Path(word) for word in words if "=" not in word)
    tokenizer = load_tokenizer(places[0])
    assert isinstance(tokenizer, UnitTokenizer)
    out.mkdir(parents=True, exist_ok=True)
    parts = [[u for u in read_manifest(path) if u.split in (None, "train")] for path in places[1:]]
    utterances = [utterance for part in parts for utterance in part]
    units, vectors = prepare(utterances, tokenizer, out)
    pairs, weights = [], []
    first_row = [sum(len(v) for v in vectors[:j]) for j in range(len(vectors))]
    for part in parts:
        weight = 1 / sum(utterance.duration or 0 for utterance in part) ** 0.5  # a small manifest counts, too
        counts = Counter(utterance.speaker for utterance in part if utterance.speaker)
        for index, utterance in enumerate(part):
            often = counts.get(utterance.speaker or "", 0)
            share = weight * min(1.0, MOST_RECORDINGS / often) if often else weight
            for j in {0, 1 + index % len(CODEBOOKS)} if utterance.id in units else ():
                codes = units[utterance.id][j].long() + first_row[j]
                pairs.append((utterance, SpeechTokens(codes=codes[None])))
                weights.append(share * (2 if j == 0 else 1))
    first = {utterance.speaker for utterance in parts[0]}
    names = voices_by_speech(pairs, 2 * KEPT_SECONDS)  # each utterance is there twice
    names = sorted(names, key=lambda name: name not in first)  # the default is a speaker of the first manifest
    encoder, pretrained = load_speaker_encoder(), TextToSpeech.from_pretrained()
    config = VocoderConfig(
        codebook_size=sum(len(v) for v in vectors),
        codebook_dim=vectors[0].shape[1],
        encoder_fingerprint=encoder_fingerprint(tokenizer.encoder.description()),
        frontend=FrontendConfig(num_symbols=pretrained.config.num_symbols),
        decoder=SourceFilterConfig(speaker_dim=encoder.dim),
    )
    training = load_config(VocoderTrainingConfig, None, [word.removeprefix("training.") for word in overrides])
    vocoder = train_vocoder(
        pairs,
        config,
        training,
        out / "run",
        start_from=UnitVocoder.from_pretrained(starts[0]) if starts else pretrained,
        weights=weights,
        codebooks=vectors,
        encoder=encoder,
        targets=PhoneTargets(pretrained),
        reference=pretrained.decoder,
        voices=names,
    )
    small = vocoder.for_codebook(vectors[0], "")
    small.config = replace(small.config, tokenizer_fingerprint=None)
    small.save_pretrained(out / "vocoder", dtype=torch.float16)
    print(json.dumps({"voices": small.voices, "folder": str(out / "vocoder")}))


def prepare(
    utterances: list[Utterance], tokenizer: UnitTokenizer, out: Path
) -> tuple[dict[str, list[torch.Tensor]], list[torch.Tensor]]:
    """Return units of every utterance in every codebook, and the codebooks; kept in `out`."""
    store, encoder = out / "units.pt", tokenizer.encoder
    if not store.is_file():
        started, features = time.perf_counter(), {}
        for number, utterance in enumerate(utterances):
            try:
                features[utterance.id] = encoder.encode([read_utterance(utterance, encoder.sample_rate)])[0].half()
            except AudioFormatError as error:
                print(error, file=sys.stderr)
            if number % 200 == 0:
                print(f"features: {number} of {len(utterances)}, {time.perf_counter() - started:.0f} s", flush=True)
        codebooks = [tokenizer.kmeans, *(fit(list(features.values()), *settings) for settings in CODEBOOKS)]
        units = {
            name: [codebook.assign(frames.float()).to(torch.int32) for codebook in codebooks]
            for name, frames in features.items()
        }
        save_file({str(j): codebook.centroids for j, codebook in enumerate(codebooks)}, out / "codebooks.safetensors")
        torch.save(units, store)
    loaded = load_file(out / "codebooks.safetensors")
    return torch.load(store, weights_only=True), [loaded[str(j)] for j in range(1 + len(CODEBOOKS))]


def fit(features: list[torch.Tensor], num_clusters: int, seed: int) -> KMeans:
    """Fit one codebook on a random half of the utterances."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tolist()
    half = [features[i].float() for i in order[: len(order) // 2]]
    fitted = fit_kmeans(half, KMeansConfig(num_clusters=num_clusters, seed=seed, max_iterations=15))
    print(f"codebook of {num_clusters}: perplexity {fitted.report.perplexity:.1f}", flush=True)
    return fitted.kmeans


if __name__ == "__main__":
    main()

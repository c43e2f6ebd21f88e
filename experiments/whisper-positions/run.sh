#!/usr/bin/env bash
# run.sh TRAIN.jsonl OUT: the share of variance that the place explains, and units with and without it, three seeds.
# How units are measured: last/run.sh.
set -euo pipefail
python - "$1" <<'PYTHON'
import sys

import torch

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.features import EncoderConfig, load_encoder

utterances = list(read_manifest(sys.argv[1]))[:100]
for name, layers in (("openai/whisper-tiny.en", (1, 2, 3, 4)), ("openai/whisper-base", (2, 4, 6))):
    for layer in layers:
        for positions in ("keep", "remove"):
            encoder = load_encoder(EncoderConfig(name=name, layer=layer, positions=positions))
            clips = encoder.encode([read_utterance(utterance, 16_000) for utterance in utterances])
            place = torch.cat([torch.arange(len(clip)) // 5 for clip in clips])
            deviations = torch.cat(clips) - torch.cat(clips).mean(0)
            sums = torch.zeros(int(place.max()) + 1, encoder.dim).index_add(0, place, deviations)
            share = float((sums.square().sum(1) / torch.bincount(place)).sum() / deviations.square().sum())
            print(f"{name}, layer {layer}, {positions}: {share:.2f}")
PYTHON
for seed in 0 1 2; do
    for positions in keep remove; do
        vocable tokenizer fit "$1" "$2/$positions-$seed" --encoder openai/whisper-tiny.en --layer 2 --clusters 100 \
            kmeans.seed=$seed encoder.padding=none encoder.positions=$positions
    done
done

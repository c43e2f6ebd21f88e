#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl OUT: LAST with lambda 1 and positions kept; the random start is gone. Measures: last/run.sh
set -euo pipefail
for seed in 0 1 2; do
    vocable train recipes/last/cpu.yaml --manifest "$1" --valid-manifest "$2" --out "$3/last-$seed" training.seed=$seed \
        model.loss.reconstruction_weight=1 encoder.positions=keep
    vocable tokenizer fit "$1" "$3/kmeans-$seed" --encoder openai/whisper-tiny.en --layer 2 --clusters 100 kmeans.seed=$seed \
        encoder.padding=none
done

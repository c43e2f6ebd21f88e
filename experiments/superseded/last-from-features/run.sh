#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl OUT: LAST with positions kept; the recipe of that day is at revision d9ed045. Measures: last/run.sh
set -euo pipefail
for seed in 0 1 2; do
    vocable train recipes/last/cpu.yaml --manifest "$1" --valid-manifest "$2" --out "$3/last-$seed" training.seed=$seed encoder.positions=keep
done

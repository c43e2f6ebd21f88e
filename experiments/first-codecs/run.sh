#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl TEST.jsonl OUT: train the codec, and judge all levels and the semantic code alone
set -euo pipefail
vocable train recipes/lm-spt/cpu-12.5hz.yaml --manifest "$1" --valid-manifest "$2" --out "$4" training.seed=0
vocable evaluate reconstruction --manifest "$3" --tokenizer "$4/tokenizer" --out "$4/reconstruction" --num-utterances 10

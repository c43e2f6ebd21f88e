#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl OUT: text only, then words of the first and last layer of Whisper's decoder
set -euo pipefail
vocable train recipes/taste/cpu.yaml --manifest "$1" --valid-manifest "$2" --out "$3" --stage tokenizer \
  tokenizer.aggregator.layers=[0,5] tokenizer.aggregator.trained=all \
  training.text_only.max_minutes=8 training.continuous.max_minutes=14 training.quantized.max_minutes=9

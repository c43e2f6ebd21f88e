#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl OUT: lambda 1 and 0; the start and the commitment of that day are gone
set -euo pipefail
vocable train recipes/last/cpu.yaml --manifest "$1" --valid-manifest "$2" --out "$3/lambda-1" training.max_steps=120 \
    training.learning_rate=3e-4 model.loss.reconstruction_weight=1
vocable train recipes/last/cpu.yaml --manifest "$1" --valid-manifest "$2" --out "$3/lambda-0" training.max_steps=50 \
    training.learning_rate=3e-4 training.validate_every=25 model.loss.reconstruction_weight=0 model.loss.nll_start_step=20

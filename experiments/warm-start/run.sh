#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl TEST.jsonl OUT: units, warm and cold models, and their continuations, three seeds
set -euo pipefail
train=$1 valid=$2 test=$3 out=$4
for seed in 0 1 2; do
    run=$out/seed-$seed
    vocable tokenizer fit "$train" "$run/units" --layer 2 --clusters 100 kmeans.seed=$seed
    vocable tokenize "$train" "$run/tokens" --tokenizer "$run/units"
    vocable tokenize "$valid" "$run/valid-tokens" --tokenizer "$run/units"
    for start in "warm true 3e-4" "cold false 1e-3"; do
        read -r name warm rate <<< "$start"
        vocable train recipes/twist/cpu.yaml --tokens "$run/tokens" --valid-tokens "$run/valid-tokens" --tokenizer "$run/units" \
            --out "$run/$name" lm.warm=$warm lm.seed=$seed training.seed=$seed training.learning_rate=$rate \
            training.max_steps=60 training.validate_every=10
    done
    vocable evaluate resynthesis --manifest "$test" --tokenizer "$run/units" --out "$run/resynthesis" --num-utterances 20
done

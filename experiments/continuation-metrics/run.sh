#!/usr/bin/env bash
# run.sh MODELS TEST.jsonl OUT: continuations and their anchors, for the models of warm-start (MODELS is its OUT)
set -euo pipefail
models=$1 test=$2 out=$3
for seed in 0 1 2; do
    for model in warm cold; do
        to=$out/seed-$seed-$model
        vocable evaluate continuation --model "$models/seed-$seed/$model" --tokenizer "$models/seed-$seed/units" --manifest "$test" \
            --out "$to" --num-prompts 10 --mos distillmos temperature=0.8 top_k=50 max_seconds=5
        vocable evaluate judge --continuations "$to"
    done
done

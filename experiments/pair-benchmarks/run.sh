#!/usr/bin/env bash
# run.sh MODELS TRAIN.jsonl REST.jsonl OUT: build the sets, and score the models of warm-start (MODELS is its OUT)
set -euo pipefail
models=$1 train=$2 rest=$3 out=$4
vocable evaluate build words "$out/words" --counts "$train"
vocable evaluate build sentences "$out/sentences"
vocable evaluate build stories "$out/stories"
vocable evaluate build stories "$out/real-stories" --recordings "$rest"
vocable evaluate build consistency "$rest" "$out/consistency"
for seed in 0 1 2; do
    for model in warm cold; do
        lm=$models/seed-$seed/$model to=$out/results/seed-$seed-$model units=$models/seed-$seed/units
        vocable evaluate swuggy "$out/words" --model "$lm" --tokenizer "$units" --dtype bfloat16 --out "$to/words"
        vocable evaluate sblimp "$out/sentences" --model "$lm" --tokenizer "$units" --dtype bfloat16 --out "$to/sentences"
        vocable evaluate storycloze "$out/stories" --model "$lm" --tokenizer "$units" --dtype bfloat16 --out "$to/stories"
        vocable evaluate storycloze "$out/real-stories" --model "$lm" --tokenizer "$units" --dtype bfloat16 --out "$to/real-stories"
        vocable evaluate salmon "$out/consistency" --model "$lm" --tokenizer "$units" --dtype bfloat16 --out "$to/consistency"
    done
    vocable compare "$out/results/seed-$seed-warm/consistency" "$out/results/seed-$seed-cold/consistency" \
        --out "$out/results/seed-$seed-consistency" --names warm,cold
done
for control in text asr random; do
    vocable evaluate storycloze "$out/stories" --model $control --out "$out/results/$control"
done

#!/usr/bin/env bash
# run.sh TRAIN.jsonl VALID.jsonl TEST.jsonl PHONES.jsonl WORDS SENTENCES OUT: LAST and k-means, three seeds, and how they are measured.
# PHONES.jsonl: vocable stories build; WORDS and SENTENCES: vocable evaluate build.
set -euo pipefail
train=$1 valid=$2 test=$3 phones=$4 words=$5 sentences=$6 out=$7
for seed in 0 1 2; do
    vocable train recipes/last/cpu.yaml --manifest "$train" --valid-manifest "$valid" --out "$out/last-$seed" training.seed=$seed
    vocable train recipes/last/cpu.yaml --manifest "$train" --valid-manifest "$valid" --out "$out/full-$seed" training.seed=$seed \
        model.encoder.attention=full
    vocable train recipes/last/cpu.yaml --manifest "$train" --valid-manifest "$valid" --out "$out/collapse-$seed" training.seed=$seed \
        training.max_steps=140 model.loss.reconstruction_weight=0 model.loss.nll_start_step=20
    vocable tokenizer fit "$train" "$out/kmeans-$seed/tokenizer" --encoder openai/whisper-tiny.en --layer 2 --clusters 100 \
        kmeans.seed=$seed encoder.padding=none encoder.positions=remove
    for name in last full kmeans; do
        run=$out/$name-$seed units=$out/$name-$seed/tokenizer
        vocable tokenize "$train" "$run/train-tokens" --tokenizer "$units"
        vocable tokenize "$test" "$run/test-tokens" --tokenizer "$units"
        vocable evaluate phones --manifest "$phones" --tokenizer "$units" --out "$run/phones"
        vocable evaluate abx --manifest "$phones" --tokenizer "$units" --out "$run/abx"
        vocable evaluate recognition --manifest "$train" --test-manifest "$test" --tokens "$run/train-tokens" \
            --test-tokens "$run/test-tokens" --epochs 8 --seed $seed --out "$run/recognition"
        vocable train recipes/twist/cpu.yaml --tokens "$run/train-tokens" --valid-tokens "$run/test-tokens" --tokenizer "$units" \
            --out "$run/lm" lm.text_model=mini lm.warm=false lm.dropout=0.1 lm.seed=$seed training.seed=$seed \
            training.learning_rate=1e-3 training.tokens_per_batch=2048 training.max_steps=300
        vocable evaluate swuggy "$words" --model "$run/lm" --tokenizer "$units" --dtype bfloat16 --out "$run/words"
        vocable evaluate sblimp "$sentences" --model "$run/lm" --tokenizer "$units" --dtype bfloat16 --out "$run/sentences"
    done
done

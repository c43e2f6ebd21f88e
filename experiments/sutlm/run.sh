#!/usr/bin/env bash
# run.sh TOKENS UNITS HELD_OUT.jsonl STORIES OUT: three mixes and three seeds, then CRA, PELM, StoryCloze and labels.
# HELD_OUT and the tokens need word times: vocable align. STORIES: vocable evaluate build stories.
set -euo pipefail
tokens=$1 units=$2 held_out=$3 stories=$4 out=$5
vocable evaluate build labelled "$out/labelled"
alternating="ast: {settings: {spans: {kind: range, speech_words: [1, 4], text_words: [1, 4]}}}"
for mix in unpaired cst ast; do
    case $mix in
        unpaired) sources="{unit-only: {}, text-only: {}}" ;;
        cst) sources="{unit-only: {}, text-only: {}, cst: {}}" ;;
        ast) sources="{unit-only: {}, text-only: {}, $alternating}" ;;
    esac
    for seed in 0 1 2; do
        run=$out/$mix-$seed
        vocable train recipes/sutlm/cpu.yaml --tokens "$tokens" --tokenizer "$units" --out "$run" "sources=$sources" valid_share=0.2 \
            seed=$seed lm.seed=$seed training.seed=$seed training.max_steps=600 training.validate_every=null
        vocable evaluate cra "$held_out" --model "$run" --tokenizer "$units" --pool-size 50 --dtype bfloat16 --out "$run/cra"
        for modalities in S "S->T" "T->S" T; do
            vocable evaluate storycloze "$stories" --model "$run" --tokenizer "$units" --modalities "$modalities" \
                --out "$run/storycloze-${modalities//->/-}"
        done
        for task in sentiment entities; do
            vocable evaluate slue "$out/labelled" --model "$run" --tokenizer "$units" --task $task --out "$run/slue-$task"
        done
    done
done
for seed in 0 1 2; do
    vocable evaluate pelm "$held_out" --model "$out/ast-$seed" --tokenizer "$units" --out "$out/ast-$seed/pelm" --units-to-text asr \
        --num-prompts 40 temperature=0.8 top_k=50 max_seconds=4
done
for size in 1000 5000 10000; do
    vocable subwords fit "$tokens" "$out/subwords-$size" --vocabulary-size $size
    vocable subwords rate "$out/subwords-$size" "$tokens" --text-tokenizer HuggingFaceTB/SmolLM2-135M
done

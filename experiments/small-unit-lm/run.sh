#!/usr/bin/env bash
# run.sh TRAIN.jsonl TEST.jsonl WORDS OUT: an hour of training, and words against pseudo-words (WORDS: vocable evaluate build words)
set -euo pipefail
vocable tokenize "$1" "$4/tokens" --tokenizer vocable/units-500
vocable tokenize "$2" "$4/test-tokens" --tokenizer vocable/units-500
vocable train recipes/twist/portable.yaml --tokens "$4/tokens" --valid-tokens "$4/test-tokens" --tokenizer vocable/units-500 --out "$4/lm"
vocable evaluate swuggy "$3" --model "$4/lm" --tokenizer vocable/units-500 --out "$4/words"

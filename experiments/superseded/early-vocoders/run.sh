#!/usr/bin/env bash
# run.sh UNITS TEST.jsonl OUT: the measure alone, with the vocoder of today; those vocoders were trained by code that is gone
set -euo pipefail
vocable evaluate resynthesis --manifest "$2" --tokenizer "$1" --out "$3" --num-utterances 20

#!/usr/bin/env bash
# run.sh TWELVE.jsonl OUT: fit units on a few recordings, and count the frames that change with the batch
set -euo pipefail
vocable tokenizer fit "$1" "$2/units" --layer 2 --clusters 200
vocable tokenizer verify "$2/units" "$1" --num-utterances 12

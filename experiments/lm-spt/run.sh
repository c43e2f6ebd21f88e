#!/usr/bin/env bash
# Train, judge and report; stop it at any time, and run it again: run.sh TRAIN.jsonl TEST.jsonl OUT
set -euo pipefail
here=$(dirname "$0")
python "$here/run.py" train "$1" "$2" "$3"
python "$here/run.py" judge "$1" "$2" "$3"
python "$here/run.py" report "$3"

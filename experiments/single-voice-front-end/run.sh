#!/usr/bin/env bash
# run.sh TRAIN.jsonl VOCODER OUT: phone times by the front end of a vocoder, the part of these counts that is a command
set -euo pipefail
vocable vocoder align "$1" "$3" --vocoder "$2"

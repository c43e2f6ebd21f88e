#!/usr/bin/env bash
# run.sh TWENTY.jsonl OUT: align twenty utterances that have word times, and compare
set -euo pipefail
for aligner in pocketsphinx whisper:openai/whisper-tiny.en whisper:openai/whisper-base; do
    vocable align "$1" "$2/${aligner//[:\/]/-}.jsonl" --aligner "$aligner" --compare
done

#!/usr/bin/env bash
# run.sh SIXTEEN.txt OUT: speak a text with Hibari, which says the word times, align it, and compare
set -euo pipefail
vocable stories build "$2/speech" --text "$1" --synthesizer hibari --voices hibari
vocable align "$2/speech/manifest.jsonl" "$2/aligned.jsonl" --aligner pocketsphinx --compare

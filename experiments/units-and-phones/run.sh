#!/usr/bin/env bash
# run.sh TWO.txt UNITS OUT: speak two stories in four voices, and measure units (a folder of 100 units) against their phones
set -euo pipefail
text=$1 units=$2 out=$3
vocable stories build "$out/speech" --text "$text" --voices af_heart,am_michael,bf_emma,bm_george
vocable evaluate phones --manifest "$out/speech/manifest.jsonl" --tokenizer "$units" --out "$out/phones"
vocable evaluate abx --manifest "$out/speech/manifest.jsonl" --tokenizer "$units" --out "$out/units"
vocable evaluate abx --manifest "$out/speech/manifest.jsonl" --encoder openai/whisper-tiny.en --layer 2 --out "$out/features"
vocable evaluate abx --manifest "$out/speech/manifest.jsonl" --encoder log-mel --layer 0 --out "$out/log-mel"
vocable compare "$out/units" "$out/features" "$out/log-mel" --out "$out/comparison" --conventions allow

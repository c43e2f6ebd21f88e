#!/usr/bin/env bash
# run.sh OUT: the benchmark, as JSON
set -euo pipefail
mkdir -p "$1"
python benchmarks/extraction.py hubert --clips 12 --mean-seconds 5 --rounds 4 --threads 1 --cpu-seconds --out "$1/extraction.json"

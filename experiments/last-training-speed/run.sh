#!/usr/bin/env bash
# run.sh OUT: the benchmark, as JSON
set -euo pipefail
mkdir -p "$1"
python benchmarks/last_training.py --rounds 5 --threads 1 --cpu-seconds --out "$1/last_training.json"

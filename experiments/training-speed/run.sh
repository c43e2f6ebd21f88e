#!/usr/bin/env bash
# run.sh OUT: three benchmarks, as JSON
set -euo pipefail
mkdir -p "$1"
python benchmarks/lm_training.py --rounds 2 --threads 1 --cpu-seconds --out "$1/lm_training.json"
python benchmarks/generation.py --rounds 2 --threads 1 --cpu-seconds --out "$1/generation.json"
python benchmarks/kmeans.py --rounds 5 --threads 1 --cpu-seconds --out "$1/kmeans.json"

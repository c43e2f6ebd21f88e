#!/usr/bin/env bash
# run.sh OUT: words and sentences, stories, and the same on one thread, as JSON
set -euo pipefail
mkdir -p "$1"
python benchmarks/pair_scoring.py --pairs 32 --rounds 2 --threads 2 --kinds words sentences --out "$1/pairs.json"
python benchmarks/pair_scoring.py --pairs 24 --rounds 2 --threads 2 --kinds stories --out "$1/stories.json"
python benchmarks/pair_scoring.py --pairs 64 --rounds 3 --threads 1 --cpu-seconds --kinds words sentences --out "$1/quiet.json"

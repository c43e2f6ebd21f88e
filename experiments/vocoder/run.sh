#!/usr/bin/env bash
# run.sh SENTENCES.txt TRAIN.jsonl TEST.jsonl OUT: the four steps that made the shipped vocoder, and the test (recipes/vocoder/README.md)
set -euo pipefail
sentences=$1 train=$2 test=$3 out=$4 units=vocable/units-500 recipe=recipes/vocoder
python $recipe/make_speech.py "$sentences" "$out/speech" --hours 3.5 --seed 1
python $recipe/make_speech.py "$sentences" "$out/heart" --hours 0.1 --seed 2 --plain
heart=$out/heart/manifest.jsonl
content="training.waveform_from=1 training.learning_rate=2e-3 training.content_weight=1 training.prosody_weight=1
    training.batch_size=12 training.segment_seconds=3.2 training.ema_decay=0.99"
sound="training.listener.layer=4 training.batch_size=6 training.segment_seconds=1.6"
python $recipe/train_portable.py "$out/first" $units "$heart" "$out/speech/manifest.jsonl" "$train" $content training.max_minutes=8
vocable vocoder align "$train" "$out/aligned.jsonl" --vocoder "$out/first/vocoder"
python $recipe/train_portable.py "$out/third" $units "$heart" "$out/aligned.jsonl" start="$out/first/vocoder" $sound \
    training.learning_rate=6e-4 training.max_minutes=31
python $recipe/train_portable.py "$out/fourth" $units "$heart" "$out/aligned.jsonl" start="$out/third/run/last" $sound \
    training.listener_weight=3 training.learning_rate=3e-4 training.decoder_learning_rate=2e-4 \
    training.speaker_learning_rate=1e-3 training.max_minutes=10.5
for prosody in tokens recording; do
    vocable evaluate resynthesis --manifest "$test" --tokenizer $units --vocoder "$out/fourth/vocoder" --voice own --prosody $prosody \
        --num-utterances null --out "$out/resynthesis-$prosody"
done

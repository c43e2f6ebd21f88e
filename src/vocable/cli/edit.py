"""`vocable edit` changes what is said in a recording, and how, word by word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vocable.cli.command import Command
from vocable.devices import best_device

if TYPE_CHECKING:
    from vocable.recognition.aligner import Aligner
    from vocable.systems.taste.edit_list import EditOptions
    from vocable.systems.taste.tokenizer import TasteTokenizer


def edit(
    recording: Path,
    out: Path,
    tokenizer: str,
    changes: EditOptions,
    text: str | None = None,
    aligner: str = "whisper",
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Edit speech by the word: another delivery, other words, slower, higher, louder.

    The recording becomes words with codes; the codes of a word say how it is spoken. Edits change words and codes, and
    the result is spoken in the voice of the recording. Words that no edit names keep their codes.

    vocable edit talk.wav out --tokenizer taste --text "It is seven miles to town." --slower miles=1.5 --higher miles=3
    vocable edit talk.wav out --tokenizer taste --replace seven=eight --delete "to town" --insert-before miles=long
    vocable edit talk.wav out --tokenizer taste --take "seven miles" --from other.wav
    vocable edit talk.wav out --tokenizer taste --edits edits.yaml
    vocable edit out again --tokenizer taste --louder eight=6

    Writes into OUT: edited.wav; before.wav, the same before the edits; index.html, both versions with their words,
    durations and pitch; and words.json, from which another edit starts when OUT is given as the recording.

    All edits name words of the recording as it was. Case and punctuation do not matter; the#2 is the second "the".
    An edits file is a list such as [{replace: seven, by: eight, semitones: 2}, {take: miles, recording: other.wav},
    {insert: long, before: miles, delivery: none}, {delete: to town}, {change: seven, stretch: 1.5, decibels: 6}].

    Args:
        recording: audio file, or a folder that an earlier edit wrote.
        out: folder for the result.
        tokenizer: folder of a TASTE tokenizer that was trained with its speech decoder, or its name.
        changes: the edits.
        text: what is said in the recording. Without it, as the tokenizer's own recogniser hears it.
        aligner: who checks that texts belong to their recordings, and finds words where the decoder does not know their
            times: whisper (the tokenizer's own checkpoint), none, or an aligner as of `vocable align`.
        seed: for what the decoder draws.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
    """
    from vocable.files import AUDIO_SUFFIXES
    from vocable.recognition.transcribe import load_transcriber
    from vocable.systems.taste.edit_list import other_recordings
    from vocable.systems.taste.edit_run import edit_recording
    from vocable.systems.taste.tokenizer import TasteTokenizer

    edits = changes.read()
    device = best_device(device)
    taste = TasteTokenizer.from_pretrained(tokenizer, device)
    texts = {str(recording): text, **other_recordings(edits)}
    if any(told is None and Path(path).suffix.lower() in AUDIO_SUFFIXES for path, told in texts.items()):
        taste.transcribe_with(load_transcriber(taste.config.encoder.name, taste.config.language, device))
    run = edit_recording(recording, out, taste, edits, text, _open_aligner(aligner, taste, device), seed)
    num_edited = sum(row.is_edited for row in run.rows)
    seconds = len(run.spoken.waveform) / taste.decode_rate
    print(run.speech.text)
    print(f"{out / 'edited.wav'}: {seconds:.2f} s, {len(run.speech.words)} words, {num_edited} edited")
    print(f"Both versions, to hear and see: {out / 'index.html'}")
    print(f"To go on editing: vocable edit {out} NEW_FOLDER --tokenizer {tokenizer} ...")


def _open_aligner(name: str, tokenizer: TasteTokenizer, device: str) -> Aligner | None:
    from vocable.recognition.opening import AlignerConfig, open_aligner

    if name == "none":
        return None
    full = f"whisper:{tokenizer.config.encoder.name}" if name == "whisper" else name
    return open_aligner(AlignerConfig(aligner=full, device=device))


COMMANDS = {"edit RECORDING OUT": Command(edit, short={"from": "other", "from_text": "other_text"})}

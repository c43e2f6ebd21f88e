"""Edit a recording from beginning to end, and write the result.

OUT/edited.wav    the edited speech
OUT/before.wav    the same before the edits, spoken from its codes as well
OUT/words.json    words, codes and speaker: another edit starts from them
OUT/index.html    both versions, with their words, durations and pitch
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vocable.audio.writing import write_audio
from vocable.errors import AlignmentError, ConfigError
from vocable.files import AUDIO_SUFFIXES, write_text
from vocable.recognition.aligner import Aligner
from vocable.systems.taste.delivered import WORDS_FILE, DeliveredSpeech, edited, read_delivered, speech_of, time_spoken
from vocable.systems.taste.edit_list import other_recordings
from vocable.systems.taste.edit_page import Version, WordRow, compare_words, edit_page, measure_words
from vocable.systems.taste.editing import Edit, Edited, apply_edits
from vocable.systems.taste.speech_decoder import SpokenWords
from vocable.systems.taste.tokenizer import TasteTokenizer

EDITED_FILE, BEFORE_FILE, PAGE_FILE = "edited.wav", "before.wav", "index.html"


class EditRun(NamedTuple):
    """What an edit made."""

    speech: DeliveredSpeech
    spoken: SpokenWords
    rows: list[WordRow]


def edit_recording(
    recording: Path,
    out: Path,
    tokenizer: TasteTokenizer,
    edits: Sequence[Edit],
    text: str | None = None,
    aligner: Aligner | None = None,
    seed: int = 0,
) -> EditRun:
    """Edit a recording, or what an earlier edit wrote, and write sound, words and page.

    Args:
        recording: An audio file, or the folder of an earlier edit.
        out: A folder for the result; files of an earlier edit in it are replaced.
        tokenizer: Encodes and speaks; also transcribes, where it was given a recogniser.
        edits: What to do.
        text: What is said in the recording; None: as the recogniser hears it.
        aligner: Checks the texts, and finds the words where the decoder does not know their times.
        seed: For whatever the decoder draws, the same before and after.

    Raises:
        AlignmentError, AssetError, AudioFormatError, FingerprintError: see `read_delivered`.
        ConfigError: see `apply_edits`; or the tokenizer has no speech decoder, or `out` is an audio file's name.
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    if out.suffix.lower() in AUDIO_SUFFIXES:
        raise ConfigError(f"{out} is the name of an audio file; OUT is a folder, for sound, words and page.")
    rate = speech_of(tokenizer).sample_rate
    read = read_delivered(recording, tokenizer, text, aligner)
    others = {
        name: read_delivered(Path(name), tokenizer, other_text, aligner).speech.words
        for name, other_text in other_recordings(edits).items()
    }
    made = apply_edits(read.speech.words, edits, others)
    speeches = (read.speech, edited(read.speech, made.words))
    notes, spoken = [], []
    for speech, name, title in zip(speeches, (BEFORE_FILE, EDITED_FILE), ("Before", "After")):
        sound = speech.speak(tokenizer, seed)
        write_audio(out / name, sound.waveform, rate)
        try:
            if aligner is not None:
                sound = time_spoken(sound, out / name, speech, aligner, tokenizer.config.language)
        except AlignmentError as error:
            notes.append(f"{title}: word times are not known. {error}")
        spoken.append(sound)
    speeches[1].save(out / WORDS_FILE)
    rows = compare_words(read.speech.words, made, *(measure_words(one, rate) for one in spoken))
    versions = _versions(read.recording, tokenizer.sample_rate, spoken, rate, rows, made)
    write_text(edit_page(versions, rows, [edit.description for edit in edits], notes), out / PAGE_FILE)
    return EditRun(speeches[1], spoken[1], rows)


def _versions(
    recording: SpokenWords | None,
    recording_rate: int,
    spoken: Sequence[SpokenWords],
    rate: int,
    rows: Sequence[WordRow],
    made: Edited,
) -> list[Version]:
    after = [row.is_edited for row in rows if row.after is not None]
    before = [row.is_edited for row in rows if row.before is not None]
    marked = [frozenset(number for number, is_edited in enumerate(flags) if is_edited) for flags in (before, after)]
    versions = [] if recording is None else [Version("Recording", recording, recording_rate, marked[0])]
    return [
        *versions,
        Version("Before: spoken from its codes", spoken[0], rate, marked[0]),
        Version("After", spoken[1], rate, marked[1]),
    ]

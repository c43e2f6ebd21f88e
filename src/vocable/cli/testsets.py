"""`vocable evaluate build ...` and `vocable stories build`: test sets and speech of one's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import vocable
from vocable.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vocable.evaluation.pairs import PairSet
    from vocable.testsets.consistency import ConsistencyConfig
    from vocable.testsets.plan import PlannedPair
    from vocable.testsets.recorded_stories import RecordedStoriesConfig
    from vocable.testsets.speak import SpeechConfig, SynthesizerConfig
    from vocable.testsets.spoken_stories import SpokenStoriesConfig
    from vocable.testsets.words import WordPairsConfig

Version = Literal["spoken", "topic"]


@dataclass(frozen=True, kw_only=True)
class SpokenConfig:
    """How texts become a set of spoken pairs."""

    out: Path
    """Folder to write; a run that was stopped goes on where it was."""
    language: str = "en"
    """Language of the texts, for the manifest."""
    voices: tuple[str, ...] | None = None
    """Names of voices. Without them, four of Kokoro's, or hibari's one."""
    voices_per_item: int = 1
    """Voices that speak each pair, in turn."""
    licence: str | None = None
    """Licence of the texts, for card and manifest. Without it, that of the texts that come with Vocable."""
    num_processes: int = 1
    """Processes that work at once."""

    def chosen_voices(self, speech: SpeechConfig) -> tuple[str, ...]:
        """Return the voices to use with a synthesiser that is settled."""
        from vocable.errors import ConfigError
        from vocable.testsets.hibari_tts import VOICES
        from vocable.testsets.speak import DEFAULT_VOICES

        if self.voices is not None:
            return self.voices
        if speech.command is not None and "{voice}" in speech.command:
            raise ConfigError("The command has {voice}; name the voices to put there: --voices en-us,en-gb")
        if speech.command is not None:
            return ("default",)
        return VOICES if speech.synthesizer == "hibari" else DEFAULT_VOICES


def build_words(
    spoken: SpokenConfig,
    words: WordPairsConfig,
    speech: SpeechConfig,
    lexicon: Path | None = None,
    counts: Path | None = None,
    vowels: str | None = None,
) -> None:
    """Make spoken words against pseudo-words that could be words: pairs like those of sWUGGY, in any language.

    vocable evaluate build words pairs/words --counts train/manifest.jsonl
    vocable evaluate build words paare --language de --lexicon lexikon.tsv --voices de --command "espeak-ng ..."

    Args:
        spoken: how they are spoken.
        words: which words are taken.
        speech: the synthesiser and the files.
        lexicon: lines of word<TAB>phones[<TAB>count], phones with spaces between. Without it, CMUdict, American
            English.
        counts: source of word counts, for frequency bands: a manifest (.jsonl), word<TAB>count lines (.tsv) or a text.
            The text that the language model is trained on makes "oov" mean what it says.
        vowels: phones that are the core of a syllable, with spaces between, without stress. Without it, those of
            ARPAbet and the IPA.
    """
    from vocable.testsets.lexicon import read_counts, read_lexicon
    from vocable.testsets.speak import check_folder
    from vocable.testsets.words import plan_word_pairs

    check_folder(spoken.out)  # planning words takes a while
    found = read_lexicon(lexicon, counts and read_counts(counts), vowels.split() if vowels is not None else None)
    planned = plan_word_pairs(found, words)
    difference = planned.matching["mean_abs_delta_log_p"]
    print(f"{len(planned.pairs)} words of {found.name}; mean difference of log p: {difference} nats")
    card = {
        "name": f"words against pseudo-words, {found.name}",
        "texts": {**asdict(words), "lexicon": found.name, "counts": counts and counts.name},
        "matching": planned.matching,
        "num_bad_lexicon_lines": found.num_bad_lines,
    }
    _speak(planned.pairs, "swuggy", spoken, speech, card, "BSD-2-Clause" if lexicon is None else None)


def build_sentences(
    spoken: SpokenConfig,
    speech: SpeechConfig,
    texts: Path | None = None,
    num_pairs: int = 400,
    max_words: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> None:
    """Make spoken sentences, right against wrong: pairs like those of sBLIMP.

    vocable evaluate build sentences pairs/sentences
    vocable evaluate build sentences pairs/blimp --texts blimp/data --max-words 8 --num-pairs 670

    Args:
        spoken: how they are spoken.
        speech: the synthesiser and the files.
        texts: BLiMP's .jsonl file or folder, or a .tsv of good<TAB>bad[<TAB>phenomenon] in any language. Without it,
            English sentences from Vocable's own templates, on 12 phenomena.
        num_pairs: pairs, drawn evenly from the phenomena.
        max_words: most words of a sentence; pairs with a longer one are left out.
        seed: seed of the draw.
        strict: stop at the first bad line; otherwise it is left out.
    """
    from vocable.testsets.sentence_maker import make_sentence_pairs
    from vocable.testsets.sentences import plan_sentence_pairs, read_sentence_pairs
    from vocable.testsets.speak import check_folder

    check_folder(spoken.out)
    pairs, num_bad = (make_sentence_pairs(None, seed), 0) if texts is None else read_sentence_pairs(texts, strict)
    planned = plan_sentence_pairs(pairs, num_pairs, seed, max_words)
    card = {"name": "right against wrong sentences", "texts": _source(texts, seed), "num_bad_lines": num_bad}
    _speak(planned, "sblimp", spoken, speech, card, "Apache-2.0" if texts is None else None)


def build_stories(
    spoken: SpokenConfig,
    speech: SpeechConfig,
    cutting: RecordedStoriesConfig,
    texts: Path | None = None,
    recordings: Path | None = None,
    versions: tuple[Version, ...] | None = None,
    strict: bool = False,
) -> None:
    """Make spoken stories with a right and a wrong ending: pairs like those of StoryCloze.

    vocable evaluate build stories pairs/stories
    vocable evaluate build stories pairs/read --recordings dev/manifest.jsonl --context-utterances 2

    Args:
        spoken: how they are spoken.
        speech: the synthesiser and the files.
        cutting: how many stories, and how they are cut from recordings.
        texts: stories in the layout of StoryCloze or ROCStories (.csv, .tsv), or lines of {"context", "right", "wrong"}
            (.jsonl). Without it, stories from Vocable's own templates.
        recordings: a manifest of connected speech, to cut topic pairs from instead of speaking texts.
        versions: spoken (the wrong ending fits the topic), topic (it comes from another story), or both. Without it,
            both, or topic where stories have no wrong ending.
        strict: stop at the first bad line; otherwise it is left out.
    """
    from vocable.evaluation.pairs import write_pair_set
    from vocable.testsets.recorded_stories import cut_stories
    from vocable.testsets.speak import check_folder
    from vocable.testsets.stories import plan_story_pairs, read_story_file, stories_left_out
    from vocable.testsets.story_maker import make_stories

    check_folder(spoken.out)
    number, seed = cutting.num_stories, cutting.seed
    if recordings is not None:
        chosen = None if versions == ("topic",) else versions
        given = {"texts": texts, "versions": chosen, "voices": spoken.voices, "command": speech.command}
        named = ", ".join(f"--{name}" for name, value in given.items() if value is not None)
        if named:
            raise ConfigError(f"Topic pairs are cut from --recordings as they are: leave out {named}.")
        card = {"name": "topic pairs cut from recordings", "recordings": recordings.name, "texts": asdict(cutting)}
        pair_set = replace(cut_stories(vocable.read_manifest(recordings, strict), cutting), card=card)
        write_pair_set(pair_set, spoken.out)
        _print_set(pair_set, spoken.out)
        return
    if texts is None:
        stories, bad_lines = make_stories(400 if number is None else number, seed), {}
    else:
        stories, bad_lines = read_story_file(texts, strict)
    versions = versions or (("spoken", "topic") if any(story.wrong for story in stories) else ("topic",))
    speech = speech.settle(spoken.voices or ())
    planned = plan_story_pairs(stories, versions, number, len(spoken.chosen_voices(speech)), seed)
    left_out = bad_lines | stories_left_out(stories, planned, versions, number)
    card = {
        "name": "right against wrong endings of stories",
        "texts": _source(texts, seed),
        "stories": {"found": len(stories) + sum(bad_lines.values()), "left_out": left_out},
    }
    for reason, count in left_out.items():
        print(f"Stories left out: {count} ({reason})")
    _speak(planned, "storycloze", spoken, speech, card, "Apache-2.0" if texts is None else None)


def build_consistency(
    manifest: Path,
    out: Path,
    cutting: ConsistencyConfig,
    noise: Path | None = None,
    num_processes: int = 1,
    strict: bool = False,
) -> None:
    """Cut recordings in which voice, room, noise or loudness changes half way: pairs like those of SALMon.

    vocable evaluate build consistency dev/manifest.jsonl pairs/consistency --tasks speaker,room

    Args:
        manifest: recordings (JSONL) with durations; with speakers, and genders, for the tasks that ask for them.
        out: folder to write; a run that was stopped goes on where it was.
        cutting: how pairs are cut.
        noise: folder of recorded noise, two files at least. Without it, generated noise of four colours.
        num_processes: processes that work at once.
        strict: stop at the first bad line; otherwise it is left out.
    """
    from vocable.testsets import consistency

    if noise is not None:
        cutting = replace(cutting, noise_files=tuple(_noise_files(noise)))
    card = {"name": "consistency of recordings", "recordings": manifest.name, "seed": cutting.seed}
    utterances = vocable.read_manifest(manifest, strict)
    pair_set = consistency.build_consistency(utterances, out, cutting, card, num_processes, "Cutting recordings")
    _print_set(pair_set, out)


def build_labelled(
    out: Path,
    speech: SpeechConfig,
    num_train: int = 600,
    num_dev: int = 100,
    num_test: int = 200,
    voices: tuple[str, ...] | None = None,
    test_voices: tuple[str, ...] | None = None,
    seed: int = 0,
    num_processes: int = 1,
) -> None:
    """Make spoken English sentences with a known sentiment and known entities, for 'evaluate slue'.

    Kokoro and hibari give exact word times; after another synthesiser, make them with 'vocable align'.

    vocable evaluate build labelled sets/labelled --num-processes 2

    Args:
        out: folder to write; a run that was stopped goes on where it was.
        speech: the synthesiser and the files.
        num_train: sentences to learn from.
        num_dev: sentences to choose the best epoch by.
        num_test: sentences to test on; half of them have names, and half of them feelings, that train never has.
        voices: voices of train and dev. Without them, four of Kokoro's, or hibari's one.
        test_voices: voices of test. Without them, two others of Kokoro's, or hibari's one.
        seed: seed of the sentences.
        num_processes: processes that work at once.
    """
    from vocable.testsets.hibari_tts import VOICES
    from vocable.testsets.labelled_maker import describe, make_labelled_texts
    from vocable.testsets.labelled_speech import LabelledVoices, speak_labelled

    given = {"train": voices, "test": test_voices}
    speech = speech.settle([*(voices or ()), *(test_voices or ())])
    if speech.synthesizer == "hibari":
        given = {split: row or VOICES for split, row in given.items()}
    elif speech.command is not None and "{voice}" not in speech.command:
        given = dict.fromkeys(given, ("default",))
    elif speech.command is not None and None in given.values():
        raise ConfigError("The command has {voice}; name the voices to put there: --voices en-us --test-voices en-gb")
    speakers = LabelledVoices(**{name: row for name, row in given.items() if row is not None})
    labels = make_labelled_texts(num_train, num_dev, num_test, seed)
    card = {"name": "sentences with sentiment and entities", "texts": "templates of Vocable", "seed": seed}
    options = {"licence": "Apache-2.0", "num_processes": num_processes, "progress": "Speaking"}
    report = speak_labelled(labels, out, speakers, speech, {**card, **describe(labels)}, **options)
    _print_speech(report.speech_seconds, f"{report.num_spoken} sentences spoken now", report.failures)
    sizes = ", ".join(f"{split} {count}" for split, count in describe(report.labelled.labels)["sentences"].items())
    print(f"{out}: {len(report.labelled.labels)} sentences ({sizes}), {report.num_with_words} with word times")


def build_slue(
    source: Path, out: Path, undecided: Literal["neutral", "drop"] = "neutral", strict: bool = False
) -> None:
    """Make a labelled set of the published tables of SLUE-VoxCeleb (sentiment) or SLUE-VoxPopuli (entities).

    Entities in speech need word times: run 'vocable align' on the manifest that this writes.

    vocable evaluate build slue slue-voxceleb sets/voxceleb

    Args:
        source: folder of slue-voxceleb_fine-tune.tsv or slue-voxpopuli_fine-tune.tsv, and of its audio.
        out: folder to write.
        undecided: what becomes of mixed sentiment and of disagreement: Neutral, or left out.
        strict: stop at the first bad line or unreadable file; otherwise these are left out, and counted.
    """
    from vocable.evaluation.slue.labelled_set import LABELS, write_labelled_set
    from vocable.evaluation.slue.published import read_published

    if (out / LABELS).exists():
        raise OutputError(f"{out / LABELS} exists. Name a new folder.")
    labelled = read_published(source, undecided, strict)
    write_labelled_set(labelled, out)
    sizes = ", ".join(f"{split} {sum(x.split == split for x in labelled.labels)}" for split in ("train", "dev", "test"))
    print(f"{out}: {len(labelled.labels)} utterances ({sizes})")
    for reason, count in labelled.excluded.items():
        print(f"Left out: {count} ({reason})")


def read_aloud(
    out: Path,
    stories: SpokenStoriesConfig,
    speaker: SynthesizerConfig,
    text: Path | None = None,
    num_threads: int = 2,
) -> None:
    """Speak a text file in many voices: Opus files and a manifest with the time of every word.

    vocable stories build runs/stories
    vocable stories build runs/notes --text notes.txt --voices af_heart,am_michael

    Args:
        out: folder to write; a run that was stopped goes on where it was.
        stories: how stories become recordings.
        speaker: who speaks.
        text: text file; a line such as `# Title [valid]` starts a story. Without it, the stories that come with
            Vocable.
        num_threads: processor threads for Kokoro or hibari.
    """
    import torch
    from rich.console import Console

    from vocable.testsets import hibari_tts
    from vocable.testsets.speak import open_synthesizer
    from vocable.testsets.spoken_stories import VOICES, build_spoken_stories, plan_recordings, read_stories

    speaker = speaker.settle(() if stories.voices == VOICES else stories.voices)
    if speaker.synthesizer == "hibari" and stories.voices == VOICES:
        stories = replace(stories, voices=hibari_tts.VOICES)
    stories = stories.settle(text)
    found = read_stories(text or Path(vocable.__file__).parent / "quickstart" / "speech" / "stories.txt")
    torch.set_num_threads(num_threads)
    synthesizer = open_synthesizer(speaker, num_threads)
    with Console().status(f"{len(plan_recordings(found, stories))} recordings") as status:
        utterances = build_spoken_stories(found, out, synthesizer, stories, progress=status.update)
    size = sum(path.stat().st_size for path in out.rglob("*.opus"))
    for split in dict.fromkeys(utterance.split for utterance in utterances):
        chosen = [utterance for utterance in utterances if utterance.split == split]
        minutes = sum(utterance.duration or 0.0 for utterance in chosen) / 60
        speakers = len({utterance.speaker for utterance in chosen})
        print(f"{split}: {len(chosen)} utterances, {minutes:.1f} min of speech, {speakers} voices")
    print(f"{out / 'manifest.jsonl'}: {len(utterances)} utterances, {size / 1e6:.1f} MB of Opus")


def speak(
    text: str,
    out: Path,
    prosody: Path | None = None,
    phonemizer: Literal["hibari", "espeak-ng", "given"] | None = None,
    speed: float = 1.0,
) -> None:
    """Speak a text in hibari's voice, words longer, higher, louder as you ask; or each line of a file.

    vocable speak "The old farmer carried a yellow basket." basket.wav
    vocable speak "The old farmer carried a yellow basket." basket.wav --prosody changes.json
    vocable speak lines.txt spoken/

    Args:
        text: what to say, in English; or a text file, each line of which becomes a file in the folder OUT: 0001.wav ...
        out: audio file to write (wav, flac, ogg, opus, mp3); for a text file, a folder.
        prosody: JSON file, a list of changes of words: [{"word": "yellow", "stretch": 1.5, "semitones": 4,
            "decibels": 6, "pause": 0.3}], with "nth" where the text has the word several times.
        phonemizer: who turns the text into phonemes; given: it is phonemes, in Kokoro's symbols. Without it: hibari
            (`pip install 'vocable[voice]'`) where it is installed, else the program espeak-ng.
        speed: speaking rate: 1 is normal, 2 twice as fast.
    """
    import json

    import torch

    from vocable.audio.writing import write_audio
    from vocable.files import read_text, split_lines
    from vocable.testsets.hibari_tts import Hibari

    is_file = text.endswith(".txt") and Path(text).is_file()
    lines = [line for line in split_lines(read_text(Path(text))) if line.strip()] if is_file else [text]
    if is_file and prosody is not None:
        raise ConfigError("Words are changed in one text: give it in place of the file, or leave out --prosody.")
    if not lines:
        raise ConfigError(f"{text}: holds no text.")
    try:
        changes = None if prosody is None else json.loads(read_text(prosody))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{prosody}: no JSON: {error}.") from error
    speaker = Hibari(speed=speed, phonemizer=phonemizer)
    for number, line in enumerate(lines, start=1):
        path = out / f"{number:04d}.wav" if is_file else out
        speech = speaker.speak(line) if changes is None else speaker.speak_changed(line, changes)
        write_audio(path, torch.from_numpy(speech.waveform), speech.sample_rate)
        print(f"{path}: {len(speech.waveform) / speech.sample_rate:.2f} s, {len(speech.words)} words")


def _source(texts: Path | None, seed: int) -> dict[str, Any]:
    return {"source": "templates of Vocable" if texts is None else texts.name, "seed": seed}


def _speak(
    pairs: Sequence[PlannedPair],
    benchmark: str,
    spoken: SpokenConfig,
    speech: SpeechConfig,
    card: dict[str, Any],
    own_licence: str | None,
) -> None:
    """Deal the pairs out to voices, speak them, and say what came of it."""
    from vocable.testsets.plan import deal_voices
    from vocable.testsets.speak import speak_pairs

    speech = speech.settle(spoken.voices or ())
    dealt = deal_voices(pairs, spoken.chosen_voices(speech), spoken.voices_per_item)
    licence = spoken.licence or own_licence
    options = {"language": spoken.language, "licence": licence, "num_processes": spoken.num_processes}
    card = {**card, "licence": licence}
    report = speak_pairs(dealt, spoken.out, benchmark, speech, card, **options, progress="Speaking")
    _print_speech(report.speech_seconds, f"{report.num_spoken} of {report.num_segments} segments now", report.failures)
    _print_set(report.pair_set, spoken.out)


def _print_speech(seconds: float, spoken: str, failures: Mapping[str, str]) -> None:
    print(f"{seconds / 60:.1f} min of speech; {spoken}")
    for text, reason in list(failures.items())[:5]:
        print(f"Not spoken: {text}: {reason}")


def _print_set(pair_set: PairSet, out: Path) -> None:
    from collections import Counter

    print(f"{out}: {len(pair_set.items)} pairs for the benchmark {pair_set.benchmark}")
    left_out = pair_set.card.get("num_left_out", 0)
    if left_out:
        print(f"Left out: {left_out} pairs, see {out / 'rejected.jsonl'}")
    for key in ("band", "phenomenon", "version", "task"):
        counts = Counter(item.group[key] for item in pair_set.items if key in item.group)
        if counts:
            print(f"By {key}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


def _noise_files(folder: Path) -> list[str]:

    files = [str(path) for path in sorted(Path(folder).glob("*")) if path.suffix.lower() in (".wav", ".flac", ".ogg")]
    if len(files) < 2:
        raise ConfigError(f"{folder}: {len(files)} noise files (.wav, .flac, .ogg); a change of noise needs two.")
    return files


COMMANDS = {
    "evaluate build words OUT": build_words,
    "evaluate build sentences OUT": build_sentences,
    "evaluate build stories OUT": build_stories,
    "evaluate build consistency MANIFEST OUT": build_consistency,
    "evaluate build labelled OUT": build_labelled,
    "evaluate build slue SOURCE OUT": build_slue,
    "stories build OUT": read_aloud,
    "speak TEXT OUT": speak,
}

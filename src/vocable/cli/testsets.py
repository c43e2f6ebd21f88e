"""`vocable evaluate build ...` and `vocable stories build`: test sets and speech of one's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vocable.cli.options import StrictOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vocable.testsets.consistency import ConsistencyConfig
    from vocable.testsets.plan import PlannedPair
    from vocable.testsets.recorded_stories import RecordedStoriesConfig
    from vocable.testsets.speak import SpeechConfig, SynthesizerConfig
    from vocable.testsets.spoken_stories import SpokenStoriesConfig
    from vocable.testsets.words import WordPairsConfig


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A folder, and work to fill it."""

    out: Path
    """Folder to write; a run that was stopped goes on where it was."""
    num_processes: int = 1
    """Processes that work at once."""


@dataclass(frozen=True, kw_only=True)
class SpokenConfig(BuildConfig):
    """Pairs that voices speak."""

    language: str = "en"
    """Language of the texts, for the manifest."""
    voices: tuple[str, ...] | None = None
    """Names of voices. Without them, four Kokoro voices."""
    voices_per_item: int = 1
    """Voices that speak each pair, in turn."""
    licence: str | None = None
    """Licence of the texts, for card and manifest. Without it, that of the texts that come with Vocable."""

    def chosen_voices(self, command: str | None) -> tuple[str, ...]:
        """Return the voices to use with Kokoro, or with another synthesiser."""
        from vocable.errors import ConfigError
        from vocable.testsets.speak import DEFAULT_VOICES

        if self.voices is not None:
            return self.voices
        if command is not None and "{voice}" in command:
            raise ConfigError("The command has {voice}; name the voices to put there: --voices en-us,en-gb")
        return DEFAULT_VOICES if command is None else ("default",)


@dataclass(frozen=True, kw_only=True)
class WordsConfig(SpokenConfig):
    """Words to speak."""

    lexicon: Path | None = None
    """Lines of word<TAB>phones[<TAB>count], phones with spaces between. Without it, CMUdict, American English."""
    counts: Path | None = None
    """Source of word counts, for frequency bands: a manifest (.jsonl), word<TAB>count lines (.tsv) or a text. The text
    that the language model is trained on makes "oov" mean what it says."""
    vowels: str | None = None
    """Phones that are the core of a syllable, with spaces between, without stress. Without it, those of ARPAbet and the
    IPA."""
    min_count: int | None = None
    """Fewest occurrences of a word in the counts. Without it, 1 where there are counts, so that no word is outside of
    the vocabulary."""


def build_words(config: WordsConfig, words: WordPairsConfig, speech: SpeechConfig) -> None:
    """Make spoken words against pseudo-words that could be words: pairs like those of sWUGGY, in any language.

    vocable evaluate build words pairs/words --counts train/manifest.jsonl
    vocable evaluate build words paare --language de --lexicon lexikon.tsv --voices de --command "espeak-ng ..."
    """
    from vocable.testsets.lexicon import read_counts, read_lexicon
    from vocable.testsets.speak import check_folder
    from vocable.testsets.words import plan_word_pairs

    check_folder(config.out)  # planning words takes a while
    counts = read_counts(config.counts) if config.counts is not None else None
    lexicon = read_lexicon(config.lexicon, counts, config.vowels.split() if config.vowels is not None else None)
    if config.min_count is None and lexicon.counts:
        words = replace(words, min_count=1)
    planned = plan_word_pairs(lexicon, words)
    difference = planned.matching["mean_abs_delta_log_p"]
    print(f"{len(planned.pairs)} words of {lexicon.name}; mean difference of log p: {difference} nats")
    card = {
        "name": f"words against pseudo-words, {lexicon.name}",
        "texts": {**asdict(words), "lexicon": lexicon.name, "counts": config.counts and config.counts.name},
        "matching": planned.matching,
        "num_bad_lexicon_lines": lexicon.num_bad_lines,
    }
    _speak(planned.pairs, "swuggy", config, speech, card, "BSD-2-Clause" if config.lexicon is None else None)


@dataclass(frozen=True, kw_only=True)
class SentencesConfig(SpokenConfig, StrictOption):
    """Sentences to speak."""

    texts: Path | None = None
    """BLiMP's .jsonl file or folder, or a .tsv of good<TAB>bad[<TAB>phenomenon] in any language. Without it, English
    sentences from Vocable's own templates, on 12 phenomena."""
    num_pairs: int = 400
    """Pairs, drawn evenly from the phenomena."""
    max_words: int | None = None
    """Most words of a sentence; pairs with a longer one are left out."""
    seed: int = 0
    """Seed of the draw."""


def build_sentences(config: SentencesConfig, speech: SpeechConfig) -> None:
    """Make spoken sentences, right against wrong: pairs like those of sBLIMP.

    vocable evaluate build sentences pairs/sentences
    vocable evaluate build sentences pairs/blimp --texts blimp/data --max-words 8 --num-pairs 670
    """
    from vocable.testsets.sentence_maker import make_sentence_pairs
    from vocable.testsets.sentences import plan_sentence_pairs, read_sentence_pairs
    from vocable.testsets.speak import check_folder

    check_folder(config.out)
    if config.texts is not None:
        pairs, num_bad = read_sentence_pairs(config.texts, config.strict)
    else:
        pairs, num_bad = make_sentence_pairs(None, config.seed), 0
    planned = plan_sentence_pairs(pairs, config.num_pairs, config.seed, config.max_words)
    card = {"name": "right against wrong sentences", "texts": _source(config), "num_bad_lines": num_bad}
    _speak(planned, "sblimp", config, speech, card, "Apache-2.0" if config.texts is None else None)


@dataclass(frozen=True, kw_only=True)
class StoriesConfig(SpokenConfig, StrictOption):
    """Stories to speak, or recordings to cut."""

    texts: Path | None = None
    """Stories in the layout of StoryCloze or ROCStories (.csv, .tsv), or lines of {"context", "right", "wrong"}
    (.jsonl). Without it, stories from Vocable's own templates."""
    recordings: Path | None = None
    """A manifest of connected speech, to cut topic pairs from instead of speaking texts."""
    versions: tuple[Literal["spoken", "topic"], ...] | None = None
    """spoken (the wrong ending fits the topic), topic (it comes from another story), or both. Without it, both, or
    topic where stories have no wrong ending."""
    num_stories: int | None = None
    """Number of stories; one pair each and version. Without it, 400 of our own, or all of a file or manifest."""
    seed: int = 0
    """Seed of the draw, and of the endings that stories lend each other."""


def build_stories(config: StoriesConfig, speech: SpeechConfig, cutting: RecordedStoriesConfig) -> None:
    """Make spoken stories with a right and a wrong ending: pairs like those of StoryCloze.

    vocable evaluate build stories pairs/stories
    vocable evaluate build stories pairs/read --recordings dev/manifest.jsonl --context-utterances 2
    """
    from vocable.testsets.speak import check_folder
    from vocable.testsets.stories import plan_story_pairs, read_story_file, stories_left_out
    from vocable.testsets.story_maker import make_stories

    check_folder(config.out)
    if config.recordings is not None:
        _cut_recordings(config, speech, cutting)
        return
    if config.texts is None:
        stories, bad_lines = make_stories(400 if config.num_stories is None else config.num_stories, config.seed), {}
    else:
        stories, bad_lines = read_story_file(config.texts, config.strict)
    possible = ("spoken", "topic") if any(story.wrong for story in stories) else ("topic",)
    versions: Any = config.versions or possible
    num_voices = len(config.chosen_voices(speech.command))
    planned = plan_story_pairs(stories, versions, config.num_stories, num_voices, config.seed)
    left_out = bad_lines | stories_left_out(stories, planned, versions, config.num_stories)
    card = {
        "name": "right against wrong endings of stories",
        "texts": _source(config),
        "stories": {"found": len(stories) + sum(bad_lines.values()), "left_out": left_out},
    }
    for reason, count in left_out.items():
        print(f"Stories left out: {count} ({reason})")
    _speak(planned, "storycloze", config, speech, card, "Apache-2.0" if config.texts is None else None)


def _cut_recordings(config: StoriesConfig, speech: SpeechConfig, cutting: RecordedStoriesConfig) -> None:
    from vocable.audio.manifest import read_manifest
    from vocable.errors import ConfigError
    from vocable.evaluation.pairs import write_pair_set
    from vocable.testsets.recorded_stories import cut_stories

    assert config.recordings is not None
    versions = None if config.versions == ("topic",) else config.versions
    given = {"texts": config.texts, "versions": versions, "voices": config.voices, "command": speech.command}
    named = ", ".join(f"--{name}" for name, value in given.items() if value is not None)
    if named:
        raise ConfigError(f"Topic pairs are cut from --recordings as they are: leave out {named}.")
    name = "topic pairs cut from recordings"
    card = {"name": name, "recordings": config.recordings.name, "texts": asdict(cutting)}
    pair_set = replace(cut_stories(read_manifest(config.recordings, config.strict), cutting), card=card)
    write_pair_set(pair_set, config.out)
    _print_set(pair_set, config.out)


@dataclass(frozen=True, kw_only=True)
class CutConfig(BuildConfig, StrictOption):
    """Recordings to cut."""

    manifest: Path
    """Recordings (JSONL) with durations; with speakers, and genders, for the tasks that ask for them."""
    noise: Path | None = None
    """Folder of recorded noise, two files at least. Without it, generated noise of four colours."""


def build_consistency(config: CutConfig, cutting: ConsistencyConfig) -> None:
    """Cut recordings in which voice, room, noise or loudness changes half way: pairs like those of SALMon.

    vocable evaluate build consistency dev/manifest.jsonl pairs/consistency --tasks speaker,room
    """
    from vocable.audio.manifest import read_manifest
    from vocable.testsets import consistency

    if config.noise is not None:
        cutting = replace(cutting, noise_files=tuple(_noise_files(config.noise)))
    card = {"name": "consistency of recordings", "recordings": config.manifest.name, "seed": cutting.seed}
    utterances = read_manifest(config.manifest, config.strict)
    pair_set = consistency.build_consistency(
        utterances, config.out, cutting, card, config.num_processes, progress="Cutting recordings"
    )
    _print_set(pair_set, config.out)


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(BuildConfig):
    """Labelled sentences to speak."""

    num_train: int = 600
    """Sentences to learn from."""
    num_dev: int = 100
    """Sentences to choose the best epoch by."""
    num_test: int = 200
    """Sentences to test on; half of them have names, and half of them feelings, that train never has."""
    voices: tuple[str, ...] | None = None
    """Voices of train and dev. Without them, four Kokoro voices."""
    test_voices: tuple[str, ...] | None = None
    """Voices of test. Without them, two other Kokoro voices."""
    seed: int = 0
    """Seed of the sentences."""


def build_labelled(config: LabelledConfig, speech: SpeechConfig) -> None:
    """Make spoken English sentences with a known sentiment and known entities, for 'evaluate slue'.

    Kokoro gives exact word times; after another synthesiser, make them with 'vocable align'.

    vocable evaluate build labelled sets/labelled --num-processes 2
    """
    from vocable.errors import ConfigError
    from vocable.testsets.labelled_maker import describe, make_labelled_texts
    from vocable.testsets.labelled_speech import LabelledVoices, speak_labelled

    given = {"train": config.voices, "test": config.test_voices}
    if speech.command is not None and "{voice}" not in speech.command:
        given = dict.fromkeys(given, ("default",))
    elif speech.command is not None and None in given.values():
        raise ConfigError("The command has {voice}; name the voices to put there: --voices en-us --test-voices en-gb")
    labels = make_labelled_texts(config.num_train, config.num_dev, config.num_test, config.seed)
    card = {"name": "sentences with sentiment and entities", "texts": "templates of Vocable", "seed": config.seed}
    report = speak_labelled(
        labels,
        config.out,
        LabelledVoices(**{name: voices for name, voices in given.items() if voices is not None}),
        speech,
        {**card, **describe(labels)},
        licence="Apache-2.0",
        num_processes=config.num_processes,
        progress="Speaking",
    )
    for id, reason in list(report.failures.items())[:5]:
        print(f"Not spoken: {id}: {reason}")
    sizes = ", ".join(f"{split} {count}" for split, count in describe(report.labelled.labels)["sentences"].items())
    print(f"{report.speech_seconds / 60:.1f} min of speech; {report.num_spoken} sentences spoken now")
    print(f"{config.out}: {len(report.labelled.labels)} sentences ({sizes}), {report.num_with_words} with word times")


@dataclass(frozen=True, kw_only=True)
class PublishedConfig(StrictOption):
    """Published tables."""

    source: Path
    """Folder of slue-voxceleb_fine-tune.tsv or slue-voxpopuli_fine-tune.tsv, and of its audio."""
    out: Path
    """Folder to write."""
    undecided: Literal["neutral", "drop"] = "neutral"
    """What becomes of mixed sentiment and of disagreement: Neutral, or left out."""


def build_slue(config: PublishedConfig) -> None:
    """Make a labelled set of the published tables of SLUE-VoxCeleb (sentiment) or SLUE-VoxPopuli (entities).

    Entities in speech need word times: run 'vocable align' on the manifest that this writes.

    vocable evaluate build slue slue-voxceleb sets/voxceleb
    """
    from vocable.errors import OutputError
    from vocable.evaluation.slue.labelled_set import LABELS, write_labelled_set
    from vocable.evaluation.slue.published import read_published

    out = config.out
    if (out / LABELS).exists():
        raise OutputError(f"{out / LABELS} exists. Name a new folder.")
    labelled = read_published(config.source, config.undecided, config.strict)
    write_labelled_set(labelled, out)
    sizes = ", ".join(f"{split} {sum(x.split == split for x in labelled.labels)}" for split in ("train", "dev", "test"))
    print(f"{out}: {len(labelled.labels)} utterances ({sizes})")
    for reason, count in labelled.excluded.items():
        print(f"Left out: {count} ({reason})")


@dataclass(frozen=True, kw_only=True)
class ReadAloudConfig:
    """A text to read aloud."""

    out: Path
    """Folder to write; a run that was stopped goes on where it was."""
    text: Path | None = None
    """Text file; a line such as `# Title [valid]` starts a story. Without it, the stories that come with Vocable."""
    voices: tuple[str, ...] | None = None
    """Voices, dealt out to the stories in turn. Without them, eight Kokoro voices."""
    held_out_voices: tuple[str, ...] | None = None
    """Voices that speak only valid and test stories. Without them, four Kokoro voices, or none beside your own."""
    corpus: str | None = None
    """Name of the corpus, for the manifest. Without it, that of the text file."""
    licence: str | None = None
    """Licence of the text, for the manifest. Without it, Apache-2.0 for our own stories."""
    num_threads: int = 2
    """Processor threads for Kokoro."""


def read_aloud(config: ReadAloudConfig, stories: SpokenStoriesConfig, speaker: SynthesizerConfig) -> None:
    """Speak a text file in many voices: Opus files and a manifest with the time of every word.

    vocable stories build runs/stories
    vocable stories build runs/notes --text notes.txt --voices af_heart,am_michael
    """
    from rich.console import Console

    import vocable.quickstart
    from vocable.testsets.command_tts import CommandSynthesizer
    from vocable.testsets.kokoro_tts import Kokoro
    from vocable.testsets.spoken_stories import build_spoken_stories, plan_recordings, read_stories

    if config.voices is not None and config.held_out_voices is None:
        stories = replace(stories, held_out_voices=())
    if config.text is not None:
        stories = replace(stories, corpus=config.corpus or config.text.stem, licence=config.licence)
    found = read_stories(config.text or Path(vocable.quickstart.__file__).parent / "speech" / "stories.txt")
    if speaker.command is not None:
        synthesizer = CommandSynthesizer(speaker.command, speaker.timeout_seconds)
    else:
        synthesizer = Kokoro(speed=speaker.speed, num_threads=config.num_threads)
    console = Console(soft_wrap=True)
    total = len(plan_recordings(found, stories))
    with console.status(f"{total} recordings") as status:
        utterances = build_spoken_stories(found, config.out, synthesizer, stories, progress=status.update)
    size = sum(path.stat().st_size for path in config.out.rglob("*.opus"))
    for split in dict.fromkeys(utterance.split for utterance in utterances):
        chosen = [utterance for utterance in utterances if utterance.split == split]
        minutes = sum(utterance.duration or 0.0 for utterance in chosen) / 60
        speakers = len({utterance.speaker for utterance in chosen})
        console.print(f"{split}: {len(chosen)} utterances, {minutes:.1f} min of speech, {speakers} voices")
    console.print(f"{config.out / 'manifest.jsonl'}: {len(utterances)} utterances, {size / 1e6:.1f} MB of Opus")


def _source(config: SentencesConfig | StoriesConfig) -> dict[str, Any]:
    source = "templates of Vocable" if config.texts is None else config.texts.name
    return {"source": source, "seed": config.seed}


def _speak(
    pairs: Sequence[PlannedPair],
    benchmark: str,
    config: SpokenConfig,
    speech: SpeechConfig,
    card: dict[str, Any],
    own_licence: str | None,
) -> None:
    """Deal the pairs out to voices, speak them, and say what came of it."""
    from vocable.testsets.plan import deal_voices
    from vocable.testsets.speak import speak_pairs

    licence = config.licence or own_licence
    report = speak_pairs(
        deal_voices(pairs, config.chosen_voices(speech.command), config.voices_per_item),
        config.out,
        benchmark,
        speech,
        {**card, "licence": licence},
        language=config.language,
        licence=licence,
        num_processes=config.num_processes,
        progress="Speaking",
    )
    minutes = report.speech_seconds / 60
    print(f"{report.num_segments} segments, {minutes:.1f} min of speech; {report.num_spoken} of them spoken now")
    for text, reason in list(report.failures.items())[:5]:
        print(f"Not spoken: {text}: {reason}")
    _print_set(report.pair_set, config.out)


def _print_set(pair_set, out: Path) -> None:
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
    from vocable.errors import ConfigError

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
}

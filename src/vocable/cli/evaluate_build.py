"""`vocable evaluate build ...`: pair sets of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vocable.testsets.speak import SpeechConfig


def build_words(
    out: Path,
    *,
    lexicon: Path | None = None,
    counts: Path | None = None,
    num_pairs: int = 400,
    min_count: int | None = None,
    min_phones: int = 3,
    max_phones: int = 9,
    vowels: str | None = None,
    language: str = "en",
    voices: str | None = None,
    voices_per_item: int = 1,
    command: str | None = None,
    timeout_seconds: float = 120.0,
    speed: float = 1.0,
    format: Literal["flac", "opus"] = "flac",
    licence: str | None = None,
    seed: int = 0,
    num_processes: int = 1,
) -> None:
    """Make spoken words against pseudo-words that could be words: pairs like those of sWUGGY, in any language.

    Args:
        out: Folder to write; a run that was stopped goes on where it was.
        lexicon: Lines of word<TAB>phones[<TAB>count], phones with spaces between. None: CMUdict, American English.
        counts: What to count words in, for frequency bands: a manifest (.jsonl), word<TAB>count lines (.tsv) or a text.
            The text that the language model is trained on makes "oov" mean what it says.
        num_pairs: Pairs of word and pseudo-word; each is spoken by `voices_per_item` voices.
        min_count: Rarer words are left out. None: 1 where counts are known, which leaves no word out of vocabulary.
        min_phones: Of a word.
        max_phones: Of a word.
        vowels: Phones that are the core of a syllable, with spaces between, without stress. None: found by themselves
            in ARPAbet and the IPA.
        language: Of the words, for the manifest.
        voices: Voice names with commas between them. None: four Kokoro voices.
        voices_per_item: How many voices speak each pair, in turn.
        command: Another synthesiser, such as "my-tts --voice {voice} --out {wav} --phones {phones}". {text} in place of
            {phones} gives it spellings. None: Kokoro, from phones.
        timeout_seconds: How long the command may take over one segment.
        speed: Speaking rate of Kokoro.
        format: Of the files: flac or opus.
        licence: Of the lexicon, for card and manifest. None: BSD-2-Clause for CMUdict.
        seed: Of the drawing of words and pseudo-words.
        num_processes: Processes that speak at once.
    """
    from vocable.testsets.lexicon import read_counts, read_lexicon
    from vocable.testsets.words import WordPairsConfig, plan_word_pairs

    speech = _speech(out, command, speed, format, timeout_seconds)
    given = read_counts(counts) if counts is not None else None
    loaded = read_lexicon(lexicon, given, vowels.split() if vowels is not None else None)
    if min_count is None:
        min_count = 1 if loaded.counts else 0
    config = WordPairsConfig(
        num_pairs=num_pairs, min_phones=min_phones, max_phones=max_phones, min_count=min_count, seed=seed
    )
    planned = plan_word_pairs(loaded, config)
    print(f"{len(planned.pairs)} words of {loaded.name}; mean difference of log p: "
          f"{planned.matching['mean_abs_delta_log_p']} nats")  # fmt: skip
    if licence is None and lexicon is None:
        licence = "BSD-2-Clause"
    card = {
        "name": f"words against pseudo-words, {loaded.name}",
        "texts": _settings(config, lexicon=loaded.name, counts=None if counts is None else counts.name),
        "matching": planned.matching,
        "num_bad_lexicon_lines": loaded.num_bad_lines,
    }
    _speak(planned.pairs, out, "swuggy", speech, card, voices, voices_per_item, command, language, licence,
           num_processes)  # fmt: skip


def build_sentences(
    out: Path,
    *,
    texts: Path | None = None,
    num_pairs: int = 400,
    max_words: int | None = None,
    language: str = "en",
    voices: str | None = None,
    voices_per_item: int = 1,
    command: str | None = None,
    timeout_seconds: float = 120.0,
    speed: float = 1.0,
    format: Literal["flac", "opus"] = "flac",
    licence: str | None = None,
    seed: int = 0,
    num_processes: int = 1,
    strict: bool = False,
) -> None:
    """Make spoken sentences, right against wrong: pairs like those of sBLIMP.

    Args:
        out: Folder to write; a run that was stopped goes on where it was.
        texts: BLiMP's .jsonl file or folder, or a .tsv of good<TAB>bad[<TAB>phenomenon] in any language. None: English
            sentences made from Vocable's own templates, on 12 phenomena.
        num_pairs: Pairs, drawn evenly from the phenomena; each is spoken by `voices_per_item` voices.
        max_words: Pairs with a longer sentence are left out.
        language: Of the sentences, for the manifest.
        voices: Voice names with commas between them. None: four Kokoro voices.
        voices_per_item: How many voices speak each pair, in turn.
        command: Another synthesiser, such as "espeak-ng -v {voice} -w {wav} {text}". None: Kokoro.
        timeout_seconds: How long the command may take over one segment.
        speed: Speaking rate of Kokoro.
        format: Of the files: flac or opus.
        licence: Of the sentences, for card and manifest. None: Apache-2.0 for our own.
        seed: Of the draw.
        num_processes: Processes that speak at once.
        strict: Stop at a bad line instead of leaving it out.
    """
    from vocable.testsets.sentence_maker import make_sentence_pairs
    from vocable.testsets.sentences import plan_sentence_pairs, read_sentence_pairs

    speech = _speech(out, command, speed, format, timeout_seconds)
    found, num_bad = read_sentence_pairs(texts, strict) if texts is not None else (make_sentence_pairs(None, seed), 0)
    planned = plan_sentence_pairs(found, num_pairs, seed, max_words)
    card = {
        "name": "right against wrong sentences",
        "texts": {"source": "templates of Vocable" if texts is None else texts.name, "seed": seed},
        "num_bad_lines": num_bad,
    }
    if licence is None and texts is None:
        licence = "Apache-2.0"
    _speak(planned, out, "sblimp", speech, card, voices, voices_per_item, command, language, licence,
           num_processes)  # fmt: skip


def build_stories(
    out: Path,
    *,
    texts: Path | None = None,
    recordings: Path | None = None,
    versions: str | None = None,
    num_stories: int | None = None,
    context_utterances: int = 2,
    language: str = "en",
    voices: str | None = None,
    voices_per_item: int = 1,
    command: str | None = None,
    timeout_seconds: float = 120.0,
    speed: float = 1.0,
    format: Literal["flac", "opus"] = "flac",
    licence: str | None = None,
    seed: int = 0,
    num_processes: int = 1,
    strict: bool = False,
) -> None:
    """Make spoken stories with a right and a wrong ending: pairs like those of StoryCloze.

    Args:
        out: Folder to write; a run that was stopped goes on where it was.
        texts: Stories in the layout of StoryCloze or ROCStories (.csv, .tsv), or lines of {"context", "right", "wrong"}
            (.jsonl). None: stories made from Vocable's own templates.
        recordings: A manifest of connected speech, to cut topic pairs from instead of speaking texts.
        versions: spoken (the wrong ending fits the topic), topic (it comes from another story), or both with a comma
            between. None: both, or topic where stories have no wrong ending.
        num_stories: How many stories; one pair each and version. None: 400 of our own, or all of a file or manifest.
        context_utterances: Length of the context cut from `recordings`.
        language: Of the stories, for the manifest.
        voices: Voice names with commas between them. None: four Kokoro voices.
        voices_per_item: How many voices speak each pair, in turn.
        command: Another synthesiser, such as "espeak-ng -v {voice} -w {wav} {text}". None: Kokoro.
        timeout_seconds: How long the command may take over one segment.
        speed: Speaking rate of Kokoro.
        format: Of the files: flac or opus.
        licence: Of the stories, for card and manifest. None: Apache-2.0 for our own.
        seed: Of the draw, and of the endings that stories lend each other.
        num_processes: Processes that speak at once.
        strict: Stop at a bad line instead of leaving it out.
    """
    from vocable.testsets.stories import plan_story_pairs, read_story_file, stories_left_out
    from vocable.testsets.story_maker import make_stories

    if recordings is not None:
        _refuse_with_recordings(texts=texts, versions=None if versions == "topic" else versions, voices=voices,
                                command=command)  # fmt: skip
        _cut_recordings(recordings, out, num_stories, context_utterances, seed, strict)
        return
    speech = _speech(out, command, speed, format, timeout_seconds)
    if texts is None:
        stories, bad_lines = make_stories(400 if num_stories is None else num_stories, seed), {}
    else:
        stories, bad_lines = read_story_file(texts, strict)
    both = ("spoken", "topic") if any(story.wrong for story in stories) else ("topic",)
    chosen: Any = tuple(name.strip() for name in versions.split(",")) if versions is not None else both
    planned = plan_story_pairs(stories, chosen, num_stories, len(_voices(voices, command)), seed)
    left_out = bad_lines | stories_left_out(stories, planned, chosen, num_stories)
    card = {
        "name": "right against wrong endings of stories",
        "texts": {"source": "templates of Vocable" if texts is None else texts.name, "seed": seed},
        "stories": {"found": len(stories) + sum(bad_lines.values()), "left_out": left_out},
    }
    for reason, count in left_out.items():
        print(f"Stories left out: {count} ({reason})")
    if licence is None and texts is None:
        licence = "Apache-2.0"
    _speak(planned, out, "storycloze", speech, card, voices, voices_per_item, command, language, licence,
           num_processes)  # fmt: skip


def build_consistency_command(
    manifest: Path,
    out: Path,
    *,
    tasks: str = "speaker,room,noise,loudness",
    pairs_per_task: int = 100,
    half_seconds: float = 2.5,
    min_half_seconds: float = 1.0,
    snr_db: float = 5.0,
    noise: Path | None = None,
    gender_key: str = "gender",
    sample_rate: int = 16_000,
    seed: int = 0,
    num_processes: int = 1,
    strict: bool = False,
) -> None:
    """Cut recordings in which voice, room, noise or loudness changes half way: pairs like those of SALMon.

    Args:
        manifest: Recordings (JSONL) with durations; with speakers, and genders, for the tasks that ask for them.
        out: Folder to write; a run that was stopped goes on where it was.
        tasks: Among speaker, gender, room, noise and loudness, with commas between.
        pairs_per_task: An even number: pairs come in twos that share their second halves.
        half_seconds: Longest half.
        min_half_seconds: Recordings of less than two of these are left out.
        snr_db: Of speech to background noise.
        noise: Folder of recorded noise, two files at least. None: generated noise of four colours.
        gender_key: The key of the manifest that tells the gender.
        sample_rate: Of the files, Hz.
        seed: Of all draws.
        num_processes: Processes that work at once.
        strict: Stop at a bad line of the manifest instead of leaving it out.
    """
    from vocable.audio.manifest import read_manifest
    from vocable.testsets.consistency import ConsistencyConfig, build_consistency

    config = ConsistencyConfig(
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        pairs_per_task=pairs_per_task,
        half_seconds=half_seconds,
        min_half_seconds=min_half_seconds,
        snr_db=snr_db,
        noise_files=tuple(_noise_files(noise)) if noise is not None else (),
        gender_key=gender_key,
        sample_rate=sample_rate,
        seed=seed,
    )
    card = {"name": "consistency of recordings", "recordings": manifest.name, "seed": seed}
    pair_set = build_consistency(
        read_manifest(manifest, strict), out, config, card, num_processes, progress="Cutting recordings"
    )
    _print_set(pair_set, out)


def _refuse_with_recordings(**given: Any) -> None:
    from vocable.errors import ConfigError

    named = ", ".join(f"--{name}" for name, value in given.items() if value is not None)
    if named:
        raise ConfigError(f"Topic pairs are cut from --recordings as they are: leave out {named}.")


def _cut_recordings(
    recordings: Path, out: Path, num_pairs: int | None, context_utterances: int, seed: int, strict: bool
) -> None:
    import dataclasses

    from vocable.audio.manifest import read_manifest
    from vocable.evaluation.pairs import write_pair_set
    from vocable.testsets.recorded_stories import RecordedStoriesConfig, cut_stories
    from vocable.testsets.speak import check_folder

    check_folder(out)
    config = RecordedStoriesConfig(num_pairs=num_pairs, context_utterances=context_utterances, seed=seed)
    pair_set = cut_stories(read_manifest(recordings, strict), config)
    card = {"name": "topic pairs cut from recordings", "recordings": recordings.name, "texts": _settings(config)}
    pair_set = dataclasses.replace(pair_set, card=card)
    write_pair_set(pair_set, out)
    _print_set(pair_set, out)


def _speak(
    pairs, out: Path, benchmark: str, speech, card: dict[str, Any], voices: str | None, voices_per_item: int,
    command: str | None, language: str, licence: str | None, num_processes: int,
) -> None:  # fmt: skip
    from vocable.testsets.plan import deal_voices
    from vocable.testsets.speak import speak_pairs

    dealt = deal_voices(pairs, _voices(voices, command), voices_per_item)
    report = speak_pairs(
        dealt,
        out,
        benchmark,
        speech,
        {**card, "licence": licence},
        language=language,
        licence=licence,
        num_processes=num_processes,
        progress="Speaking",
    )
    minutes = report.speech_seconds / 60
    print(f"{report.num_segments} segments, {minutes:.1f} min of speech; {report.num_spoken} of them spoken now")
    for said, reason in list(report.failures.items())[:5]:
        print(f"Not spoken: {said}: {reason}")
    _print_set(report.pair_set, out)


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


def _voices(voices: str | None, command: str | None) -> tuple[str, ...]:
    from vocable.errors import ConfigError
    from vocable.testsets.speak import DEFAULT_VOICES

    if voices is not None:
        return tuple(name.strip() for name in voices.split(",") if name.strip())
    if command is not None and "{voice}" in command:
        raise ConfigError("The command has {voice}; name the voices to put there: --voices en-us,en-gb")
    return DEFAULT_VOICES if command is None else ("default",)


def _speech(
    out: Path, command: str | None, speed: float, format: Literal["flac", "opus"], timeout_seconds: float
) -> SpeechConfig:
    """The settings of the speech, after a look at the folder: planning words takes a while."""
    from vocable.testsets.speak import SpeechConfig, check_folder

    check_folder(out)
    return SpeechConfig(command=command, timeout_seconds=timeout_seconds, speed=speed, format=format)


def _settings(config, **more: Any) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(config), **more}


def _noise_files(folder: Path) -> list[str]:
    from vocable.errors import ConfigError

    files = [str(path) for path in sorted(Path(folder).glob("*")) if path.suffix.lower() in (".wav", ".flac", ".ogg")]
    if len(files) < 2:
        raise ConfigError(f"{folder}: {len(files)} noise files (.wav, .flac, .ogg); a change of noise needs two.")
    return files


COMMANDS = {
    "evaluate build words": build_words,
    "evaluate build sentences": build_sentences,
    "evaluate build stories": build_stories,
    "evaluate build consistency": build_consistency_command,
}

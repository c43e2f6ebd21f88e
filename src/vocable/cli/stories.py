"""Speak stories: `vocable stories build`."""

from __future__ import annotations

from pathlib import Path


def build(
    out: Path,
    text: Path | None = None,
    voices: str | None = None,
    held_out_voices: str | None = None,
    command: str | None = None,
    timeout_seconds: float = 120.0,
    speed: float = 1.0,
    seed: int = 0,
    bits_per_second: int = 28_000,
    num_threads: int = 2,
) -> None:
    """Speak a text file in many voices: Opus files and a manifest with the time of every word.

    Args:
        out: Folder to write; a run that was stopped goes on where it was.
        text: Text file; a line such as `# Title [valid]` starts a story. None: the stories that come with Vocable.
        voices: Voice names with commas between them, dealt out to the stories in turn. None: eight Kokoro voices.
        held_out_voices: Voices that speak only valid and test stories. None: four Kokoro voices, or no voice when
            `voices` is given.
        command: Another synthesiser, such as "espeak-ng -v {voice} -w {wav} {text}". None: Kokoro.
        timeout_seconds: How long the command may take over one sentence.
        speed: Speaking rate of Kokoro; 1 is normal, 2 is twice as fast.
        seed: Of the pauses between utterances.
        bits_per_second: Of the Opus files.
        num_threads: Processor threads for Kokoro.
    """
    from rich.console import Console

    from vocable.testsets.command_tts import CommandSynthesizer
    from vocable.testsets.kokoro_tts import Kokoro
    from vocable.testsets.spoken_stories import SpokenStoriesConfig, build_spoken_stories, plan_recordings, read_stories

    settings: dict = {"seed": seed, "bits_per_second": bits_per_second}
    if voices is not None:
        settings |= {"voices": _names(voices), "held_out_voices": _names(held_out_voices or "")}
    elif held_out_voices is not None:
        settings["held_out_voices"] = _names(held_out_voices)
    if text is not None:
        settings |= {"corpus": Path(text).stem, "licence": None}
    config = SpokenStoriesConfig(**settings)
    stories = read_stories(text if text is not None else _own_stories())
    synthesizer = (
        CommandSynthesizer(command, timeout_seconds) if command else Kokoro(speed=speed, num_threads=num_threads)
    )
    console = Console(soft_wrap=True)
    total = len(plan_recordings(stories, config))
    with console.status(f"{total} recordings") as status:
        utterances = build_spoken_stories(stories, out, synthesizer, config, progress=status.update)
    size = sum(path.stat().st_size for path in Path(out).rglob("*.opus"))
    for split in dict.fromkeys(utterance.split for utterance in utterances):
        chosen = [utterance for utterance in utterances if utterance.split == split]
        minutes = sum(utterance.duration or 0.0 for utterance in chosen) / 60
        speakers = len({utterance.speaker for utterance in chosen})
        console.print(f"{split}: {len(chosen)} utterances, {minutes:.1f} min of speech, {speakers} voices")
    console.print(f"{Path(out) / 'manifest.jsonl'}: {len(utterances)} utterances, {size / 1e6:.1f} MB of Opus")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _own_stories() -> Path:
    import vocable.quickstart

    return Path(vocable.quickstart.__file__).parent / "speech" / "stories.txt"


COMMANDS = {"stories build": build}

"""Commands for language models: train one by a recipe, continue a prompt with it; and the quickstart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import vocable
from vocable.devices import best_device
from vocable.errors import ConfigError

if TYPE_CHECKING:
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.model import NewPiece
    from vocable.lm.spoken import Reply, SpokenLM
    from vocable.types import SpeechTokens


def generate(
    model: Path,
    audio: Path | None = None,
    text: str | None = None,
    to: Literal["speech", "text", "both"] | None = None,
    task: Literal["continue", "transcribe", "speak"] = "continue",
    tokenizer: Path | None = None,
    vocoder: Path | None = None,
    out: Path = Path("continuation.wav"),
    transcriber: str = "openai/whisper-base",
    prompt_seconds: float | None = 3.0,
    max_text_tokens: int = 128,
    num_samples: int = 1,
    voice: str | Path | None = None,
    include_prompt: bool = True,
    device: str | None = None,
    overrides: Annotated[tuple[str, ...], GenerationConfig] = (),
) -> None:
    """Continue a prompt with a language model: recording -> units -> new units -> waveform.

    A model of speech and text (recipes/sutlm) also reads and writes text, and goes from one to the other:

    vocable generate --model RUN --audio a.wav                      # goes on speaking
    vocable generate --model RUN --audio a.wav --to text            # goes on in writing
    vocable generate --model RUN --text "The cat" --to speech       # goes on speaking
    vocable generate --model RUN --text "The cat" --to both         # switches where it likes
    vocable generate --model RUN --audio a.wav --task transcribe    # writes what was said
    vocable generate --model RUN --text "The cat" --task speak      # says what is written

    A text-aligned model (recipes/taste) speaks what it writes. Its text is printed as it is drawn, and the file grows
    sentence by sentence. A recording needs its words, from --text or from a recogniser; an empty text is no prompt:

    vocable generate --model RUN --audio a.wav word_temperature=0.5
    vocable generate --model RUN --text "" --to speech

    To go on in the other form and to say the same there are asked for by the same symbol; which one the model does is
    decided by the rows it was trained on (docs/how-to/generate-across-modalities.md).

    To transcribe takes the likeliest token (temperature=0) if no temperature is set.

    Args:
        model: folder of a language model, or of its training run.
        audio: a recording as the prompt.
        text: a text as the prompt; one of the two is needed. With a recording and a text-aligned model: its words.
        to: form of what is generated: speech, text, or both as the model likes. Without it, the form of the prompt.
        task: go on (continue), write what was said (transcribe), or say what is written (speak).
        tokenizer: folder of the tokenizer. Without it, the one beside the model that it was trained with.
        vocoder: folder of a vocoder for its units. Without it, the small one that comes with Vocable, where it fits.
        out: file to write; text goes beside it, as .txt. With several samples or segments of speech, numbers are added
            to the name.
        transcriber: recogniser that writes down the recording for a text-aligned model, where --text does not.
        prompt_seconds: longest prompt; the rest of the recording is not read. null takes all of it, as transcribe does.
        max_text_tokens: longest text, in tokens of the model; symbols between segments count.
        num_samples: continuations to draw, each with its own seed.
        voice: a voice of the vocoder, or a recording of one to copy. Without it, its first.
        include_prompt: put the resynthesised prompt before the continuation, where both are speech alone.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
        overrides: settings of the sampling.
    """
    from vocable.audio.io import audio_info, read_audio
    from vocable.config import load_config
    from vocable.recognition.transcribe import load_transcriber
    from vocable.training.logs import quiet_transformers
    from vocable.types import Clip

    if audio is None and text is None:
        raise ConfigError("Exactly one prompt is needed: --audio FILE or --text TEXT.")
    likeliest = ("temperature=0",) if task == "transcribe" else ()
    sampling = load_config(vocable.GenerationConfig, None, (*likeliest, *overrides))
    quiet_transformers()
    is_text = task == "transcribe" or (task == "continue" and audio is None)
    target = to or ("text" if is_text else "speech")
    lm = vocable.load_lm(model, tokenizer=tokenizer, device=best_device(device))
    if audio is None:
        prompt = vocable.Segment(text=text)
    else:
        needs_text = lm.tokenizer.needs_text
        if text is not None and not needs_text:
            raise ConfigError("Exactly one prompt is needed: --audio FILE or --text TEXT.")
        length = None if task == "transcribe" or text is not None else prompt_seconds
        if length is not None and length >= audio_info(audio).duration:
            length = None
        waveform = read_audio(audio, lm.tokenizer.sample_rate, duration=length).waveform
        if needs_text and text is None:
            text = load_transcriber(transcriber, device=best_device(device)).transcribe([waveform])[0]
        prompt = vocable.Segment(tokens=lm.tokenizer.encode([Clip(waveform, text)])[0])
    repeats_prompt = include_prompt and audio is not None and target == "speech" and task == "continue"
    if lm.streams and num_samples == 1:
        if target != "text":
            lm.tokenizer.synthesizer = vocable.load_synthesizer(vocoder, lm.tokenizer, best_device(device))
        pieces = lm.stream([prompt], sampling, to=target, task=task, max_text_tokens=max_text_tokens)
        _write_stream(lm, pieces, out, voice, prompt.tokens if repeats_prompt else None)
        return
    replies = lm.continue_([[prompt]] * num_samples, sampling, to=target, task=task, max_text_tokens=max_text_tokens)
    if target != "text":
        lm.tokenizer.synthesizer = vocable.load_synthesizer(vocoder, lm.tokenizer, best_device(device))
    for index, reply in enumerate(replies):
        path = out if num_samples == 1 else _numbered(out, str(index + 1))
        _write(lm, reply, path, voice, prompt.tokens if repeats_prompt else None)


def _write(lm: SpokenLM, reply: Reply, out: Path, voice: str | Path | None, spoken_prompt: SpeechTokens | None) -> None:
    """Write the segments of a reply; print its text, and the row as a table where it is mixed."""
    import torch

    from vocable.files import write_text
    from vocable.sequences.picture import print_sequence

    why = f"stopped: {reply.stopped}"
    speech = [segment.tokens for segment in reply.segments if segment.tokens is not None]
    for place, tokens in enumerate(speech):
        path = _numbered(out, f"segment{place + 1}") if len(speech) > 1 else out
        whole = tokens if spoken_prompt is None else lm.join(spoken_prompt, tokens)
        vocable.write_audio(path, lm.tokenizer.decode([whole], voice=voice)[0].cpu(), lm.tokenizer.decode_rate)
        length = f"{reply.seconds:.1f} s of new speech, " if len(speech) == 1 else ""
        size = f"{tokens.num_frames} units" if tokens.words is None else f"{len(tokens.words)} words"
        print(f"{path}: {length}{size} ({why})")
    if reply.text:
        path = out.with_suffix(".txt")
        write_text(reply.text.strip() + "\n", path)
        print(f"{path}: {reply.text.strip()} ({why})")
    if not reply.segments:
        print(f"The model ended at once; nothing was generated ({why}).")
    if len(reply.segments) > 1:
        row = lm.revert(torch.cat([reply.prompt_ids, reply.token_ids]))
        vocabulary: Any = lm.card.vocabulary
        print_sequence(row, vocabulary, None, "prompt and continuation")


def _write_stream(
    lm: SpokenLM, pieces: Iterator[NewPiece], out: Path, voice: str | Path | None, prompt: SpeechTokens | None
) -> None:
    """Print text as it comes, and write the sound so far after each sentence."""
    import torch

    from vocable.files import write_text

    def speak(tokens: SpeechTokens) -> torch.Tensor:
        return lm.tokenizer.decode([tokens], voice=voice)[0].cpu()

    started, first, text, num_words = time.perf_counter(), None, "", 0
    sounds: list[torch.Tensor] = []
    for piece in pieces:
        text += piece.text
        print(piece.text, end="", flush=True)
        if piece.tokens is None:
            continue
        sounds += [speak(prompt)] if prompt is not None and not sounds else []
        sounds.append(speak(piece.tokens))
        num_words += piece.tokens.num_positions
        vocable.write_audio(out, torch.cat(sounds), lm.tokenizer.decode_rate)
        first = time.perf_counter() - started if first is None else first
    print()
    write_text(text.strip() + "\n", out.with_suffix(".txt"))
    if first is None:
        print(f"{out.with_suffix('.txt')}: {len(text.split())} words")
    else:
        print(f"{out}: {num_words} words, the first sentence after {first:.1f} s; text beside it, as .txt")


def _numbered(path: Path, number: str) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


COMMANDS = {
    "train RECIPE": "vocable.systems:train",
    "quickstart": "vocable.quickstart.command:quickstart",
    "generate": generate,
}

"""Commands for language models: train one by a recipe, continue a prompt with it; and the quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import vocable
from vocable.devices import best_device
from vocable.errors import ConfigError

if TYPE_CHECKING:
    from vocable.lm.generation import GenerationConfig
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

    To go on in the other form and to say the same there are asked for by the same symbol; which one the model does is
    decided by the rows it was trained on (docs/how-to/generate-across-modalities.md).

    To transcribe takes the likeliest token (temperature=0) if no temperature is set.

    Args:
        model: folder of a language model, or of its training run.
        audio: a recording as the prompt.
        text: a text as the prompt; one of the two is needed.
        to: form of what is generated: speech, text, or both as the model likes. Without it, the form of the prompt.
        task: go on (continue), write what was said (transcribe), or say what is written (speak).
        tokenizer: folder of the tokenizer. Without it, the one beside the model that it was trained with.
        vocoder: folder of a vocoder for its units. Without it, the small one that comes with Vocable, where it fits.
        out: file to write; text goes beside it, as .txt. With several samples or segments of speech, numbers are added
            to the name.
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
    from vocable.training.logs import quiet_transformers

    if (audio is None) == (text is None):
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
        length = None if task == "transcribe" else prompt_seconds
        if length is not None and length >= audio_info(audio).duration:
            length = None
        waveform = read_audio(audio, lm.tokenizer.sample_rate, duration=length).waveform
        prompt = vocable.Segment(tokens=lm.tokenizer.encode([waveform])[0])
    replies = lm.continue_([[prompt]] * num_samples, sampling, to=target, task=task, max_text_tokens=max_text_tokens)
    if target != "text":
        lm.tokenizer.synthesizer = vocable.load_synthesizer(vocoder, lm.tokenizer, best_device(device))
    repeats_prompt = include_prompt and text is None and target == "speech" and task == "continue"
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
        print(f"{path}: {length}{tokens.num_frames} units ({why})")
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


def _numbered(path: Path, number: str) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


COMMANDS = {
    "train RECIPE": "vocable.systems:train",
    "quickstart": "vocable.quickstart.command:quickstart",
    "generate": generate,
}

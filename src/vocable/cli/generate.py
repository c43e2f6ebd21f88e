"""`vocable generate`: continue a recording or a text, or say it in the other form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from vocable.lm.spoken import Reply, SpokenLM
    from vocable.types import SpeechTokens


def generate(
    *,
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
    voice: str | None = None,
    include_prompt: bool = True,
    device: str | None = None,
    overrides: tuple[str, ...] = (),
) -> None:
    """Continue a prompt with a language model: recording -> units -> new units -> waveform.

    A model of speech and text (recipes/sutlm) also reads and writes text, and goes from one to the other:

      vocable generate --model RUN --audio a.wav                      goes on speaking
      vocable generate --model RUN --audio a.wav --to text            goes on in writing
      vocable generate --model RUN --text "The cat" --to speech       goes on speaking
      vocable generate --model RUN --text "The cat" --to both         switches where it likes
      vocable generate --model RUN --audio a.wav --task transcribe    writes what was said
      vocable generate --model RUN --text "The cat" --task speak      says what is written

    To go on in the other form and to say the same there are asked for by the same symbol; which one the model does is
    decided by the rows it was trained on (docs/how-to/generate-across-modalities.md).

    Sampling is set behind the command, for example: temperature=0.8 top_k=50 top_p=0.95 repetition_penalty=1.1
    min_seconds=2 max_seconds=10 loop_repeats=4 max_silence_seconds=2 guard=resample seed=0. To transcribe takes the
    likeliest token (temperature=0) if no temperature is set.

    Args:
        model: Folder of a language model, or of its training run.
        audio: A recording as the prompt.
        text: A text as the prompt; one of the two is needed.
        to: What to generate: speech, text, or both as the model likes. Default: the form of the prompt.
        task: Go on (continue), write what was said (transcribe), or say what is written (speak).
        tokenizer: Folder of the tokenizer; without it, the one beside the model that it was trained with.
        vocoder: Folder of a vocoder for its units. Default: the small one that comes with Vocable, where it fits.
        out: The file to write; text goes beside it, as .txt. With several samples or segments of speech, numbers are
            added to the name.
        prompt_seconds: How much of the recording is the prompt, at most; null takes all of it, as transcribe does.
        max_text_tokens: Longest text, in tokens of the model; symbols between segments count.
        num_samples: Continuations to draw, each with its own seed.
        voice: A voice of the vocoder. Default: its first.
        include_prompt: Put the resynthesised prompt before the continuation, where both are speech alone.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
    """
    from vocable.audio.io import audio_info, read_audio
    from vocable.config import load_config
    from vocable.devices import best_device
    from vocable.errors import ConfigError
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.spoken import Segment, load_lm
    from vocable.synthesis.opening import load_synthesizer
    from vocable.training.logs import quiet_transformers

    if (audio is None) == (text is None):
        raise ConfigError("Exactly one prompt is needed: --audio FILE or --text TEXT.")
    likeliest = ("temperature=0",) if task == "transcribe" else ()
    config = load_config(GenerationConfig, None, (*likeliest, *overrides))
    target = to or _default_target(task, text)
    quiet_transformers()
    device = best_device(device)
    lm = load_lm(model, tokenizer=tokenizer, device=device)
    if audio is None:
        prompt = Segment(text=text)
    else:
        length = None if task == "transcribe" or prompt_seconds is None else prompt_seconds
        if length is not None and length >= audio_info(audio).duration:
            length = None
        waveform = read_audio(audio, lm.tokenizer.sample_rate, duration=length).waveform
        prompt = Segment(tokens=lm.tokenizer.encode([waveform])[0])
    replies = lm.continue_([[prompt]] * num_samples, config, to=target, task=task, max_text_tokens=max_text_tokens)
    if target != "text":
        lm.tokenizer.synthesizer = load_synthesizer(vocoder, lm.tokenizer, device)
    repeats_prompt = include_prompt and text is None and target == "speech" and task == "continue"
    writer = _Writer(lm, out, voice, num_samples, prompt.tokens if repeats_prompt else None)
    for index, reply in enumerate(replies):
        writer.write(reply, index)


def _default_target(task: str, text: str | None) -> Literal["speech", "text"]:
    if task == "continue":
        return "speech" if text is None else "text"
    return "text" if task == "transcribe" else "speech"


class _Writer(NamedTuple):
    """Writes replies as files, and says what is in them."""

    lm: SpokenLM
    out: Path
    voice: str | None
    num_samples: int
    spoken_prompt: SpeechTokens | None
    """Put before new speech."""

    def write(self, reply: Reply, index: int) -> None:
        """Write the segments of a reply; print its text, and the row as a table where it is mixed."""
        import torch

        from vocable.cli.showing import print_sequence

        why = f"stopped: {reply.stopped}"
        speech = [segment.tokens for segment in reply.segments if segment.tokens is not None]
        for place, tokens in enumerate(speech):
            path = self._path(index, place if len(speech) > 1 else None)
            self._speak(tokens if self.spoken_prompt is None else self.lm.join(self.spoken_prompt, tokens), path)
            length = f"{reply.seconds:.1f} s of new speech, " if len(speech) == 1 else ""
            print(f"{path}: {length}{tokens.num_frames} units ({why})")
        if reply.text:
            path = self._path(index, suffix=".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(reply.text.strip() + "\n", encoding="utf-8")
            print(f"{path}: {reply.text.strip()} ({why})")
        if not reply.segments:
            print(f"The model ended at once; nothing was generated ({why}).")
        if len(reply.segments) > 1:
            whole = self.lm.revert(torch.cat([reply.prompt_ids, reply.token_ids]))
            vocabulary: Any = self.lm.card.vocabulary
            print_sequence(whole, vocabulary, None, "prompt and continuation")

    def _path(self, index: int, segment: int | None = None, suffix: str | None = None) -> Path:
        """The file of a sample, and of one of its segments."""
        numbers = [] if self.num_samples == 1 else [str(index + 1)]
        numbers += [] if segment is None else [f"segment{segment + 1}"]
        return self.out.with_name("-".join([self.out.stem, *numbers]) + (suffix or self.out.suffix))

    def _speak(self, tokens: SpeechTokens, path: Path) -> None:
        from vocable.audio.io import write_audio

        (speech,) = self.lm.tokenizer.decode([tokens], voice=self.voice)
        write_audio(path, speech.cpu(), self.lm.tokenizer.decode_rate)


COMMANDS = {"generate": generate}

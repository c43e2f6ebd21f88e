"""`vocable generate`: continue a recording or a text, or say it in the other form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from vocable.cli.options import DeviceOption

if TYPE_CHECKING:
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.spoken import Reply, SpokenLM
    from vocable.types import SpeechTokens


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(DeviceOption):
    """A model, a prompt, and the form of what comes after it."""

    model: Path
    """Folder of a language model, or of its training run."""
    audio: Path | None = None
    """A recording as the prompt."""
    text: str | None = None
    """A text as the prompt; one of the two is needed."""
    to: Literal["speech", "text", "both"] | None = None
    """Form of what is generated: speech, text, or both as the model likes. Without it, the form of the prompt."""
    task: Literal["continue", "transcribe", "speak"] = "continue"
    """Go on (continue), write what was said (transcribe), or say what is written (speak)."""
    tokenizer: Path | None = None
    """Folder of the tokenizer. Without it, the one beside the model that it was trained with."""
    vocoder: Path | None = None
    """Folder of a vocoder for its units. Without it, the small one that comes with Vocable, where it fits."""
    out: Path = Path("continuation.wav")
    """File to write; text goes beside it, as .txt. With several samples or segments of speech, numbers are added to the
    name."""
    prompt_seconds: float | None = 3.0
    """Longest prompt; the rest of the recording is not read. null takes all of it, as transcribe does."""
    max_text_tokens: int = 128
    """Longest text, in tokens of the model; symbols between segments count."""
    num_samples: int = 1
    """Continuations to draw, each with its own seed."""
    voice: str | None = None
    """A voice of the vocoder. Without it, its first."""
    include_prompt: bool = True
    """Put the resynthesised prompt before the continuation, where both are speech alone."""

    @property
    def target(self) -> Literal["speech", "text", "both"]:
        """Modality of the continuation."""
        if self.to is not None:
            return self.to
        if self.task == "continue":
            return "speech" if self.text is None else "text"
        return "text" if self.task == "transcribe" else "speech"


def generate(config: GenerateConfig, overrides: Annotated[tuple[str, ...], GenerationConfig] = ()) -> None:
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
    """
    from vocable.audio.io import audio_info, read_audio
    from vocable.config import load_config
    from vocable.devices import best_device
    from vocable.errors import ConfigError
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.spoken import Segment, load_lm
    from vocable.synthesis.opening import load_synthesizer
    from vocable.training.logs import quiet_transformers

    audio, text, task = config.audio, config.text, config.task
    if (audio is None) == (text is None):
        raise ConfigError("Exactly one prompt is needed: --audio FILE or --text TEXT.")
    likeliest = ("temperature=0",) if task == "transcribe" else ()
    sampling = load_config(GenerationConfig, None, (*likeliest, *overrides))
    quiet_transformers()
    device, target = best_device(config.device), config.target
    lm = load_lm(config.model, tokenizer=config.tokenizer, device=device)
    if audio is None:
        prompt = Segment(text=text)
    else:
        length = None if task == "transcribe" else config.prompt_seconds
        if length is not None and length >= audio_info(audio).duration:
            length = None
        waveform = read_audio(audio, lm.tokenizer.sample_rate, duration=length).waveform
        prompt = Segment(tokens=lm.tokenizer.encode([waveform])[0])
    prompts = [[prompt]] * config.num_samples
    replies = lm.continue_(prompts, sampling, to=target, task=task, max_text_tokens=config.max_text_tokens)
    if target != "text":
        lm.tokenizer.synthesizer = load_synthesizer(config.vocoder, lm.tokenizer, device)
    repeats_prompt = config.include_prompt and text is None and target == "speech" and task == "continue"
    writer = _Writer(lm, config, prompt.tokens if repeats_prompt else None)
    for index, reply in enumerate(replies):
        writer.write(reply, index)


class _Writer(NamedTuple):
    """Writes replies as files, and says what is in them."""

    lm: SpokenLM
    config: GenerateConfig
    spoken_prompt: SpeechTokens | None
    """Put before new speech."""

    def write(self, reply: Reply, index: int) -> None:
        """Write the segments of a reply; print its text, and the row as a table where it is mixed."""
        import torch

        from vocable.files import write_text
        from vocable.sequences.picture import print_sequence

        why = f"stopped: {reply.stopped}"
        speech = [segment.tokens for segment in reply.segments if segment.tokens is not None]
        for place, tokens in enumerate(speech):
            path = self._path(index, place if len(speech) > 1 else None)
            self._speak(tokens if self.spoken_prompt is None else self.lm.join(self.spoken_prompt, tokens), path)
            length = f"{reply.seconds:.1f} s of new speech, " if len(speech) == 1 else ""
            print(f"{path}: {length}{tokens.num_frames} units ({why})")
        if reply.text:
            path = self._path(index, suffix=".txt")
            write_text(reply.text.strip() + "\n", path)
            print(f"{path}: {reply.text.strip()} ({why})")
        if not reply.segments:
            print(f"The model ended at once; nothing was generated ({why}).")
        if len(reply.segments) > 1:
            whole = self.lm.revert(torch.cat([reply.prompt_ids, reply.token_ids]))
            vocabulary: Any = self.lm.card.vocabulary
            print_sequence(whole, vocabulary, None, "prompt and continuation")

    def _path(self, index: int, segment: int | None = None, suffix: str | None = None) -> Path:
        """The file of a sample, and of one of its segments."""
        numbers = [] if self.config.num_samples == 1 else [str(index + 1)]
        numbers += [] if segment is None else [f"segment{segment + 1}"]
        out = self.config.out
        return out.with_name("-".join([out.stem, *numbers]) + (suffix or out.suffix))

    def _speak(self, tokens: SpeechTokens, path: Path) -> None:
        from vocable.audio.writing import write_audio

        (speech,) = self.lm.tokenizer.decode([tokens], voice=self.config.voice)
        write_audio(path, speech.cpu(), self.lm.tokenizer.decode_rate)


COMMANDS = {"generate": generate}

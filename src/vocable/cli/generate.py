"""`vocable generate`: continue a recording or a text, or say it in the other form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from vocable.lm.checkpoint import LoadedLM
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.joint_generation import JointReply
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
    from vocable.lm.joint_generation import continue_examples
    from vocable.sequences.joint_rows import JointExample
    from vocable.sequences.vocabulary import UnitVocabulary
    from vocable.training.logs import quiet_transformers

    if (audio is None) == (text is None):
        raise ConfigError("Exactly one prompt is needed: --audio FILE or --text TEXT.")
    likeliest = ("temperature=0",) if task == "transcribe" else ()
    config = load_config(GenerationConfig, None, (*likeliest, *overrides))
    target = to or _default_target(task, text)
    quiet_transformers()
    only_speech = text is None and target == "speech" and task == "continue"
    lm, units = _load(model, tokenizer, vocoder, best_device(device), audio is not None, target != "text", only_speech)
    prompt = None
    if audio is not None:
        length = None if task == "transcribe" or prompt_seconds is None else prompt_seconds
        if length is not None and length >= audio_info(audio).duration:
            length = None
        (prompt,) = units.encode([read_audio(audio, units.sample_rate, duration=length).waveform])
    speaker = _Speaker(units, out, voice, num_samples)
    if isinstance(lm.card.vocabulary, UnitVocabulary):
        assert prompt is not None
        _continue_units(lm, prompt, config, speaker, include_prompt)
        return
    replies = continue_examples(
        lm,
        [JointExample(id=str(audio or "text"), tokens=prompt, text=text)] * num_samples,
        config,
        prompt="speech" if text is None else "text",
        to=target,
        task=task,
        max_text_tokens=max_text_tokens,
    )
    for index, reply in enumerate(replies):
        _write_reply(lm, reply, index, speaker, prompt if include_prompt and only_speech else None)


def _default_target(task: str, text: str | None) -> Literal["speech", "text"]:
    if task == "continue":
        return "speech" if text is None else "text"
    return "text" if task == "transcribe" else "speech"


def _load(
    model: Path,
    tokenizer: Path | None,
    vocoder: Path | None,
    device: str,
    listens: bool,
    speaks: bool,
    only_speech: bool,
) -> tuple[LoadedLM, Any]:
    """The language model, and its tokenizer with a vocoder as far as they are needed, fingerprints compared."""
    from vocable.evaluation.trained_lms import find_lm, load_tokenizer_of
    from vocable.lm.checkpoint import load_lm, read_card
    from vocable.synthesis.opening import load_synthesizer

    folder = find_lm(model)
    units: Any = None
    if listens or speaks:
        units = load_tokenizer_of(folder, read_card(folder), tokenizer, device)
    lm = load_lm(folder, device=device)
    if not only_speech:
        lm.joint_layout()  # says what is missing where a model reads units only
    if speaks:
        units.synthesizer = load_synthesizer(vocoder, units, device)
    return lm, units


class _Speaker(NamedTuple):
    """Turns units into files."""

    units: Any
    """The tokenizer, with its vocoder."""
    out: Path
    voice: str | None
    num_samples: int

    def path(self, index: int, segment: int | None = None, suffix: str | None = None) -> Path:
        """The file of a sample, and of one of its segments."""
        numbers = [] if self.num_samples == 1 else [str(index + 1)]
        numbers += [] if segment is None else [f"segment{segment + 1}"]
        return self.out.with_name("-".join([self.out.stem, *numbers]) + (suffix or self.out.suffix))

    def write(self, tokens: SpeechTokens, path: Path) -> None:
        """Write speech."""
        from vocable.audio.io import write_audio

        (speech,) = self.units.decode([tokens], voice=self.voice)
        write_audio(path, speech.cpu(), self.units.decode_rate)


def _continue_units(
    lm: LoadedLM, prompt: SpeechTokens, config: GenerationConfig, speaker: _Speaker, include_prompt: bool
) -> None:
    """Continue speech with a model of units."""
    from vocable.systems import twist

    for index, continuation in enumerate(twist.generate(lm, [prompt] * speaker.num_samples, config)):
        path = speaker.path(index)
        speaker.write(twist.spoken(prompt, continuation, lm.card, include_prompt), path)
        count, why = len(continuation.units), continuation.stopped
        print(f"{path}: {continuation.seconds:.1f} s of new speech, {count} units (stopped: {why})")


def _write_reply(
    lm: LoadedLM, reply: JointReply, index: int, speaker: _Speaker, spoken_prompt: SpeechTokens | None
) -> None:
    """Write the segments of a continuation as files; print its text, and the row as a table where it is mixed."""
    import torch

    from vocable.cli.showing import print_sequence
    from vocable.lm.joint_generation import speakable

    layout, (ids, continuation, sequence) = lm.joint_layout(), reply
    why = f"stopped: {continuation.stopped}"
    speech = [segment.tokens for segment in sequence.segments if segment.tokens is not None]
    for place, tokens in enumerate(speech):
        path = speaker.path(index, place if len(speech) > 1 else None)
        ready = speakable(tokens, layout)
        speaker.write(ready if spoken_prompt is None else _behind(spoken_prompt, ready, reply, lm), path)
        length = f"{continuation.seconds:.1f} s of new speech, " if len(speech) == 1 else ""
        print(f"{path}: {length}{tokens.codes.shape[1]} units ({why})")
    if sequence.text:
        path = speaker.path(index, suffix=".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sequence.text.strip() + "\n", encoding="utf-8")
        print(f"{path}: {sequence.text.strip()} ({why})")
    if not sequence.segments:
        print(f"The model ended at once; nothing was generated ({why}).")
    if len(sequence.segments) > 1:
        whole = layout.revert(torch.cat([ids, continuation.token_ids]))
        print_sequence(whole, layout.vocabulary, None, "prompt and continuation")


def _behind(prompt: SpeechTokens, new: SpeechTokens, reply: JointReply, lm: LoadedLM) -> SpeechTokens:
    """New speech behind its prompt: in rows of runs each unit with its mean duration, in rows of frames as they are."""
    import torch

    from vocable.lm.generation import Continuation
    from vocable.systems import twist
    from vocable.types import SpeechTokens

    if new.durations is None:
        made = reply.continuation
        return twist.spoken(prompt, Continuation(new.units, made.seconds, made.stopped), lm.card)
    old = torch.ones_like(prompt.units) if prompt.durations is None else prompt.durations
    codes = torch.cat([prompt.codes, new.codes.to(prompt.codes.dtype)], dim=1)
    return SpeechTokens(codes=codes, durations=torch.cat([old, new.durations.to(old.dtype)]))


COMMANDS = {"generate": generate}

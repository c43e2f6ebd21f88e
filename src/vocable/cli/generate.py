"""`vocable generate`: continue a recording."""

from pathlib import Path


def generate(
    lm: Path,
    audio: Path,
    *,
    tokenizer: Path,
    vocoder: Path | None = None,
    out: Path = Path("continuation.wav"),
    prompt_seconds: float | None = 3.0,
    num_samples: int = 1,
    voice: str | None = None,
    include_prompt: bool = True,
    overrides: tuple[str, ...] = (),
) -> None:
    """Continue a spoken prompt: recording -> units -> language model -> new units -> waveform.

    Sampling is set behind the command, for example: temperature=0.8 top_k=50 top_p=0.95 repetition_penalty=1.1
    min_seconds=2 max_seconds=10 loop_repeats=4 max_silence_seconds=2 guard=resample seed=0.

    Args:
        lm: Folder of a language model that `vocable train` wrote.
        audio: The recording to continue.
        tokenizer: Folder of the tokenizer that the language model was trained with.
        vocoder: Folder of a vocoder for its units. Default: the small one that comes with Vocable, where it fits.
        out: The file to write; with several samples, a number is added to each name.
        prompt_seconds: How much of the recording is the prompt; null takes all of it.
        num_samples: Continuations to draw, each with its own seed.
        voice: A voice of the vocoder. Default: its first.
        include_prompt: Put the resynthesised prompt before the continuation.
    """
    from vocable.audio.io import read_audio, write_audio
    from vocable.config import load_config
    from vocable.lm.checkpoint import load_lm
    from vocable.lm.generation import GenerationConfig
    from vocable.quickstart.vocoder import vocoder_for
    from vocable.systems import twist
    from vocable.tokens.tokenizer import load_tokenizer
    from vocable.training.logs import quiet_transformers

    config = load_config(GenerationConfig, None, overrides)
    quiet_transformers()
    units = load_tokenizer(tokenizer)
    model = load_lm(lm, tokenizer=units)
    units.vocoder = vocoder_for(units, vocoder)
    waveform = read_audio(audio, units.sample_rate, duration=prompt_seconds).waveform
    (prompt,) = units.encode([waveform])
    continuations = twist.generate(model, [prompt] * num_samples, config)
    for index, continuation in enumerate(continuations):
        path = out if num_samples == 1 else out.with_name(f"{out.stem}-{index + 1}{out.suffix}")
        (speech,) = units.decode([twist.spoken(prompt, continuation, model.card, include_prompt)], voice=voice)
        write_audio(path, speech, units.vocoder.sample_rate)
        count, why = len(continuation.units), continuation.stopped
        print(f"{path}: {continuation.seconds:.1f} s of new speech, {count} units (stopped: {why})")


COMMANDS = {"generate": generate}

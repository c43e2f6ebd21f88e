"""What language models say after the beginning of a recording, and the section on those that come with Vocable."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vocable.assets import resolving
from vocable.audio.io import read_utterance
from vocable.errors import AssetError
from vocable.lm.checkpoint import CARD_NAME
from vocable.lm.generation import GenerationConfig
from vocable.lm.ngram import NgramCounts
from vocable.lm.spoken import Segment, SpokenLM, load_lm
from vocable.quickstart.measure import beats_table, held_out_losses, loss_table
from vocable.quickstart.page import Player, Row, Section
from vocable.quickstart.run import Run, encode_mp3, name_of, read_recording
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import Utterance

NUM_PROMPTS, PROMPT_SECONDS = 3, 3.0
GENERATION = GenerationConfig(temperature=0.8, top_k=50, min_seconds=2.0, max_seconds=6.0)


def shipped_lms() -> dict[str, Path]:
    """Return the folders of the language models that come with Vocable, by name."""
    folders = {f"vocable/{name}": resolving.SHIPPED / name for name in resolving.shipped_models()}
    return {name: folder for name, folder in folders.items() if (folder / CARD_NAME).is_file()}


def continue_with_shipped(run: Run) -> Section | None:
    """Let every language model that comes with Vocable go on, if it is better than counting; None: there is none."""
    tokenizer, lms, losses, notes, rows = run.tokenizer, {}, [], [], []
    if not shipped_lms():
        return None
    with run.step("Scoring language models"):
        held_out = tokenizer.encode([read_utterance(u, tokenizer.sample_rate) for u in run.scored])
        for name, folder in shipped_lms().items():
            try:
                counts, lm = NgramCounts.load(folder), load_lm(folder, tokenizer=tokenizer)
            except AssetError as error:
                notes.append(f"{name} is left out, since it cannot be compared with tables: {error}")
                continue
            frame_rate = tokenizer.streams[0].rate or 1.0
            found = held_out_losses({name: lm}, counts, {"these recordings": held_out}, frame_rate, run.seed)
            losses += [one if one.model == name else one._replace(model=f"{one.model} of {name}") for one in found]
            if beats_table(found, name):
                lms[name] = lm
            else:
                notes.append(f"{name} is not played: a table of pairs of units predicts these recordings better.")
    if lms:
        notes.insert(0, "Each model was given three seconds as units, and drew new ones: 2 to 6 seconds of speech.")
        with run.step("Continuing prompts"):
            rows = continue_prompts(run, lms, tokenizer, run.scored[:NUM_PROMPTS])
    return Section(
        title="What the models say next", text=notes, rows=rows, tables=[loss_table(losses)] if losses else []
    )


def continue_prompts(
    run: Run, lms: Mapping[str, SpokenLM], tokenizer: SpeechTokenizer, utterances: Sequence[Utterance]
) -> list[Row]:
    """Play each recording, its units spoken, and what every model makes of its first seconds, with the same seeds."""
    short = [replace(u, duration=min(PROMPT_SECONDS, u.duration or PROMPT_SECONDS)) for u in utterances]
    whole, prompts = (
        tokenizer.encode([read_utterance(u, tokenizer.sample_rate) for u in group]) for group in (utterances, short)
    )
    settings, rate, rows = replace(GENERATION, seed=run.seed), tokenizer.decode_rate, []
    replies = {name: lm.continue_([[Segment(tokens=one)] for one in prompts], settings) for name, lm in lms.items()}
    for index, utterance in enumerate(utterances):
        spoken = {"resynthesis": (whole[index], "recording → units → speech")}
        for name, lm in lms.items():
            reply = replies[name][index]
            note = f"prompt, then {reply.seconds:.1f} s of new units (stopped: {reply.stopped})"
            spoken[name] = lm.join(prompts[index], reply.tokens), note
        sound = encode_mp3(read_recording(utterance, rate).waveform, rate)
        players = [Player(title="recording", audio=sound, note="how it really went on")]
        for name, (tokens, note) in spoken.items():
            (speech,) = tokenizer.decode([tokens], run.own_voice(utterance))
            players.append(Player(title=name, audio=encode_mp3(speech, rate), note=note))
        rows.append(Row(title=name_of(utterance), text=utterance.text or "", players=players))
    return rows

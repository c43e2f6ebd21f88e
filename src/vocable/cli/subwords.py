"""`vocable subwords fit | rate`: SentencePiece over units, and how many tokens a second of speech then costs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def fit(
    tokens: Path,
    out: Path,
    vocabulary_size: int = 10_000,
    model: Literal["bpe", "unigram"] = "bpe",
    over: Literal["runs", "frames"] = "runs",
    max_units: int = 16,
    training_share: float = 1.0,
    num_threads: int = 1,
    overwrite: bool = False,
) -> None:
    """Learn unit subwords from token shards: tokens that span several units and can be turned back into them.

    Args:
        tokens: Folder of token shards, as 'vocable tokenize' writes them.
        out: Folder for the subwords.
        vocabulary_size: Subwords, single units included.
        model: Kind of SentencePiece model.
        over: Read units with their runs collapsed, or one a frame.
        max_units: Units in the longest subword.
        training_share: Share of the utterances to learn from, chosen by the hash of their id.
        num_threads: Threads of SentencePiece.
        overwrite: Replace subwords that are in OUT already.
    """
    from rich.console import Console

    from vocable.errors import OutputError
    from vocable.progress import progress
    from vocable.sequences.subwords import CARD_NAME, SubwordConfig, UnitSubwords
    from vocable.tokens.shards import TokenShards

    if (out / CARD_NAME).exists() and not overwrite:
        raise OutputError(f"{out}: holds subwords already. Give another folder, or --overwrite.")
    config = SubwordConfig(
        vocabulary_size=vocabulary_size,
        model=model,
        over=over,
        max_units=max_units,
        training_share=training_share,
        num_threads=num_threads,
    )
    shards = TokenShards(tokens)
    with progress("Reading units", len(shards)) as advance:
        subwords = UnitSubwords.fit(shards, shards.card, config, on_utterance=lambda _: advance(1))
    subwords.save(out)
    console = Console(highlight=False, soft_wrap=True)
    if subwords.size < vocabulary_size:
        console.print(f"These tokens hold only {subwords.size} subwords of the {vocabulary_size} asked for.")
    console.print(
        f"{subwords.size} subwords of up to {int(subwords.lengths.max())} units, over {over}, are in {out} "
        f"(fingerprint {subwords.fingerprint})."
    )
    console.print(f"Their rate: vocable subwords rate {out} {tokens}")


def rate(subwords: Path, tokens: Path, text_tokenizer: str | None = None, out: Path | None = None) -> None:
    """Count tokens per second of audio: frames, runs, unit subwords, and text tokens of the same utterances.

    Args:
        subwords: Folder of unit subwords, as 'vocable subwords fit' writes them.
        tokens: Folder of token shards of the same tokenizer.
        text_tokenizer: Folder, asset or hub name of a text tokenizer, to count the tokens of the text too.
        out: A JSON file for the numbers.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from vocable.files import replace_file
    from vocable.progress import progress
    from vocable.sequences.subword_rate import measure_rate
    from vocable.sequences.subwords import UnitSubwords
    from vocable.sequences.text_tokenizers import load_text_tokenizer
    from vocable.tokens.shards import TokenShards

    found, shards = UnitSubwords.load(subwords), TokenShards(tokens)
    found.check(shards.fingerprint, f"the shard folder {tokens}")
    count = None
    if text_tokenizer is not None:
        reader = load_text_tokenizer(text_tokenizer)
        count = lambda text: len(reader.encode(text, add_special_tokens=False))  # noqa: E731
    with progress("Counting tokens", len(shards)) as advance:
        result = measure_rate(found, shards, shards.card["frame_rate"], count, on_utterance=lambda _: advance(1))
    table = Table(title=f"{result.seconds / 60:.1f} minutes, {result.num_utterances} utterances")
    for column in ("tokens", "per second", "ms each"):
        table.add_column(column, justify="left" if column == "tokens" else "right")
    rows = [
        ("frames", result.frames_per_second),
        ("runs", result.runs_per_second),
        (f"subwords ({found.size}, over {found.card.over})", result.subwords_per_second),
        (f"text ({text_tokenizer}; {result.num_with_text} utterances)", result.text_tokens_per_second),
    ]
    for name, per_second in rows:
        if per_second is not None:
            table.add_row(name, f"{per_second:.2f}", f"{1000 / per_second:.0f}" if per_second else "")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"A subword spans {result.units_per_subword:.2f} {found.card.over} and {1000 * result.seconds_per_subword:.0f} "
        f"ms on average; {result.num_subwords_used} of {found.size} occur."
    )
    if result.subwords_per_text_token is not None:
        console.print(f"{result.subwords_per_text_token:.2f} subwords to a text token.")
    if out is not None:
        values = {"subwords": found.fingerprint, "tokenizer": shards.fingerprint, "text_tokenizer": text_tokenizer}
        with replace_file(out) as file:
            file.write(json.dumps(values | result._asdict(), indent=2).encode() + b"\n")
        console.print(f"The numbers are in {out}")


COMMANDS = {"subwords fit": fit, "subwords rate": rate}

"""`vocable sequences` and `vocable subwords`: what a language model reads, and what a second of speech costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vocable.cli.options import OverwriteOption

if TYPE_CHECKING:
    from vocable.sequences.joint_rows import JointExample
    from vocable.sequences.subwords import SubwordConfig


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """An utterance, and the layout of the sequence that it becomes."""

    manifest: Path
    """Utterances (JSONL) with text and, for layouts that switch at words, word times."""
    tokens: Path
    """Folder of token shards of the same utterances."""
    stream: str | None = None
    """Name of the stream to show, where the tokens have several."""
    layout: str = "ast"
    """unit-only, text-only, cst, cst-u2t, cst-t2u, ast, sims or spirit-lm."""
    text_tokenizer: str = "HuggingFaceTB/SmolLM2-135M"
    """Folder, asset or hub name of the text tokenizer."""
    subwords: Path | None = None
    """Folder of unit subwords to use in the place of units."""
    id: str | None = None
    """Utterance to show; without it, the first that has tokens, and words if any has."""
    epoch: int = 0
    """Epoch to show: what is drawn is drawn anew in each."""
    seed: int = 0
    """Seed of what is drawn."""
    picture: Path | None = None
    """A .svg or .html file to draw the sequence into."""


def show(config: ShowConfig, overrides: tuple[str, ...] = ()) -> None:
    """Print one sequence as a language model reads it: segments with modality, words and times.

    Settings of the layout can be given too, e.g. spans.kind=poisson spans.mean_words=10 marks=modality.

    vocable sequences show aligned.jsonl tokens --layout ast spans.mean_words=10 --picture row.svg
    """
    from vocable.audio.manifest import read_manifest
    from vocable.config import read_overrides
    from vocable.sequences.joint_layouts import JointLayout, make_layout
    from vocable.sequences.joint_vocabulary import joint_vocabulary
    from vocable.sequences.layouts import change_layout
    from vocable.sequences.picture import print_sequence, write_picture
    from vocable.sequences.subwords import UnitSubwords
    from vocable.sequences.text_tokenizers import load_text_tokenizer
    from vocable.tokens.shards import TokenShards

    shards = TokenShards(config.tokens).stream(config.stream)
    subwords = None
    if config.subwords is not None:
        subwords = UnitSubwords.load(config.subwords)
        subwords.check(shards.fingerprint, f"the shard folder {config.tokens}")
    reader = load_text_tokenizer(config.text_tokenizer)
    vocabulary = joint_vocabulary(reader, subwords or shards.streams[0].codebook_size)
    layout = change_layout(make_layout(config.layout, vocabulary, seed=config.seed), read_overrides(overrides))
    assert isinstance(layout, JointLayout)
    chosen = layout.bind(reader, subwords)
    example = _find_example(read_manifest(config.manifest, check_audio=False), shards, config.id)
    sequence = chosen.build_sequence(example, epoch=config.epoch)
    title = f"{example.id}: {config.layout}, epoch {config.epoch}, seed {config.seed}, {len(sequence.token_ids)} tokens"
    print_sequence(sequence, vocabulary, example.frame_rate, title)
    if config.picture is not None:
        write_picture(config.picture, sequence, vocabulary, example.frame_rate, title)
        print(f"The picture is in {config.picture}")


@dataclass(frozen=True, kw_only=True)
class LeakageConfig:
    """Two manifests that should share nothing."""

    train: Path
    """The manifest that a model learns from."""
    test: Path
    """The manifest that it is tested on."""
    min_text_words: int = 1
    """Fewest words of a text that is compared."""


def leakage(config: LeakageConfig) -> None:
    """Look for ids, speakers and texts that two manifests share; ends with an error if there are any.

    vocable sequences leakage train.jsonl test.jsonl
    """
    from rich.console import Console

    from vocable.audio.manifest import read_manifest
    from vocable.sequences.leakage import check_leakage

    sets = [read_manifest(path, check_audio=False) for path in (config.train, config.test)]
    report = check_leakage(*sets, min_text_words=config.min_text_words)
    console = Console(highlight=False, soft_wrap=True)
    for kind, count in report.unknown.items():
        if count:
            console.print(f"{count} utterances have no {kind}; those could not be compared by {kind}.")
    report.raise_if_any()
    console.print(f"{report.num_train} and {report.num_test} utterances share no id, no speaker and no text.")


@dataclass(frozen=True, kw_only=True)
class FitSubwordsConfig(OverwriteOption):
    """Units to learn subwords from."""

    tokens: Path
    """Folder of token shards, as 'vocable tokenize' writes them."""
    out: Path
    """Folder for the subwords."""
    stream: str | None = None
    """Name of the stream to learn from, where the tokens have several."""


def fit_subwords(config: FitSubwordsConfig, learning: SubwordConfig) -> None:
    """Learn unit subwords from token shards: tokens that span several units and can be turned back into them.

    vocable subwords fit tokens subwords --vocabulary-size 2000
    """
    from rich.console import Console

    from vocable.errors import OutputError
    from vocable.progress import progress
    from vocable.sequences.subwords import CARD_NAME, UnitSubwords
    from vocable.tokens.shards import TokenShards

    if (config.out / CARD_NAME).exists() and not config.overwrite:
        raise OutputError(f"{config.out}: holds subwords already. Give another folder, or --overwrite.")
    shards = TokenShards(config.tokens).stream(config.stream)
    with progress("Reading units", len(shards)) as advance:
        subwords = UnitSubwords.fit(shards, shards.card, learning, on_utterance=lambda _: advance(1))
    subwords.save(config.out)
    console = Console(highlight=False, soft_wrap=True)
    if subwords.size < learning.vocabulary_size:
        console.print(f"These tokens hold only {subwords.size} subwords of the {learning.vocabulary_size} asked for.")
    console.print(
        f"{subwords.size} subwords of up to {int(subwords.lengths.max())} units, over {learning.over}, are in "
        f"{config.out} (fingerprint {subwords.fingerprint})."
    )
    console.print(f"Their rate: vocable subwords rate {config.out} {config.tokens}")


@dataclass(frozen=True, kw_only=True)
class RateConfig:
    """Subwords, and the units that they are counted on."""

    subwords: Path
    """Folder of unit subwords, as 'vocable subwords fit' writes them."""
    tokens: Path
    """Folder of token shards of the same tokenizer."""
    text_tokenizer: str | None = None
    """Folder, asset or hub name of a text tokenizer, to count the tokens of the text too."""
    out: Path | None = None
    """A JSON file for the numbers."""


def rate(config: RateConfig) -> None:
    """Count tokens per second of audio: frames, runs, unit subwords, and text tokens of the same utterances.

    vocable subwords rate subwords tokens --text-tokenizer HuggingFaceTB/SmolLM2-135M
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from vocable.files import write_text
    from vocable.progress import progress
    from vocable.sequences.subword_rate import measure_rate
    from vocable.sequences.subwords import UnitSubwords
    from vocable.sequences.text_tokenizers import load_text_tokenizer
    from vocable.tokens.shards import TokenShards

    subwords = UnitSubwords.load(config.subwords)
    shards = TokenShards(config.tokens).matching(subwords.card.tokenizer_fingerprint)
    subwords.check(shards.fingerprint, f"the shard folder {config.tokens}")
    count = None
    if config.text_tokenizer is not None:
        reader = load_text_tokenizer(config.text_tokenizer)
        count = lambda text: len(reader.encode(text, add_special_tokens=False))  # noqa: E731
    with progress("Counting tokens", len(shards)) as advance:
        result = measure_rate(subwords, shards, shards.streams[0].rate, count, on_utterance=lambda _: advance(1))
    table = Table(title=f"{result.seconds / 60:.1f} minutes, {result.num_utterances} utterances")
    for column in ("tokens", "per second", "ms each"):
        table.add_column(column, justify="left" if column == "tokens" else "right")
    rows = [
        ("frames", result.frames_per_second),
        ("runs", result.runs_per_second),
        (f"subwords ({subwords.size}, over {subwords.card.over})", result.subwords_per_second),
        (f"text ({config.text_tokenizer}; {result.num_with_text} utterances)", result.text_tokens_per_second),
    ]
    for name, per_second in rows:
        if per_second is not None:
            table.add_row(name, f"{per_second:.2f}", f"{1000 / per_second:.0f}" if per_second else "")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"A subword spans {result.units_per_subword:.2f} {subwords.card.over} and "
        f"{1000 * result.seconds_per_subword:.0f} ms on average; {result.num_subwords_used} of {subwords.size} occur."
    )
    if result.subwords_per_text_token is not None:
        console.print(f"{result.subwords_per_text_token:.2f} subwords to a text token.")
    if config.out is not None:
        used = {"subwords": subwords.fingerprint, "tokenizer": shards.fingerprint}
        values = {**used, "text_tokenizer": config.text_tokenizer, **result._asdict()}
        write_text(json.dumps(values, indent=2) + "\n", config.out)
        console.print(f"The numbers are in {config.out}")


def _find_example(utterances, shards, id: str | None) -> JointExample:
    from vocable.errors import ManifestError
    from vocable.sequences.joint_rows import JointExample

    known = {utterance.id: utterance for utterance in utterances}
    if id is not None and id not in known:
        raise ManifestError(f"The manifest has no utterance {id!r}; it has {len(known)}, e.g. {next(iter(known))!r}.")
    any_words = any(utterance.words for utterance in known.values())
    for utterance, tokens in shards:
        ours = known.get(utterance.id)
        if ours is not None and (id == ours.id if id is not None else bool(ours.words) or not any_words):
            return JointExample.of(ours, tokens, shards.streams[0].rate)
    wanted = repr(id) if id is not None else "any utterance of the manifest"
    raise ManifestError(f"{shards.folder}: has no tokens of {wanted}. Tokenize the manifest: vocable tokenize")


COMMANDS = {
    "sequences show MANIFEST TOKENS": show,
    "sequences leakage TRAIN TEST": leakage,
    "subwords fit TOKENS OUT": fit_subwords,
    "subwords rate SUBWORDS TOKENS": rate,
}

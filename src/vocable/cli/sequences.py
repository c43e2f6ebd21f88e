"""`vocable sequences` and `vocable subwords`: what a language model reads, and what a second of speech costs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import vocable
from vocable.errors import ManifestError, OutputError
from vocable.printing import print_table
from vocable.progress import progress

if TYPE_CHECKING:
    from vocable.sequences.joint_rows import JointExample
    from vocable.sequences.subwords import SubwordConfig
    from vocable.tokens.shards import TokenShards
    from vocable.types import Utterance


def show(
    manifest: Path,
    tokens: Path,
    stream: str | None = None,
    layout: str = "ast",
    text_tokenizer: str = "HuggingFaceTB/SmolLM2-135M",
    subwords: Path | None = None,
    id: str | None = None,
    epoch: int = 0,
    seed: int = 0,
    picture: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> None:
    """Print one sequence as a language model reads it: segments with modality, words and times.

    Settings of the layout can be given too, e.g. spans.kind=poisson spans.mean_words=10 marks=modality.

    vocable sequences show aligned.jsonl tokens --layout ast spans.mean_words=10 --picture row.svg

    Args:
        manifest: utterances (JSONL) with text and, for layouts that switch at words, word times.
        tokens: folder of token shards of the same utterances.
        stream: name of the stream to show, where the tokens have several.
        layout: unit-only, text-only, cst, cst-u2t, cst-t2u, ast, sims or spirit-lm.
        text_tokenizer: folder, asset or hub name of the text tokenizer.
        subwords: folder of unit subwords to use in the place of units.
        id: utterance to show; without it, the first that has tokens, and words if any has.
        epoch: epoch to show: what is drawn is drawn anew in each.
        seed: seed of what is drawn.
        picture: a .svg or .html file to draw the sequence into.
        overrides: settings of the layout.
    """
    from vocable.config import read_overrides
    from vocable.sequences.joint_layouts import JointLayout, make_layout
    from vocable.sequences.joint_vocabulary import joint_vocabulary
    from vocable.sequences.layouts import change_layout
    from vocable.sequences.picture import print_sequence, write_picture
    from vocable.sequences.subwords import UnitSubwords
    from vocable.sequences.text_tokenizers import load_text_tokenizer

    shards = vocable.TokenShards(tokens).stream(stream)
    pieces = None
    if subwords is not None:
        pieces = UnitSubwords.load(subwords)
        pieces.check(shards.fingerprint, f"the shard folder {tokens}")
    reader = load_text_tokenizer(text_tokenizer)
    vocabulary = joint_vocabulary(reader, pieces or shards.streams[0].codebook_size)
    changed = change_layout(make_layout(layout, vocabulary, seed=seed), read_overrides(overrides))
    assert isinstance(changed, JointLayout)
    example = _find_example(vocable.read_manifest(manifest, check_audio=False), shards, id)
    sequence = changed.bind(reader, pieces).build_sequence(example, epoch=epoch)
    title = f"{example.id}: {layout}, epoch {epoch}, seed {seed}, {len(sequence.token_ids)} tokens"
    print_sequence(sequence, vocabulary, example.frame_rate, title)
    if picture is not None:
        write_picture(picture, sequence, vocabulary, example.frame_rate, title)
        print(f"The picture is in {picture}")


def leakage(train: Path, test: Path, min_text_words: int = 1) -> None:
    """Look for ids, speakers and texts that two manifests share; ends with an error if there are any.

    vocable sequences leakage train.jsonl test.jsonl

    Args:
        train: the manifest that a model learns from.
        test: the manifest that it is tested on.
        min_text_words: fewest words of a text that is compared.
    """
    from vocable.sequences.leakage import check_leakage

    sets = [vocable.read_manifest(path, check_audio=False) for path in (train, test)]
    report = check_leakage(*sets, min_text_words=min_text_words)
    for kind, count in report.unknown.items():
        if count:
            print(f"{count} utterances have no {kind}; those could not be compared by {kind}.")
    report.raise_if_any()
    print(f"{report.num_train} and {report.num_test} utterances share no id, no speaker and no text.")


def fit_subwords(
    tokens: Path, out: Path, learning: SubwordConfig, stream: str | None = None, overwrite: bool = False
) -> None:
    """Learn unit subwords from token shards: tokens that span several units and can be turned back into them.

    vocable subwords fit tokens subwords --vocabulary-size 2000

    Args:
        tokens: folder of token shards, as 'vocable tokenize' writes them.
        out: folder for the subwords.
        learning: how they are learned.
        stream: name of the stream to learn from, where the tokens have several.
        overwrite: replace an earlier result in the same place.
    """
    from vocable.sequences.subwords import CARD_NAME, UnitSubwords

    if (out / CARD_NAME).exists() and not overwrite:
        raise OutputError(f"{out}: holds subwords already. Give another folder, or --overwrite.")
    shards = vocable.TokenShards(tokens).stream(stream)
    with progress("Reading units", len(shards)) as advance:
        subwords = UnitSubwords.fit(shards, shards.card, learning, on_utterance=lambda _: advance(1))
    subwords.save(out)
    if subwords.size < learning.vocabulary_size:
        print(f"These tokens hold only {subwords.size} subwords of the {learning.vocabulary_size} asked for.")
    print(
        f"{subwords.size} subwords of up to {int(subwords.lengths.max())} units, over {learning.over}, are in "
        f"{out} (fingerprint {subwords.fingerprint}).\nTheir rate: vocable subwords rate {out} {tokens}"
    )


def rate(subwords: Path, tokens: Path, text_tokenizer: str | None = None, out: Path | None = None) -> None:
    """Count tokens per second of audio: frames, runs, unit subwords, and text tokens of the same utterances.

    vocable subwords rate subwords tokens --text-tokenizer HuggingFaceTB/SmolLM2-135M

    Args:
        subwords: folder of unit subwords, as 'vocable subwords fit' writes them.
        tokens: folder of token shards of the same tokenizer.
        text_tokenizer: folder, asset or hub name of a text tokenizer, to count the tokens of the text too.
        out: a JSON file for the numbers.
    """
    from vocable.files import write_json
    from vocable.sequences.subword_rate import measure_rate
    from vocable.sequences.subwords import UnitSubwords
    from vocable.sequences.text_tokenizers import load_text_tokenizer

    pieces = UnitSubwords.load(subwords)
    shards = vocable.TokenShards(tokens).matching(pieces.card.tokenizer_fingerprint)
    pieces.check(shards.fingerprint, f"the shard folder {tokens}")
    count = None
    if text_tokenizer is not None:
        reader = load_text_tokenizer(text_tokenizer)
        count = lambda text: len(reader.encode(text, add_special_tokens=False))  # noqa: E731
    with progress("Counting tokens", len(shards)) as advance:
        result = measure_rate(pieces, shards, shards.streams[0].rate, count, on_utterance=lambda _: advance(1))
    rates = {
        "frames": result.frames_per_second,
        "runs": result.runs_per_second,
        f"subwords ({pieces.size}, over {pieces.card.over})": result.subwords_per_second,
        f"text ({text_tokenizer}; {result.num_with_text} utterances)": result.text_tokens_per_second,
    }
    rows = [(name, f"{one:.2f}", f"{1000 / one:.0f}" if one else "") for name, one in rates.items() if one is not None]
    title = f"{result.seconds / 60:.1f} minutes, {result.num_utterances} utterances"
    print_table(("tokens", "per second", "ms each"), rows, title)
    print(
        f"A subword spans {result.units_per_subword:.2f} {pieces.card.over} and "
        f"{1000 * result.seconds_per_subword:.0f} ms on average; {result.num_subwords_used} of {pieces.size} occur."
    )
    if result.subwords_per_text_token is not None:
        print(f"{result.subwords_per_text_token:.2f} subwords to a text token.")
    if out is not None:
        used = {"subwords": pieces.fingerprint, "tokenizer": shards.fingerprint, "text_tokenizer": text_tokenizer}
        write_json({**used, **result._asdict()}, out)
        print(f"The numbers are in {out}")


def _find_example(utterances: Iterable[Utterance], shards: TokenShards, id: str | None) -> JointExample:
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

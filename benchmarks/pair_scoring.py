"""Scoring minimal pairs: our rows against the plain form, in one run.

    python benchmarks/pair_scoring.py --threads 1 --cpu-seconds --out pairs.json

Plain: batches of 32 in the order of the set, right-padded with a mask, one call for the right halves and one for the
wrong ones, float32. Ours: distinct rows sorted by length without padding, shared prefixes read once, float32 and
bfloat16. Lengths follow speech at 25 collapsed units a second: words of 0.3 to 1.6 s, sentences of 1 to 6 s, stories of
a context and two endings. The last table is the cost of a second checkpoint with the audio encoded once, or again.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from timing import benchmark_parser, machine, ratio, read_options, run_in_turn, write_results
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vocable.audio.writing import write_audio
from vocable.evaluation.once import encode_once
from vocable.features import EncoderConfig, load_encoder
from vocable.lm.packed import enable_packing
from vocable.lm.rows import Row, join_parts, score_rows
from vocable.lm.shapes import SHAPES, shape_config
from vocable.lm.surgery import cold_start
from vocable.sequences import UnitVocabulary
from vocable.tokens.kmeans import KMeans, KMeansConfig
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Utterance

UNITS_PER_SECOND = 25
SECONDS = {"words": (0.0, 0.3, 1.6), "sentences": (0.0, 1.0, 6.0), "stories": (12.0, 2.0, 2.8)}
"""Of the context, and of the shortest and longest half or ending. Stories: four sentences and one (StoryCloze)."""


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("--shape", default="HuggingFaceTB/SmolLM2-135M", choices=sorted(SHAPES))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", default=list(SECONDS), choices=list(SECONDS))
    options = read_options(parser)
    vocabulary = UnitVocabulary(codebook_size=500)
    full = cold_start(shape_config(options.shape), vocabulary).eval()
    plain_model = cold_start(shape_config(options.shape), vocabulary).eval()  # its attention stays transformers' own
    small = cold_start(shape_config(options.shape), vocabulary, dtype=torch.bfloat16).eval()
    for model in (full, small):
        enable_packing(model)
    results = {"benchmark": "pair scoring", "shape": options.shape, "pairs": options.pairs, **machine()}
    for name in options.kinds:
        context, shortest, longest = SECONDS[name]
        pairs = make_pairs(options.pairs, context, shortest, longest)
        variants = {
            "plain, float32": lambda pairs=pairs: plain(plain_model, pairs),
            "ours without sharing, float32": ours(full, pairs, share=False),
            "ours, float32": ours(full, pairs, share=True),
            "ours, bf16": ours(small, pairs, share=True),
        }
        seconds = run_in_turn(variants, options.rounds, cpu_seconds=options.cpu_seconds)
        results[name] = report(name, pairs, seconds)
    results["encode once"] = encode_again(options)
    write_results(results, options.out)


def make_pairs(count: int, context: float, shortest: float, longest: float) -> list[tuple[Row, Row]]:
    """Rows of a start symbol, a shared context, and two halves of unequal length."""
    generator = torch.Generator().manual_seed(0)

    def units(low: float, high: float) -> Tensor:
        length = int(UNITS_PER_SECOND * (low + (high - low) * torch.rand((), generator=generator)))
        return torch.randint(2, 502, (length,), generator=generator)

    pairs = []
    for _ in range(count):
        shared = torch.cat([torch.tensor([1]), units(0.6 * context, 1.4 * context)])
        right, wrong = units(shortest, longest), units(shortest, longest)
        pairs.append(tuple(join_parts(shared, [(shared[:0], ending)], shared[:0]) for ending in (right, wrong)))
    return pairs


@torch.inference_mode()
def plain(model: nn.Module, pairs: list[tuple[Row, Row]], batch_size: int = 32) -> list[float]:
    """Mean log-likelihoods, right halves and wrong halves in calls of their own."""
    scores = []
    for start in range(0, len(pairs), batch_size):
        for side in (0, 1):
            rows = [pair[side].token_ids for pair in pairs[start : start + batch_size]]
            token_ids = pad_sequence(rows, batch_first=True, padding_value=0)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            logits = model(input_ids=token_ids, attention_mask=mask, use_cache=False).logits
            losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), token_ids[:, 1:], reduction="none")
            scores += ((losses * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)).tolist()
    return scores


def ours(model: nn.Module, pairs: list[tuple[Row, Row]], share: bool) -> Callable[[], object]:
    """The scorer of `vocable evaluate`."""
    rows = [row for pair in pairs for row in pair]
    return lambda: score_rows(model, rows, share_prefixes=share)


def encode_again(options: argparse.Namespace) -> dict[str, object]:
    """Tokens of a benchmark for a second checkpoint: from the cache, or encoded again."""
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0))
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=500, init_frames=500)
    )
    tokenizer = UnitTokenizer(encoder, KMeans(torch.randn(500, encoder.dim)), config)
    with tempfile.TemporaryDirectory() as folder:
        utterances = []
        for index in range(options.pairs):
            path = Path(folder) / f"{index}.wav"
            write_audio(path, 0.1 * torch.randn(16_000 * 3), 16_000)
            utterances.append(Utterance(id=str(index), audio=path))
        count = iter(range(10_000))
        encode_once(utterances, tokenizer, Path(folder) / "kept")
        variants = {
            "encoded again": lambda: encode_once(utterances, tokenizer, Path(folder) / f"new{next(count)}"),
            "encoded once": lambda: encode_once(utterances, tokenizer, Path(folder) / "kept"),
        }
        seconds = run_in_turn(variants, options.rounds, cpu_seconds=options.cpu_seconds)
    base, kept = seconds.values()
    print(f"\nsecond checkpoint, {options.pairs} utterances of 3 s, log-mel units (the cheapest encoder there is):")
    print(f"  encoded once instead of again: {ratio(base, kept)}")
    return {"ratio": ratio(base, kept)._asdict(), "seconds": seconds}


def report(name: str, pairs: list[tuple[Row, Row]], seconds: dict[str, list[float]]) -> dict[str, object]:
    """Print and return the ratios of one kind of pairs."""
    base, unshared = seconds["plain, float32"], seconds["ours without sharing, float32"]
    tokens = sum(len(row.token_ids) for pair in pairs for row in pair)
    print(f"\n{name}: {len(pairs)} pairs, {tokens} tokens")
    for variant, found in seconds.items():
        rate = tokens / sorted(found)[len(found) // 2]
        print(f"  {variant:32s} {rate:8.0f} tokens/s   {ratio(base, found)}")
    print(f"  shared prefixes alone: {ratio(unshared, seconds['ours, float32'])}")
    return {
        "tokens": tokens,
        "seconds": seconds,
        "ratios": {variant: ratio(base, found)._asdict() for variant, found in seconds.items()},
        "sharing": ratio(unshared, seconds["ours, float32"])._asdict(),
    }


if __name__ == "__main__":
    main()

"""Continuing prompts of units: our loop against transformers' `generate`, in one run.

    python benchmarks/generation.py --threads 1 --cpu-seconds --out generation.json

Both sample 48 units after each prompt, from a model of true shape with random weights. The plain form is `generate` in
float32 on prompts of one length; ours also guards against loops and silence, and keeps one random stream a row.
"""

from collections.abc import Callable

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results
from transformers import PreTrainedModel

from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.packed import enable_packing
from vocable.lm.shapes import SHAPES, shape_config
from vocable.lm.spoken import Segment, open_lm
from vocable.lm.surgery import cold_start
from vocable.sequences import UnitsLayout, UnitVocabulary
from vocable.types import SpeechTokens

NEW_UNITS = 48
PROMPT_UNITS = 60  # about three seconds of collapsed units at 25 frames a second
SECONDS_PER_UNIT = 0.05


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("--shape", default="HuggingFaceTB/SmolLM2-135M", choices=sorted(SHAPES))
    parser.add_argument("--batch", type=int, default=8)
    options = read_options(parser)
    vocabulary = UnitVocabulary(codebook_size=500)
    model = cold_start(shape_config(options.shape), vocabulary).eval()
    small = cold_start(shape_config(options.shape), vocabulary, dtype=torch.bfloat16).eval()
    enable_packing(small)
    prompts = [torch.randint(0, 500, (PROMPT_UNITS,)) for _ in range(options.batch)]
    uneven = [prompt[: PROMPT_UNITS - 3 * index] for index, prompt in enumerate(prompts)]
    variants = {
        "generate, float32 (plain)": plain(model, vocabulary, prompts),
        "generate, bf16": plain(small, vocabulary, prompts),
        "ours, float32": ours(model, vocabulary, prompts),
        "ours, bf16": ours(small, vocabulary, prompts),
        "ours, bf16, prompts of unequal length": ours(small, vocabulary, uneven),
    }
    seconds = run_in_turn(variants, options.rounds, cpu_seconds=options.cpu_seconds)
    base = next(iter(seconds.values()))
    units = NEW_UNITS * options.batch
    results = {
        "benchmark": "generation",
        "shape": options.shape,
        "batch": options.batch,
        "new_units": NEW_UNITS,
        **conditions(options),
        "variants": {
            name: {
                "seconds": times,
                "units_per_second": units / sorted(times)[len(times) // 2],
                "ratio": ratio(base, times)._asdict(),
            }
            for name, times in seconds.items()
        },
    }
    print(f"{options.shape}, {options.batch} prompts, {NEW_UNITS} new units each, {results['clock']}")
    for name, times in seconds.items():
        print(f"  {name:40s} {results['variants'][name]['units_per_second']:8.0f} units/s  {ratio(base, times)}")
    write_results(results, options.out)


def plain(model: PreTrainedModel, vocabulary: UnitVocabulary, prompts: list[torch.Tensor]) -> Callable[[], object]:
    """Make a call of `generate`."""
    token_ids = torch.stack([torch.cat([torch.tensor([1]), prompt + vocabulary.unit_offset]) for prompt in prompts])
    settings = {"do_sample": True, "temperature": 0.8, "top_k": 0}
    lengths = {"max_new_tokens": NEW_UNITS, "min_new_tokens": NEW_UNITS}
    mask = torch.ones_like(token_ids)
    return lambda: model.generate(token_ids, attention_mask=mask, **settings, **lengths)  # type: ignore[operator]  # mixin


def ours(model: PreTrainedModel, vocabulary: UnitVocabulary, prompts: list[torch.Tensor]) -> Callable[[], object]:
    """Make a call of a spoken language model's `continue_` that yields as many units."""
    seconds = NEW_UNITS * SECONDS_PER_UNIT - SECONDS_PER_UNIT / 2
    config = GenerationConfig(min_seconds=seconds, max_seconds=seconds)
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary, collapsed=False).card(),
        tokenizer_fingerprint="",
        unit_seconds=(SECONDS_PER_UNIT,) * vocabulary.codebook_size,
        silence_units=tuple(range(10)),
    )
    lm = open_lm(LoadedLM(model, card))
    segments = [[Segment(tokens=SpeechTokens(codes=prompt[None]))] for prompt in prompts]
    return lambda: lm.continue_(segments, config)


if __name__ == "__main__":
    main()

"""Training a unit language model: packed rows in bf16 against padded batches, in one run.

    python benchmarks/lm_training.py --threads 1 --cpu-seconds --out lm_training.json

One optimiser step on the same documents, lengths spread as in read speech. The plain form pads a batch to its longest
document and takes transformers' defaults (float32, PyTorch's default AdamW). Weights are random at true shape.
"""

from collections.abc import Callable

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results
from transformers import PreTrainedModel

from vocable.lm.packed import enable_packing, token_losses
from vocable.lm.shapes import SHAPES, shape_config
from vocable.lm.surgery import cold_start
from vocable.sequences import UnitVocabulary, concatenate
from vocable.training.config import AdamWTrainingConfig
from vocable.training.task import make_optimizer

LENGTHS = (60, 110, 160, 230, 420)


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("--shape", default="HuggingFaceTB/SmolLM2-135M", choices=sorted(SHAPES))
    parser.add_argument("--units", type=int, default=500, help="codebook size")
    options = read_options(parser)
    vocabulary = UnitVocabulary(codebook_size=options.units)
    documents = [torch.randint(2, vocabulary.size, (length,)) for length in LENGTHS]
    variants = {
        "padded, float32, default AdamW (plain)": padded_step(options.shape, vocabulary, documents),
        "packed, float32, fused AdamW": packed_step(options.shape, vocabulary, documents, bf16=False),
        "packed, bf16 autocast, fused AdamW (ours)": packed_step(options.shape, vocabulary, documents, bf16=True),
    }
    seconds = run_in_turn(variants, options.rounds, cpu_seconds=options.cpu_seconds)
    plain = next(iter(seconds.values()))
    results = {
        "benchmark": "lm_training",
        "shape": options.shape,
        "vocabulary": vocabulary.size,
        "tokens": sum(LENGTHS),
        "padded_tokens": len(LENGTHS) * max(LENGTHS),
        **conditions(options),
        "variants": {
            name: {
                "seconds": times,
                "tokens_per_second": sum(LENGTHS) / sorted(times)[len(times) // 2],
                "ratio": ratio(plain, times)._asdict(),
            }
            for name, times in seconds.items()
        },
    }
    print(f"{options.shape}, {vocabulary.size} rows, {sum(LENGTHS)} tokens a step, {results['clock']}")
    for name, times in seconds.items():
        print(f"  {name:44s} {results['variants'][name]['tokens_per_second']:8.0f} tokens/s  {ratio(plain, times)}")
    write_results(results, options.out)


def make_model(shape: str, vocabulary: UnitVocabulary) -> PreTrainedModel:
    """Draw a model of a published shape, without dropout."""
    return cold_start(shape_config(shape), vocabulary, dropout=0.0).train()


def padded_step(shape: str, vocabulary: UnitVocabulary, documents: list[torch.Tensor]) -> Callable[[], None]:
    """Make the plain training step."""
    model = make_model(shape, vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    token_ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(document) for document in documents], batch_first=True)
    labels = token_ids.masked_fill(mask == 0, -100)

    def step() -> None:
        model(input_ids=token_ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def packed_step(
    shape: str, vocabulary: UnitVocabulary, documents: list[torch.Tensor], bf16: bool
) -> Callable[[], None]:
    """Make the training loop's step."""
    model = make_model(shape, vocabulary)
    enable_packing(model)
    optimizer = make_optimizer(model, AdamWTrainingConfig(max_steps=1))
    batch = concatenate(documents)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = token_losses(model, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()

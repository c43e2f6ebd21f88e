"""Vocoders: ours against the published unit HiFi-GAN, in one run.

    python benchmarks/vocoder.py --threads 1 --cpu-seconds --out vocoder.json

Whole utterances: seconds of speech made from units at 50 Hz with their durations. Streaming: the last chunk of ten
units, with the context that it needs, against synthesising everything again from the start, which is what a vocoder
without a bounded reach has to do. Weights are random at true size.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results

from vocable.synthesis import StreamingVocoder, UnitHiFiGAN, UnitHiFiGANConfig, UnitVocoder, VocoderConfig
from vocable.types import SpeechTokens

CHUNK = 10


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech")
    options = read_options(parser)
    frames = int(50 * options.seconds)
    units = torch.randint(0, 100, (1, frames), generator=torch.Generator().manual_seed(0))
    published = UnitHiFiGAN(UnitHiFiGANConfig(num_embeddings=100)).eval()
    published.fold_weight_norm()
    ours = UnitVocoder(VocoderConfig(codebook_size=100, collapsed=False)).eval()
    plain = UnitVocoder(VocoderConfig(codebook_size=100, collapsed=False, excitation="none")).eval()
    results: dict[str, Any] = {
        "benchmark": "vocoder",
        "seconds_of_speech": options.seconds,
        **conditions(options),
        "parameters": {
            name: sum(parameter.numel() for parameter in model.parameters())
            for name, model in (("unit HiFi-GAN", published), ("ours", ours), ("ours, no excitation", plain))
        },
        "parts": {
            "whole utterance": measure(whole(published, ours, plain, units), options, options.seconds),
            f"next {CHUNK} units of a stream": measure(streaming(ours, units), options, CHUNK / 50),
        },
    }
    show(results)
    write_results(results, options.out)


def whole(
    published: UnitHiFiGAN, ours: UnitVocoder, plain: UnitVocoder, units: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """Variants that synthesise one utterance; the first is the base."""
    tokens = [SpeechTokens(codes=units, durations=torch.ones(units.shape[1], dtype=torch.long))]

    def in_bf16(vocoder: UnitHiFiGAN | UnitVocoder) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            vocoder.synthesize(tokens)

    return {
        "unit HiFi-GAN": lambda: published.synthesize(tokens),
        "unit HiFi-GAN, bf16": lambda: in_bf16(published),
        "ours": lambda: ours.synthesize(tokens),
        "ours, bf16": lambda: in_bf16(ours),
        "ours, no excitation (Vocos head)": lambda: plain.synthesize(tokens),
    }


def streaming(ours: UnitVocoder, units: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Variants that give the samples of the next chunk late in an utterance; the first is the base."""
    stream = StreamingVocoder(ours)
    for chunk in units.split(CHUNK, dim=1):
        stream.push(SpeechTokens(codes=chunk))
    chunk = SpeechTokens(codes=units[:, :CHUNK])
    everything = SpeechTokens(codes=units)
    return {
        "all of it again": lambda: ours.synthesize([everything]),
        "streaming": lambda: stream.push(chunk),
    }


def measure(variants: dict[str, Callable[[], Any]], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Time variants; how many times faster than the first each is, and than the speech lasts."""
    times = run_in_turn(variants, options.rounds, cpu_seconds=options.cpu_seconds)
    base = times[next(iter(variants))]
    return {
        name: {
            "seconds": sorted(spent)[len(spent) // 2],
            "times_real_time": seconds / sorted(spent)[len(spent) // 2],
            "ratio": ratio(base, spent)._asdict(),
        }
        for name, spent in times.items()
    }


def show(results: dict[str, Any]) -> None:
    """Print one line a variant."""
    print(f"{results['clock']}, {results['machine']['processor']}, {results['machine']['threads']} thread(s)")
    for name, count in results["parameters"].items():
        print(f"  {name}: {count / 1e6:.1f} M parameters")
    for part, variants in results["parts"].items():
        print(part)
        for name, row in variants.items():
            spread = row["ratio"]
            print(
                f"  {name:34s} {row['seconds'] * 1e3:8.1f} ms  {row['times_real_time']:7.1f} x real time  "
                f"{spread['median']:.2f}x ({spread['low']:.2f}-{spread['high']:.2f})"
            )


if __name__ == "__main__":
    main()

"""Vocoders: ours against the published unit HiFi-GAN and a Vocos of the published size, in one run.

    python benchmarks/vocoder.py --threads 1 --cpu-seconds --out vocoder.json

Whole utterances: seconds of speech made from units at 50 Hz with their durations. Streaming: the last chunk of ten
units, with the context that it needs, against synthesising everything again from the start, which is what a vocoder
without a bounded reach has to do. Weights are random at true size. Vocos is fed mel frames, as published: it has no
part that turns units into them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results
from torch import nn

from vocable.synthesis import StreamingVocoder, UnitHiFiGAN, UnitHiFiGANConfig, UnitVocoder, VocoderConfig
from vocable.synthesis.layers import ConvNeXtBlock, overlap_add
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.types import SpeechTokens

CHUNK = 10


class Vocos(nn.Module):
    """Mel frames to samples: arXiv:2306.00814, section 4 (24 kHz, 100 mels, hop 256, 8 blocks of 512 and 1536)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(100, 512, 7, padding=3)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(512, 1536, 7, 1 / 8) for _ in range(8)))
        self.norms = nn.ModuleList(nn.LayerNorm(512) for _ in range(2))
        self.head = nn.Linear(512, 1026)
        self.window = torch.hann_window(1024)

    @torch.inference_mode()
    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Return (batch, samples) from (batch, 100, frames)."""
        frames = self.norms[1](self.blocks(self.norms[0](self.embed(mels).mT)))
        magnitude, phase = self.head(frames).split(513, -1)
        return overlap_add(torch.polar(magnitude.exp().clamp(max=1e2), phase), self.window, 256)


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
    speakers = SourceFilterConfig(speaker_dim=256)
    many = UnitVocoder(VocoderConfig(codebook_size=100, collapsed=False, decoder=speakers)).eval()
    vocos = Vocos().eval()
    results: dict[str, Any] = {
        "benchmark": "vocoder",
        "seconds_of_speech": options.seconds,
        **conditions(options),
        "parameters": {
            name: sum(parameter.numel() for parameter in model.parameters())
            for name, model in (
                ("unit HiFi-GAN", published),
                ("ours", ours),
                ("ours, any voice", many),
                ("Vocos", vocos),
            )
        },
        "parts": {
            "whole utterance": measure(whole(published, ours, many, vocos, units), options, options.seconds),
            f"next {CHUNK} units of a stream": measure(streaming(ours, units), options, CHUNK / 50),
        },
    }
    results["delay_seconds"] = delays()
    show(results)
    write_results(results, options.out)


def whole(
    published: UnitHiFiGAN, ours: UnitVocoder, many: UnitVocoder, vocos: Vocos, units: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """Variants that synthesise one utterance; the first is the base."""
    tokens = [SpeechTokens(codes=units, durations=torch.ones(units.shape[1], dtype=torch.long))]
    mels = torch.randn(1, 100, round(units.shape[1] / 50 * 24_000 / 256))

    def in_bf16(vocoder: UnitHiFiGAN | UnitVocoder) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            vocoder.synthesize(tokens)

    return {
        "unit HiFi-GAN": lambda: published.synthesize(tokens),
        "unit HiFi-GAN, bf16": lambda: in_bf16(published),
        "ours": lambda: ours.synthesize(tokens),
        "ours, bf16": lambda: in_bf16(ours),
        "ours, any voice": lambda: many.synthesize(tokens),
        "Vocos, from mel frames": lambda: vocos(mels),
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


def delays() -> dict[str, float]:
    """Seconds of speech that a stream waits for, by preset."""
    low = VocoderConfig(
        codebook_size=100, frontend=FrontendConfig(lookahead=2), decoder=SourceFilterConfig(lookahead=3)
    )
    presets = {"cpu": VocoderConfig(codebook_size=100), "low-delay": low}
    return {name: StreamingVocoder(UnitVocoder(config)).lookahead_seconds for name, config in presets.items()}


def show(results: dict[str, Any]) -> None:
    """Print one line a variant."""
    print(f"{results['clock']}, {results['machine']['processor']}, {results['machine']['threads']} thread(s)")
    for name, count in results["parameters"].items():
        print(f"  {name}: {count / 1e6:.1f} M parameters")
    for name, seconds in results["delay_seconds"].items():
        print(f"  stream, preset {name}: {seconds:.3f} s of speech behind its units")
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

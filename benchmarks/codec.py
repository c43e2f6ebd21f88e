"""Codecs: encoding and decoding against transformers' DAC and Mimi, and what a step of distillation costs.

    python benchmarks/codec.py --threads 1 --cpu-seconds --out codec.json

Encoding and decoding: one recording, eight levels of codes at 12.5 Hz. Ours in the shapes of DAC have one encoder, as
transformers' DAC has, and the strides and widths of the released LM-SPT; the codecs of the recipes have two. "Semantic
alone" is the auxiliary decoder.
Distillation: a step of the auxiliary decoder through a teacher in the shape of Whisper tiny, forward and backward, for
crops of two seconds; the teacher hears them padded to 30 s, or cut to the crop, and the target of the recordings is
computed anew or comes from a cache. Weights are random at true size.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results
from torch import nn

from vocable.config import load_config
from vocable.features import EncoderConfig, LogMelConfig
from vocable.features.whisper import WhisperEncoder
from vocable.systems.lm_spt.config import LmSptConfig
from vocable.systems.lm_spt.dac import DacDecoder, DacDecoderConfig, DacEncoder, DacEncoderConfig
from vocable.systems.lm_spt.distillation import DistillationConfig, Teacher, TeacherConfig, make_distillation
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.vocos import VocosDecoder, VocosDecoderConfig
from vocable.tokens.quantizers import ResidualQuantizer, ResidualQuantizerConfig, VectorQuantizerConfig

RATE, FRAME_RATE, LEVELS = 24_000, 12.5, 8
DIM = 1024
TEACHER_RATE = 16_000
RECIPES = Path(__file__).parents[1] / "recipes" / "lm-spt"


class Dac(nn.Module):
    """Our networks in the shapes of DAC: one encoder, eight factorised levels, one decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = DacEncoder(DacEncoderConfig(), DIM)
        level = VectorQuantizerConfig(
            dim=DIM, codebook_size=1024, code_dim=8, distance="cosine", update="gradient", init="random"
        )
        self.quantizer = ResidualQuantizer(ResidualQuantizerConfig(level=level, num_levels=LEVELS))
        self.decoder = DacDecoder(DacDecoderConfig(), DIM)

    def encode(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return codes (batch, levels, frames)."""
        return self.quantizer.encode(self.encoder(waveforms))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return waveforms."""
        return self.decoder(self.quantizer.decode(codes))


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of speech to encode and decode")
    parser.add_argument("--crops", type=int, default=4, help="crops of two seconds in a step of distillation")
    options = read_options(parser)
    torch.manual_seed(0)
    encoders, decoders, parameters = codecs(options.seconds)
    padding, cache = distillation(options.crops)
    results: dict[str, Any] = {
        "benchmark": "codec",
        "seconds_of_speech": options.seconds,
        "crops": options.crops,
        **conditions(options),
        "parameters": parameters,
        "parts": {
            "encode": measure(encoders, options, options.seconds),
            "decode": measure(decoders, options, options.seconds),
            "distillation, by padding": measure(padding, options, 2.0 * options.crops),
            "distillation, by target": measure(cache, options, 2.0 * options.crops),
        },
    }
    show(results)
    write_results(results, options.out)


Variants = dict[str, Callable[[], Any]]


def codecs(seconds: float) -> tuple[Variants, Variants, dict[str, int]]:
    """Variants that encode, and that decode, the first of each being the base; and numbers of parameters."""
    from transformers import DacConfig, DacModel, MimiConfig, MimiModel

    num_frames = max(1, round(seconds * FRAME_RATE))
    waveforms = 0.1 * torch.randn(1, round(num_frames * RATE / FRAME_RATE))
    ours = Dac().eval()
    dac = DacModel(
        DacConfig(
            encoder_hidden_size=32,
            downsampling_ratios=[4, 5, 6, 8, 2],
            decoder_hidden_size=1536,
            n_codebooks=LEVELS,
            sampling_rate=RATE,
        )
    ).eval()
    mimi = MimiModel(MimiConfig(num_quantizers=LEVELS)).eval()
    models: dict[str, nn.Module] = {"DAC, transformers": dac, "DAC, ours": ours, "Mimi, transformers": mimi}
    codes = {name: torch.randint(0, 1024, (1, LEVELS, num_frames)) for name in models}

    def quietly(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return lambda: torch.inference_mode()(function)(*arguments)

    encoders: Variants = {
        "DAC, transformers": quietly(dac.encode, waveforms[:, None]),
        "DAC, ours": quietly(ours.encode, waveforms),
        "Mimi, transformers": quietly(mimi.encode, waveforms[:, None]),
    }
    decoders: Variants = {
        "DAC, transformers": quietly(lambda codes: dac.decode(audio_codes=codes), codes["DAC, transformers"]),
        "DAC, ours": quietly(ours.decode, codes["DAC, ours"]),
        "Mimi, transformers": quietly(mimi.decode, codes["Mimi, transformers"]),
    }
    for name in ("release-12.5hz", "v1-12.5hz", "cpu-12.5hz"):
        models[name] = codec = recipe_codec(name)
        recording = 0.1 * torch.randn(num_frames * codec.config.hop_length)
        semantic, acoustic = (torch.randint(0, 2048, (levels, num_frames)) for levels in (1, LEVELS - 1))
        encoders[name] = quietly(codec.encode, recording)
        decoders[name] = quietly(codec.decode, semantic, acoustic)
        decoders[f"{name}, semantic alone"] = quietly(codec.decode, semantic, None)
    return encoders, decoders, {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def recipe_codec(name: str) -> LmSptCodec:
    """The codec of a recipe, with random weights and codebooks."""
    config = load_config(LmSptConfig, RECIPES / f"{name}.yaml").codec
    if hasattr(config.decoder, "weights"):
        config = replace(config, decoder=replace(config.decoder, weights=None))  # type: ignore[arg-type]
    codec = LmSptCodec(config).eval()
    for level in (codec.quantizer.semantic, *codec.quantizer.acoustic.levels):
        level.get_buffer("initialised").fill_(True)  # as good as any, for a clock
    return codec


def distillation(num_crops: int) -> tuple[Variants, Variants]:
    """Steps of distillation: padded as published against cut, and without a cached target against with one."""
    crop_tokens, dim = round(2 * FRAME_RATE), 512
    recordings = 0.1 * torch.randn(num_crops, 2 * TEACHER_RATE)
    vectors = torch.randn(num_crops, crop_tokens, dim, requires_grad=True)
    auxiliary = VocosDecoder(VocosDecoderConfig(num_layers=1, n_fft_hops=2), dim, FRAME_RATE)

    def step(padding: str, cached: bool = False) -> Callable[[], Any]:
        teacher = make_teacher(padding)
        mode = make_distillation(DistillationConfig(), teacher, dim=dim, frame_rate=FRAME_RATE)
        kept = teacher.target(recordings, TEACHER_RATE) if cached else None

        def run() -> None:
            target = kept or teacher.target(recordings, TEACHER_RATE)
            mode(teacher, target, vectors, auxiliary, auxiliary).backward()

        return run

    paddings: Variants = {"padded to 30 s": step("30s"), "cut to the crop": step("crop")}
    targets: Variants = {
        "cut to the crop": paddings["cut to the crop"],
        "cut to the crop, cached target": step("crop", cached=True),
    }
    return paddings, targets


def make_teacher(padding: Any) -> Teacher:
    """A teacher in the shape of Whisper tiny, with random weights."""
    from transformers import WhisperConfig
    from transformers.models.whisper import modeling_whisper

    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    config._attn_implementation = "sdpa"  # as load_encoder has it
    model = modeling_whisper.WhisperEncoder(config)
    settings = EncoderConfig(layer=4, padding="none" if padding == "crop" else "30s")
    mel = LogMelConfig(max_frequency=8000.0, scaling="whisper")
    encoder = WhisperEncoder(model, settings, num_layers=4, mel=mel)
    return Teacher(encoder, TeacherConfig(padding=padding))


def measure(variants: Variants, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
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

"""Audio files to units on disk: ours against the way extraction scripts usually do it.

    python benchmarks/extraction.py hubert --out extraction_hubert.json
    python benchmarks/extraction.py whisper --out extraction_whisper.json

The usual way: the whole model with every hidden state kept, zero-padded batches of 8 without a mask, features copied to
the CPU, scikit-learn's predict, runs collapsed in a Python loop, JSON lines. Ours: the encoder cut at its layer, clips
that are never padded, assignment as one matrix product, Parquet shards. Weights are random at the true size of
HuBERT-base (layer 9, 500 clusters) and Whisper-base (layer 3), which changes no time; clips are as long as read speech
(mean 7 s), so that padding costs what it costs there.

Besides time and memory it counts the frames whose unit differs from that of the model run by transformers on each clip
alone: what the usual padding does to the units.
"""

import argparse
import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timing import (
    benchmark_parser,
    conditions,
    peak_megabytes,
    ratio,
    read_options,
    run_child,
    run_in_turn,
    write_results,
)
from torch import Tensor

NUM_CLUSTERS = 500
BATCH = 8
LAYERS = {"hubert": 9, "whisper": 3}
VARIANTS = {
    "hubert": ("usual", "usual, sorted by length", "ours", "ours, bfloat16"),
    "whisper": ("usual", "ours, padded to 30 s", "ours", "ours, bfloat16"),
}


def main() -> None:
    """Make the files, time the variants in turn, measure memory in child processes, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("model", choices=LAYERS)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--mean-seconds", type=float, default=7.0)
    parser.add_argument("--once", nargs=2, metavar=("FOLDER", "VARIANT"), help=argparse.SUPPRESS)
    options = read_options(parser)
    warnings.filterwarnings("ignore")
    if options.once:
        folder, variant = options.once
        before = peak_megabytes()
        extractor = make_extractor(options.model, variant, Path(folder))
        loaded = peak_megabytes()
        extractor("child " + variant)
        print(json.dumps({"imports": before, "loaded": loaded, "peak": peak_megabytes()}))
        return
    with tempfile.TemporaryDirectory(prefix="vocable-benchmark-") as folder:
        results = compare(options, Path(folder))
    show(results)
    write_results(results, options.out)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything in `folder`; return numbers only."""
    seconds = write_inputs(options.model, options.clips, options.mean_seconds, folder)
    memory = {
        variant: run_child(
            Path(__file__), [options.model, "--threads", str(options.threads), "--once", str(folder), variant]
        )
        for variant in VARIANTS[options.model]
    }
    extractors = {variant: make_extractor(options.model, variant, folder) for variant in VARIANTS[options.model]}
    counter = itertools.count()
    times = run_in_turn(
        {variant: lambda extract=extract: extract(str(next(counter))) for variant, extract in extractors.items()},
        options.rounds,
        warmup=1,
        cpu_seconds=options.cpu_seconds,
    )
    differing = differing_units(options.model, folder, extractors)
    return {
        "benchmark": f"extraction {options.model}",
        "clips": options.clips,
        "audio_seconds": round(seconds, 1),
        "layer": LAYERS[options.model],
        "clusters": NUM_CLUSTERS,
        **conditions(options),
        "variants": {
            variant: {
                "seconds": [round(value, 3) for value in times[variant]],
                "times_faster": ratio(times["usual"], times[variant])._asdict(),
                "times_real_time": seconds / sorted(times[variant])[len(times[variant]) // 2],
                "peak_megabytes": memory[variant],
                "differing_units": differing.get(variant),
            }
            for variant in VARIANTS[options.model]
        },
    }


def write_inputs(model: str, num_clips: int, mean_seconds: float, folder: Path) -> float:
    """Write a checkpoint with random weights, clips as FLAC, and a codebook of frames; return the seconds of audio."""
    from transformers import (  # fmt: skip
        HubertConfig,
        HubertModel,
        Wav2Vec2FeatureExtractor,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperModel,
    )

    from vocable.audio.writing import write_audio

    torch.manual_seed(0)
    if model == "hubert":
        HubertModel(HubertConfig()).save_pretrained(folder / "model")
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "model")
    else:
        base = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
        decoder = {"decoder_layers": 6, "decoder_attention_heads": 8, "decoder_ffn_dim": 2048}
        WhisperModel(WhisperConfig(**base, **decoder)).save_pretrained(folder / "model")
        WhisperFeatureExtractor().save_pretrained(folder / "model")
    lengths = torch.distributions.Gamma(2.2, 2.2 / mean_seconds).sample((num_clips,)).clamp(1.3, 29.0)
    (folder / "audio").mkdir()
    for index, length in enumerate(lengths.tolist()):
        waveform = babble(int(length * 16_000), seed=index)
        write_audio(folder / "audio" / f"clip{index:04d}.flac", waveform, 16_000)
    encoder = load_ours(model, folder, padding="none")
    frames = torch.cat(encoder.encode([babble(20 * 16_000, seed=1000)]))
    while len(frames) < NUM_CLUSTERS:
        frames = torch.cat([frames, *encoder.encode([babble(20 * 16_000, seed=1000 + len(frames))])])
    chosen = torch.randperm(len(frames))[:NUM_CLUSTERS]
    torch.save(frames[chosen].clone(), folder / "centroids.pt")
    return float(sum(int(length * 16_000) for length in lengths.tolist()) / 16_000)


def babble(num_samples: int, seed: int) -> Tensor:
    """Noise whose colour and loudness change every 80 ms, so that frames differ as those of speech do."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for _ in range(-(-num_samples // 1280)):
        noise = torch.randn(1280, generator=generator)
        smooth = int(torch.randint(1, 40, (), generator=generator))
        kernel = torch.ones(1, 1, smooth) / smooth**0.5
        coloured = torch.nn.functional.conv1d(noise[None, None], kernel, padding="same")[0, 0]
        pieces.append(coloured * 0.2 * torch.rand((), generator=generator))
    return torch.cat(pieces)[:num_samples].clamp(-1, 1)


def make_extractor(model: str, variant: str, folder: Path) -> Callable[[str], Any]:
    """Load what `variant` needs; the function that comes back extracts everything, under a name that tags it."""
    if variant.startswith("usual"):
        return make_usual(model, folder, sort="sorted" in variant)
    padding = "30s" if "30 s" in variant else "none"
    return make_ours(model, folder, padding, dtype="bfloat16" if "bfloat16" in variant else "float32")


def load_ours(model: str, folder: Path, padding: str, dtype: str = "float32") -> Any:
    """Load our encoder."""
    from vocable.features import EncoderConfig, load_encoder

    return load_encoder(EncoderConfig(name=str(folder / "model"), layer=LAYERS[model], padding=padding, dtype=dtype))


def make_ours(model: str, folder: Path, padding: str, dtype: str) -> Callable[[str], Any]:
    """Extract with a unit tokenizer into Parquet shards, as `vocable tokenize` does."""
    from vocable.audio.io import audio_info
    from vocable.features import EncoderConfig
    from vocable.tokens.kmeans import KMeans
    from vocable.tokens.shards import plan_shards, write_token_shard
    from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
    from vocable.types import Utterance

    settings = EncoderConfig(name=str(folder / "model"), layer=LAYERS[model], padding=padding, dtype=dtype)
    encoder = load_ours(model, folder, padding, dtype)
    kmeans = KMeans(torch.load(folder / "centroids.pt", weights_only=True))
    tokenizer = UnitTokenizer(encoder, kmeans, UnitTokenizerConfig(encoder=settings))
    utterances = [
        Utterance(id=path.stem, audio=path, duration=audio_info(path).duration) for path in audio_files(folder)
    ]

    def extract(tag: str) -> None:
        for job in plan_shards(utterances, folder / f"shards{tag}", tokenizer.card()):
            write_token_shard(job, tokenizer)

    return extract


def make_usual(model: str, folder: Path, sort: bool, batch: int = BATCH) -> Callable[[str], dict[str, list[int]]]:
    """Extract as most scripts do, into JSON lines; return the units of every frame, runs not collapsed."""
    import soundfile
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(folder / "model")
    network = AutoModel.from_pretrained(folder / "model").eval()
    predict = sklearn_predict(torch.load(folder / "centroids.pt", weights_only=True))
    paths = audio_files(folder)
    if sort:
        paths.sort(key=lambda path: -soundfile.info(path).frames)

    @torch.no_grad()
    def hidden_states(waveforms: list[Any]) -> Tensor:
        if model == "whisper":
            inputs = extractor(waveforms, sampling_rate=16_000, return_tensors="pt").input_features
            return network.encoder(inputs, output_hidden_states=True).hidden_states[LAYERS[model]]
        inputs = extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt").input_values
        return network(inputs, output_hidden_states=True).hidden_states[LAYERS[model]]

    def extract(tag: str) -> dict[str, list[int]]:
        units = {}
        with (folder / f"units{tag}.jsonl").open("w", encoding="utf-8") as file:
            for group in batched(paths, batch):
                waveforms = [soundfile.read(path, dtype="float32")[0] for path in group]
                for path, waveform, features in zip(group, waveforms, hidden_states(waveforms), strict=True):
                    num_frames = -(-len(waveform) // 320) if model == "whisper" else (len(waveform) - 400) // 320 + 1
                    frames = predict(features[:num_frames].cpu().numpy()).tolist()
                    runs = [(unit, len(list(run))) for unit, run in itertools.groupby(frames)]
                    row = {"file": path.name, "units": [unit for unit, _ in runs], "durations": [n for _, n in runs]}
                    file.write(json.dumps(row) + "\n")
                    units[path.stem] = frames
        return units

    return extract


def sklearn_predict(centroids: Tensor) -> Callable[[Any], Any]:
    """Return scikit-learn's assignment to these centroids."""
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=len(centroids), init=centroids.numpy(), n_init=1, max_iter=1).fit(centroids.numpy())
    model.cluster_centers_ = centroids.numpy()
    return model.predict


def differing_units(model: str, folder: Path, extractors: dict[str, Callable[[str], Any]]) -> dict[str, float]:
    """Return the share of frames whose unit is not that of transformers on each clip alone, where it should be."""
    from vocable.tokens.kmeans import KMeans

    alone = make_usual(model, folder, sort=False, batch=1)("alone")
    usual = [variant for variant in extractors if variant.startswith("usual")]
    shares = {variant: _share(alone, extractors[variant](f"last {variant}")) for variant in usual}
    kmeans = KMeans(torch.load(folder / "centroids.pt", weights_only=True))
    names = {"hubert": ("ours", "ours, bfloat16"), "whisper": ("ours, padded to 30 s",)}[model]
    for name in names:
        dtype = "bfloat16" if "bfloat16" in name else "float32"
        encoder = load_ours(model, folder, "30s" if model == "whisper" else "none", dtype)
        shares[name] = _share(
            alone, {path.stem: kmeans.assign(f).tolist() for path, f in encode_files(encoder, folder)}
        )
    return shares


def encode_files(encoder: Any, folder: Path) -> Iterator[tuple[Path, Tensor]]:
    """Encode every clip alone."""
    from vocable.audio.io import read_audio

    for path in audio_files(folder):
        yield path, encoder.encode([read_audio(path).waveform])[0]


def _share(expected: dict[str, list[int]], found: dict[str, list[int]]) -> float:
    pairs = [pair for name in expected for pair in zip(expected[name], found[name], strict=True)]
    return sum(one != other for one, other in pairs) / len(pairs)


def audio_files(folder: Path) -> list[Path]:
    """Return the clips in the order of their names."""
    return sorted((folder / "audio").glob("*.flac"))


def batched(items: list[Path], size: int) -> Iterator[list[Path]]:
    """Cut a list into groups of `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def show(results: dict[str, Any]) -> None:
    """Print a table."""
    print(f"{results['benchmark']}: {results['clips']} clips, {results['audio_seconds']} s, {results['machine']}")
    print(f"{'':26s}{'times faster':>20s}{'x real time':>13s}{'peak MB':>9s}{'loaded MB':>11s}{'other units':>13s}")
    for name, row in results["variants"].items():
        faster = row["times_faster"]
        spread = f"{faster['median']:.2f} ({faster['low']:.2f}-{faster['high']:.2f})"
        memory, share = row["peak_megabytes"], row["differing_units"]
        units = "" if share is None else f"{share:.2%}"
        print(
            f"{name:26s}{spread:>20s}{row['times_real_time']:13.1f}{memory['peak']:9.0f}{memory['loaded']:11.0f}"
            f"{units:>13s}"
        )


if __name__ == "__main__":
    sys.exit(main())

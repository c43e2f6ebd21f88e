"""Speech by the word: tokens, and the unit decoder, each against the plain way of doing the same, in one run.

    python benchmarks/taste.py --threads 1 --cpu-seconds --out taste.json
    python benchmarks/taste.py --parts unit_decoder --width 1024 --blocks 7

- aggregator: on the states of a clip, against those of the clip padded to 30 s, as published.
- tokenize: encoder, aggregator and quantizer likewise, with times faster than real time. The weights are those of
  openai/whisper-base, which must be there; quantizers are new.
- unit_decoder: units written with a key-value cache, against reading all of them again for each. Weights are random.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results

from vocable.features import EncoderConfig
from vocable.systems.taste.aggregator import Aggregator, DecoderShape
from vocable.systems.taste.config import AggregatorConfig, GridConfig, TasteConfig
from vocable.systems.taste.relative_transformer import BlockConfig
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.systems.taste.unit_network import UnitNetwork, UnitNetworkConfig
from vocable.types import Clip

WHISPER = "openai/whisper-base"
TEXT = "a clip of the mean length in the training set of the paper holds about twenty four words and so does this one"
SAMPLE_RATE, FRAME_RATE, WINDOW_FRAMES = 16_000, 50, 1500


def main() -> None:
    """Time the parts that are asked for, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=3)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seconds", type=float, default=9.3, help="length of the clip; 9.3 is the mean of the paper's")
    parser.add_argument("--units", type=int, default=200, help="units that are written")
    parser.add_argument("--width", type=int, default=512, help="width of the unit decoder; 1024 is published")
    parser.add_argument("--blocks", type=int, default=6, help="blocks of its language model; 7 are published")
    options = read_options(parser)
    results: dict[str, Any] = {"benchmark": "taste", **conditions(options), "seconds_of_clip": options.seconds}
    for part in options.parts:
        seconds = run_in_turn(PARTS[part](options), options.rounds, cpu_seconds=options.cpu_seconds)
        plain = next(iter(seconds.values()))
        results[part] = {
            name: {"seconds": times, "ratio": ratio(plain, times)._asdict()} for name, times in seconds.items()
        }
        print(f"{part}, {results['clock']}")
        for name, times in seconds.items():
            median = sorted(times)[len(times) // 2]
            real_time = f"{options.seconds / median:7.1f} x real time" if part == "tokenize" else ""
            print(f"  {name:44s} {median:9.4f} s  {ratio(plain, times)}  {real_time}")
    write_results(results, options.out)


def aggregator(options: Any) -> Mapping[str, Callable[[], Any]]:
    """Read 28 tokens off states, in the shape of Whisper base."""
    shape = DecoderShape(
        dim=512, num_heads=8, ffn_dim=2048, num_layers=6, vocabulary_size=51_865, num_positions=448
    )  # openai/whisper-base
    network = Aggregator(shape, AggregatorConfig(layers=(0, 5)), (50258, 50259, 50359, 50363)).eval()
    ids = torch.randint(50_000, (1, 28))
    last, shallow = torch.randn(2, 1, WINDOW_FRAMES, shape.dim)
    frames = round(options.seconds * FRAME_RATE)

    def read(count: int) -> Callable[[], Any]:
        return torch.inference_mode()(lambda: network(ids, last[:, :count], shallow[:, :count]))

    return {"padded to 30 s (published)": read(WINDOW_FRAMES), "cut to length (ours)": read(frames)}


def tokenize(options: Any) -> Mapping[str, Callable[[], Any]]:
    """Tokenize a clip of noise with its text."""
    clip = Clip(0.1 * torch.randn(round(options.seconds * SAMPLE_RATE)), TEXT)

    def tokenizer(attend_padding: bool) -> TasteTokenizer:
        encoder = EncoderConfig(name=WHISPER, layer=6, padding="30s" if attend_padding else "none")
        aggregator = AggregatorConfig(layers=(0, 5), attend_padding=attend_padding)
        return TasteTokenizer.of_checkpoint(TasteConfig(encoder=encoder, aggregator=aggregator, quantizer=GridConfig()))

    padded, cut = tokenizer(True), tokenizer(False)
    return {
        "padded to 30 s (published)": lambda: padded.encode([clip]),
        "cut to length (ours)": lambda: cut.encode([clip]),
    }


def unit_decoder(options: Any) -> Mapping[str, Callable[[], Any]]:
    """Write units after 28 tokens, the same in both ways."""
    blocks = BlockConfig(num_blocks=options.blocks, width=options.width)
    network = UnitNetwork(UnitNetworkConfig(language_model=blocks), 512, 100, 500).eval()
    count = options.units
    with torch.no_grad():
        prefix = network.prefix(torch.randn(28, options.width), torch.randn(256))

    def with_cache() -> None:
        network.write(prefix, count, count, 25, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def without_cache() -> None:
        rows = prefix[None]
        for _ in range(count):
            unit = network.head(network.language_model(rows)[0, -1]).argmax()
            rows = torch.cat([rows, network.unit_embedding(unit)[None, None]], dim=1)

    return {"all units read again (plain)": without_cache, "key-value cache (ours)": with_cache}


PARTS: Mapping[str, Callable[[Any], Mapping[str, Callable[[], Any]]]] = {
    "aggregator": aggregator,
    "tokenize": tokenize,
    "unit_decoder": unit_decoder,
}


if __name__ == "__main__":
    main()

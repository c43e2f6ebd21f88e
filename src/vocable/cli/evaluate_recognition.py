"""`vocable evaluate recognition`: how well can text be recognised from tokens?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def evaluate_recognition_command(
    *,
    manifest: Path,
    test_manifest: Path,
    out: Path,
    tokens: Path | None = None,
    test_tokens: Path | None = None,
    tokenizer: Path | None = None,
    input: Literal["frames", "runs"] = "frames",
    control: Literal["none", "shuffled"] = "none",
    normaliser: str = "basic",
    epochs: int = 8,
    batch_utterances: int = 16,
    learning_rate: float = 3e-3,
    hidden_dim: int = 128,
    num_layers: int = 2,
    dropout: float = 0.1,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Train a small CTC network from units to characters, and count its errors on other utterances.

    Writes recognition.json (character and word error rates with 95 % intervals, the loss of every epoch) and
    recognition.items.parquet (reference, hypothesis and errors of every test utterance). The same network and training
    for every tokenizer: compare results with 'vocable compare'.

    Args:
        manifest: The utterances to train on (JSONL), with text.
        test_manifest: The utterances to test on, with text; none of them in the other manifest.
        out: Folder for the results.
        tokens: Folder of token shards, as 'vocable tokenize' writes them. Either this or a tokenizer.
        test_tokens: Folder of token shards of the test utterances. Without it, they are in the other folder.
        tokenizer: Folder of a saved tokenizer, which then encodes the utterances.
        input: What the network reads: frames, 50 a second, or runs without their durations.
        control: shuffled puts the runs of every utterance in random order, to see what their order is worth.
        normaliser: What is done to texts first: english, basic or none. english writes spelt numbers as digits.
        epochs: Of training.
        batch_utterances: In one update.
        learning_rate: The highest, after the first tenth of the updates; it falls to 0 as a cosine.
        hidden_dim: Width of the recurrent layers, in each direction.
        num_layers: Recurrent layers.
        dropout: In training.
        seed: Of first weights, dropout, the order of utterances, the control, and the bootstrap.
        device: Where to encode and train, such as cpu or cuda. Without it, a GPU if there is one.
        overwrite: Replace an earlier result in the same folder.
    """
    from vocable.audio.manifest import read_manifest
    from vocable.cli.showing import print_scores
    from vocable.devices import best_device
    from vocable.errors import ConfigError
    from vocable.evaluation.ctc_probe import evaluate_recognition
    from vocable.evaluation.ctc_probe_model import ProbeConfig
    from vocable.evaluation.results import check_output, save_result
    from vocable.evaluation.token_sources import TokenSource
    from vocable.progress import progress
    from vocable.tokens import load_tokenizer

    config = ProbeConfig(
        input=input,
        control=control,
        normaliser=normaliser,
        epochs=epochs,
        batch_utterances=batch_utterances,
        learning_rate=learning_rate,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        dropout=dropout,
        seed=seed,
    )
    if test_tokens is not None and tokens is None:
        raise ConfigError("test_tokens is given without tokens. Give both, or a tokenizer.")
    check_output(out, "recognition", overwrite)
    device = best_device(device)
    loaded = load_tokenizer(tokenizer, device=device) if tokenizer is not None else None
    train = TokenSource(read_manifest(manifest), tokens, loaded)
    test = TokenSource(read_manifest(test_manifest), test_tokens or tokens, loaded)
    with progress("Training") as advance:
        result = evaluate_recognition(train, test, config, device, on_progress=advance)
    path = save_result(result, out, overwrite=True)
    print_scores(result)
    print(f"Results: {path}")


COMMANDS = {"evaluate recognition": evaluate_recognition_command}

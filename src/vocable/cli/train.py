"""`vocable train`: from a manifest, or from tokens, to a language model of speech, or of speech and text; or to a
tokenizer that learns through one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any


def train(
    recipe: Path,
    *,
    out: Path,
    manifest: Path | None = None,
    valid_manifest: Path | None = None,
    tokens: Path | None = None,
    valid_tokens: Path | None = None,
    tokenizer: Path | None = None,
    text: Path | None = None,
    processes: int = 1,
    device: str | None = None,
    strict: bool = False,
    overrides: tuple[str, ...] = (),
) -> None:
    """Train a language model by a recipe, from a manifest or from token shards; or a tokenizer, from a manifest.

    The recipe's key `system` says which: twist (units) or sutlm (units and text; alternating rows need word times in
    the manifest: vocable align), or last (a tokenizer that learns through a frozen text model; OUT/tokenizer).

    With a manifest, units are fitted (unless a tokenizer is given) and speech is tokenized first, under OUT. Run the
    same command again after an interruption: finished parts are kept, training goes on where it stopped. Any setting
    of the recipe can be changed behind the command: lm.warm=false training.max_steps=1000.

    Several processes: accelerate launch --num_processes 2 -m vocable train ... --tokens TOKENS --out OUT

    Args:
        recipe: A yaml such as recipes/twist/cpu.yaml.
        out: Folder of the run: tokenizer/, tokens/, valid-tokens/, lm/best and lm/last, config.yaml.
        manifest: Speech to train on.
        valid_manifest: Speech to validate on. Default: a share of the training utterances, chosen by id.
        tokens: Token shards to train on, in place of a manifest.
        valid_tokens: Token shards to validate on.
        tokenizer: Folder of a fitted tokenizer. Default: fit one on the manifest.
        text: A file with a text on each line, without speech, for a system that reads text.
        processes: Local processes that tokenize.
        device: Where encoders run, such as cuda:0. Default: a GPU if there is one.
        strict: Stop at the first unreadable recording instead of noting it in rejected.jsonl.
    """
    from dataclasses import replace

    from vocable.config import load_config, save_config, system_of
    from vocable.errors import ConfigError
    from vocable.systems import load_system
    from vocable.tokens.shards import TokenShards
    from vocable.tokens.tokenizer import load_tokenizer
    from vocable.tokens.unit_tokenizer import UnitTokenizer
    from vocable.training.logs import quiet_transformers

    system, config_class = load_system(system_of(recipe))
    config: Any = load_config(config_class, recipe, overrides)
    if text is not None and config.system != "sutlm":
        raise ConfigError(f"--text gives text to read, but {recipe} is for {config.system}, which reads units alone.")
    quiet_transformers()
    if hasattr(system, "train_from_speech"):
        if manifest is None or tokens is not None or tokenizer is not None:
            raise ConfigError(f"{recipe} trains a tokenizer: give --manifest, and neither --tokens nor --tokenizer.")
        _train_tokenizer(system, config, manifest, valid_manifest, out, device, strict)
        return
    if (manifest is None) == (tokens is None):
        raise ConfigError("Give either --manifest (speech) or --tokens (token shards), not both and not neither.")
    if manifest is not None:
        tokenizer, tokens, valid_tokens = _tokens_from_speech(
            system, config, manifest, valid_manifest, tokenizer, out, processes, device, strict
        )
    assert tokens is not None
    out.mkdir(parents=True, exist_ok=True)
    loaded = load_tokenizer(tokenizer) if tokenizer else None
    named = isinstance(loaded, UnitTokenizer)
    if named:
        config = replace(config, tokenizer=loaded.config)  # what is saved below names the units that were used
    valid_shards = TokenShards(valid_tokens) if valid_tokens else None
    if config.system == "sutlm":
        result = system.train(config, TokenShards(tokens), out, valid_shards, loaded, _lines(text))
    else:
        result = system.train(config, TokenShards(tokens), out / "lm", valid_shards, loaded)
    save_config(config, out / "config.yaml", _units_note(TokenShards(tokens).card, named))
    if result.valid_curve:
        print(f"Held-out loss: {min(line['loss'] for line in result.valid_curve):.3f} nats per token")
    print(f"Language model: {result.best} (best), {result.last} (last)")


def _units_note(card: dict[str, Any], named: bool) -> str:
    """What a reader of the saved config must know where its section `tokenizer` does not name the units."""
    if named:
        return ""
    return (
        f"The units are those of the {card['tokenizer_type']} tokenizer {card['name']}, {card['fingerprint']};\n"
        "the section `tokenizer` was not used."
    )


def _train_tokenizer(
    system: ModuleType,
    config: Any,
    manifest: Path,
    valid_manifest: Path | None,
    out: Path,
    device: str | None,
    strict: bool,
) -> None:
    """Train a tokenizer, and say where it is and how well its units are used."""
    from vocable.audio.manifest import Rejections, read_manifest
    from vocable.config import save_config
    from vocable.progress import progress

    rejections = Rejections(out)
    utterances, valid = (
        None if path is None else read_manifest(path, strict=strict, rejections=rejections)
        for path in (manifest, valid_manifest)
    )
    with progress("features") as advance:
        data = system.prepare_data(config, utterances, out, valid, device, rejections, strict, lambda: advance(1))
    result = system.train_from_speech(config, data, out)
    save_config(config, out / "config.yaml")
    if rejections.count:
        print(f"{rejections.count} utterances were left out; the reasons are in {rejections.path}")
    if result.valid_curve:
        best = min(result.valid_curve, key=lambda line: line["loss"])
        print(
            f"Held out, step {best['step']}: {best['nll']:.3f} nats per frame, reconstruction "
            f"{best['reconstruction']:.4g}, perplexity {best['perplexity']:.1f} of "
            f"{config.model.quantizer.codebook_size} units"
        )
    print(f"Tokenizer: {out / 'tokenizer'}")


def _lines(text: Path | None) -> list[str]:
    """Read the lines that are not blank.

    Raises:
        ConfigError: the file cannot be read as text, or has none.
    """
    from vocable.errors import ConfigError

    if text is None:
        return []
    try:
        lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--text {text}: cannot be read as UTF-8 text ({error}).") from error
    if not lines:
        raise ConfigError(f"--text {text}: holds no text.")
    return lines


def _tokens_from_speech(
    system: ModuleType,
    config: Any,
    manifest: Path,
    valid_manifest: Path | None,
    tokenizer: Path | None,
    out: Path,
    processes: int,
    device: str | None,
    strict: bool,
) -> tuple[Path, Path, Path | None]:
    """Fit units unless there are some, and tokenize; return the folders of tokenizer, tokens and validation tokens."""
    from vocable.cli.tokenize import tokenize_manifest
    from vocable.cli.tokenizer import fit_and_save
    from vocable.devices import best_device

    if tokenizer is None:
        tokenizer = out / "tokenizer"
        if not (tokenizer / "config.json").is_file() and config.kmeans_file is not None:
            system.build_tokenizer(config, [], best_device(device)).save_pretrained(tokenizer)
        elif not (tokenizer / "config.json").is_file():
            fit_and_save(manifest, tokenizer, config.tokenizer, device, strict)
    folders = [out / "tokens", out / "valid-tokens"]
    for source, folder in zip((manifest, valid_manifest), folders, strict=True):
        if source is not None:
            tokenize_manifest(source, folder, str(tokenizer), processes=processes, device=device, strict=strict)
    return tokenizer, folders[0], folders[1] if valid_manifest is not None else None


COMMANDS = {"train": train}

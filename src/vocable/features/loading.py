"""Build an encoder from its config: find the checkpoint, load the layers that are used, leave out the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocable.assets.quiet import silenced_transformers
from vocable.errors import AssetError, ConfigError, UnknownNameError
from vocable.features.base import FeatureEncoder
from vocable.features.config import LOG_MEL, EncoderConfig
from vocable.features.hubert import HubertEncoder, WavLMEncoder
from vocable.features.log_mel import LogMelConfig, LogMelEncoder
from vocable.features.whisper import WhisperEncoder
from vocable.registry import unknown_name_message

FAMILIES = ("hubert", "wav2vec2", "wavlm", "whisper")
"""The `model_type` of the checkpoints that can be read."""


def load_encoder(config: EncoderConfig, device: str = "cpu") -> FeatureEncoder:
    """Load the encoder that `config` names, on `device`, frozen.

    Raises:
        AssetError: the checkpoint cannot be found, or lacks weights.
        UnknownNameError: it is a model of another family.
        ConfigError: it has fewer layers than asked for, or a setting does not fit the family.
    """
    if config.name == LOG_MEL:
        return _load_log_mel(config).to(device)
    if config.log_mel is not None:
        raise ConfigError(
            f"encoder.log_mel is set, but the encoder is {config.name!r}; it belongs to {LOG_MEL!r} only."
        )
    from vocable.assets import resolve

    folder = Path(resolve(config.name))
    settings = _read_json(folder / "config.json")
    family = settings.get("model_type", "")
    if family not in FAMILIES:
        raise UnknownNameError(f"{folder}: {unknown_name_message('model_type', str(family), FAMILIES)}")
    count = "encoder_layers" if family == "whisper" else "num_hidden_layers"
    num_layers = _num_layers(settings, family, count)
    if config.layer > num_layers:
        raise ConfigError(
            f"encoder.layer is {config.layer}, but {config.name!r} has {num_layers} layers. Choose 0 to {num_layers}."
        )
    load = _load_whisper if family == "whisper" else _load_hubert_family
    return load(config, folder, family, num_layers).to(device)


def _load_log_mel(config: EncoderConfig) -> LogMelEncoder:
    if config.layer != 0:
        raise ConfigError(f"encoder.layer is {config.layer}, but {LOG_MEL!r} has no layers; set it to 0.")
    _refuse(config, "padding", "none", "positions", "keep", "normalise", None)
    return LogMelEncoder(
        config.log_mel,
        window_seconds=config.window_seconds or 60.0,
        context_seconds=config.context_seconds,
        batch_seconds=config.batch_seconds,
    )


def _load_hubert_family(config: EncoderConfig, folder: Path, family: str, num_layers: int) -> HubertEncoder:
    _refuse(config, "padding", "none", "positions", "keep")
    from transformers import HubertModel, Wav2Vec2Model, WavLMModel

    kind: Any = {"hubert": HubertModel, "wav2vec2": Wav2Vec2Model, "wavlm": WavLMModel}[family]
    model = load_checkpoint(kind, folder, {"num_hidden_layers": config.layer}, ("masked_spec_embed",))
    preprocessor = _read_preprocessor(folder)
    normalise = bool(preprocessor.get("do_normalize", False)) if config.normalise is None else config.normalise
    encoder = WavLMEncoder if family == "wavlm" else HubertEncoder
    return encoder(
        model,
        config,
        num_layers=num_layers,
        normalise=normalise,
        sample_rate=int(preprocessor.get("sampling_rate", 16_000)),
    )


def _load_whisper(config: EncoderConfig, folder: Path, family: str, num_layers: int) -> WhisperEncoder:
    _refuse(config, "normalise", None)
    from transformers import WhisperModel

    model = load_checkpoint(WhisperModel, folder, {"encoder_layers": config.layer, "decoder_layers": 0}, ("decoder.",))
    preprocessor = _read_preprocessor(folder)
    mel = LogMelConfig(
        sample_rate=int(preprocessor.get("sampling_rate", 16_000)),
        num_mels=model.config.num_mel_bins,
        hop_length=int(preprocessor.get("hop_length", 160)),
        n_fft=int(preprocessor.get("n_fft", 400)),
        max_frequency=8000.0,
        scaling="whisper",
    )
    return WhisperEncoder(model.encoder, config, num_layers=num_layers, mel=mel)


def load_checkpoint(kind: Any, folder: Path, changes: dict[str, Any], unused: tuple[str, ...]) -> Any:
    """Load the checkpoint into a model that has only the layers in use.

    A weight that is missing in the checkpoint, and whose name does not begin with one of `unused`, is an error:
    transformers would fill it with noise.
    """
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name, value in changes.items():
        setattr(settings, name, value)
    attention = {} if settings.model_type == "wavlm" else {"attn_implementation": "sdpa"}
    with silenced_transformers():  # it would list every weight of the layers that are left out
        try:
            model, report = kind.from_pretrained(
                folder, config=settings, local_files_only=True, dtype="float32", output_loading_info=True, **attention
            )
        except OSError as error:
            raise AssetError(f"{folder}: no weights of a {settings.model_type} model could be read: {error}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(unused))
    if missing:
        raise AssetError(
            f"{folder}: the checkpoint lacks {len(missing)} weights of its {settings.model_type} encoder, the first is "
            f"{missing[0]!r}. It is damaged, or of another model than its config.json says."
        )
    return model.eval()


def _num_layers(settings: dict[str, Any], family: str, count: str) -> int:
    if count in settings:
        return int(settings[count])
    from transformers import AutoConfig  # a config.json may leave out what is a default of its family

    return int(getattr(AutoConfig.for_model(family), count))


def _refuse(config: EncoderConfig, *names_and_defaults: Any) -> None:
    """Complain about settings that this family does not have."""
    for name, default in zip(names_and_defaults[::2], names_and_defaults[1::2], strict=True):
        if getattr(config, name) != default:
            raise ConfigError(
                f"encoder.{name} is {getattr(config, name)!r}, but {config.name!r} has no such choice. Leave it out."
            )


def _read_preprocessor(folder: Path) -> dict[str, Any]:
    """Return the settings of the checkpoint's feature extractor; empty when it comes without."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            settings = _read_json(folder / name)
            return settings.get("feature_extractor", settings)
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AssetError(f"{path.parent}: there is no {path.name}; this is not a checkpoint folder.") from error
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise AssetError(f"{path}: holds a {type(settings).__name__}, not a mapping.")
    return settings

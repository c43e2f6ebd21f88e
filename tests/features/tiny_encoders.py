"""Tiny checkpoints with random weights, saved as published ones are, and transformers' own way of running them."""

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

NUM_LAYERS = 3
# initializer_range: large enough that attention and norms matter, so that leaks and wrong layers show
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.2,
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
STRIDES_25HZ = {
    "conv_dim": (32,) * 8,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
}
# name -> (config class, model class, differences from SHAPE, whether the checkpoint normalises its input)
HUBERT_FAMILY = {
    "hubert-base": (HubertConfig, HubertModel, {}, True),
    "hubert-large": (HubertConfig, HubertModel, LARGE, True),
    "hubert-25hz": (HubertConfig, HubertModel, STRIDES_25HZ, False),
    "wav2vec2-base": (Wav2Vec2Config, Wav2Vec2Model, {}, False),
    "wav2vec2-large": (Wav2Vec2Config, Wav2Vec2Model, LARGE, True),
    "wavlm-base": (WavLMConfig, WavLMModel, {}, False),
    "wavlm-large": (WavLMConfig, WavLMModel, LARGE, True),
}
WHISPER = "whisper"


def save_tiny(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint `name`: config, weights, preprocessor config."""
    torch.manual_seed(seed)
    if name == WHISPER:
        config = WhisperConfig(
            d_model=32, encoder_layers=NUM_LAYERS, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=1,
            decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=60, num_mel_bins=80, init_std=0.2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, begin_suppress_tokens=None,
        )  # fmt: skip
        _randomise(WhisperForConditionalGeneration(config)).save_pretrained(folder)
        WhisperFeatureExtractor().save_pretrained(folder)
        return folder
    config_class, model_class, differences, normalise = HUBERT_FAMILY[name]
    _randomise(model_class(config_class(**{**SHAPE, **differences}))).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    return folder


def _randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give norms and biases other values than 1 and 0, which would hide a norm left out."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "gru_rel_pos_const" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def reference_hidden_states(folder: Path, waveform: Tensor) -> tuple[Tensor, ...]:
    """Run transformers' own feature extractor and model on one clip; every hidden state, `(frames, dim)` each.

    The last is `last_hidden_state`, final norm included: transformers 5 leaves that norm out of `hidden_states`.
    """
    return tuple(state[0] for state in _reference(folder, [waveform]))


def naive_batch(folder: Path, waveforms: list[Tensor], layer: int) -> list[Tensor]:
    """Zero-pad to the longest clip and run as one batch, as many extraction scripts do; returns padded rows."""
    return list(_reference(folder, waveforms)[layer])


@torch.no_grad()
def _reference(folder: Path, waveforms: list[Tensor]) -> tuple[Tensor, ...]:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    clips = [waveform.numpy() for waveform in waveforms]
    if json.loads((folder / "config.json").read_text())["model_type"] == WHISPER:
        inputs = extractor(clips, sampling_rate=16_000, return_tensors="pt")
        output = model.encoder(inputs.input_features, output_hidden_states=True)
    else:
        inputs = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
        output = model(inputs.input_values, output_hidden_states=True)
    return *output.hidden_states[:-1], output.last_hidden_state

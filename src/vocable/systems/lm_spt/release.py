"""Weights laid out as those of LM-SPT's release: a torch or safetensors file -> a codec.

The published weights (kakaocorp/lmspt on the Hugging Face hub) have the licence CC-BY-NC-4.0, non-commercial use only.
Vocable neither ships nor fetches them: whoever may use them names the file. Proved on random weights of their shapes.

The layout is that of the public descript-audio-codec (Kumar et al., 2023, arXiv:2306.06546), on which the release
builds, once for each part. N counts blocks, R residual units, L levels, all from 0 or as said:

    PART.block.0                      encoder: conv k7                                       weight_g weight_v bias
    PART.block.N.block.R              residual unit R = 0, 1, 2 of block N = 1, 2, ...
      .block.0  .block.2              Snake                                                  alpha (1, channels, 1)
      .block.1  .block.3              conv k7 dilated, conv k1                               weight_g weight_v bias
    PART.block.N.block.3  .block.4    Snake, strided conv k2s                                alpha; weight_g ...
    PART.block.(n+1) .block.(n+2)     Snake, conv k3 to the latent, after n blocks
    PART.model.0                      decoder: conv k7
    PART.model.N.block.0  .block.1    Snake, transposed conv k2s, of block N = 1, 2, ...
    PART.model.N.block.R              residual units R = 2, 3, 4, as above
    PART.model.(n+1) .model.(n+2)     Snake, conv k7 to the waveform
    PART.quantizers.L.in_proj         conv k1 to the codes' width, and out_proj back         weight_g weight_v bias
    PART.quantizers.L.codebook        entries                                                weight

The names of the parts, `PARTS` below, are not known to us and are our choice; `rename` leads a file's own ones there.

    config = load_config(LmSptConfig, Path("recipes/lm-spt/release-12.5hz.yaml"))
    codec = load_release("weights.safetensors", config.codec, rename={"enc_s": "semantic_encoder"})
    LmSptTokenizer.of_codec(codec, config.name).save_pretrained("released")
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from vocable.errors import AssetError, ConfigError
from vocable.systems.lm_spt.config import CodecConfig
from vocable.systems.lm_spt.dac import DacDecoderConfig, DacEncoderConfig
from vocable.systems.lm_spt.model import LmSptCodec

PARTS = {
    "semantic_encoder": "semantic_encoder",
    "acoustic_encoder": "acoustic_encoder",
    "quantizer.semantic": "semantic_quantizer.quantizers.0",
    "quantizer.acoustic.levels": "acoustic_quantizer.quantizers",
    "decoder": "decoder",
    "auxiliary": "aux_decoder",
}
"""Our parts, and their names in the file."""
WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
"""Torch's names for the length and the direction of normed weights, today and when the release was made."""
QUANTIZER = {"project_in": "in_proj", "project_out": "out_proj", "codebook": "codebook.weight"}
"""Our names in a quantizer, and those in the file."""
TRAINING_ONLY = {"average_counts", "average_sums", "initialised", "num_batches"}
"""Buffers of a quantizer that the release does not have."""


def load_release(path: Path | str, config: CodecConfig, rename: Mapping[str, str | None] | None = None) -> LmSptCodec:
    """Load weights laid out as the release into a codec, in evaluation mode. No pickled code is run.

    Args:
        path: a safetensors file, or a torch file: a table of tensors, or one under "state_dict".
        config: the codec of recipes/lm-spt/release-12.5hz.yaml, or one of the same kinds of networks.
        rename: how names begin in the file, whole parts between dots -> how they begin in the layout above, or None to
            leave such tensors out. The longest beginning counts.

    Raises:
        AssetError: the file is missing or no table of tensors; tensors are missing, unknown or of other shapes.
        ConfigError: the codec has other kinds of networks.
    """
    codec = LmSptCodec(config)
    layout = _layout(codec)
    tensors = _renamed(_read(Path(path)), rename or {}, str(path))
    _check(layout, tensors, str(path))
    state = codec.state_dict()
    for name, (target, _) in layout.items():
        tensor = tensors[name].float()
        if name.endswith("_proj.weight_g"):  # our linear maps are not normed
            continue
        if name.endswith("_proj.weight_v"):
            tensor = torch._weight_norm(tensor, tensors[name.removesuffix("_v") + "_g"].float(), 0)[..., 0]
        state[target].copy_(tensor)
    for level in (codec.quantizer.semantic, *codec.quantizer.acoustic.levels):
        level.get_buffer("initialised").fill_(True)
    return codec.eval()


def release_layout(codec: LmSptCodec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a file for this codec holds.

    Raises:
        ConfigError: the codec has other kinds of networks than the release.
    """
    return {name: shape for name, (_, shape) in _layout(codec).items()}


def _layout(codec: LmSptCodec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The file's names, and for each our name and the file's shape."""
    config = codec.config
    levels = config.quantizer.semantic, config.quantizer.acoustic.level
    if (
        config.shared != "nothing"
        or not isinstance(config.encoder, DacEncoderConfig)
        or not all(isinstance(decoder, DacDecoderConfig) for decoder in (config.decoder, config.auxiliary))
        or not all(getattr(level, "code_dim", None) for level in levels)
    ):
        raise ConfigError(
            "The release has two encoders and two decoders of kind 'dac', and quantizers with a code_dim; this codec "
            "has others. Use that of recipes/lm-spt/release-12.5hz.yaml."
        )
    layout = {}
    for ours, tensor in codec.state_dict().items():
        part = next(part for part in PARTS if ours.startswith(f"{part}."))
        name, shape = ours.removeprefix(f"{part}."), tuple(tensor.shape)
        if part.startswith("quantizer"):
            if name.split(".")[-1] in TRAINING_ONLY:
                continue
            for new, old in QUANTIZER.items():
                name = name.replace(new, old)
        for new, old in WEIGHT_NORM.items():
            name = name.replace(new, old)
        name = f"{PARTS[part]}.{name}"
        if name.endswith("_proj.weight"):
            layout[f"{name}_g"] = ours, (shape[0], 1, 1)
            layout[f"{name}_v"] = ours, (*shape, 1)
        else:
            layout[name] = ours, shape
    return layout


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise AssetError(f"{path}: no such file. Weights of the release are not fetched: name a file that you have.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise AssetError(f"{path}: not plain tensors, so it is not loaded: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        holds = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise AssetError(f"{path}: holds {holds}; expected a table of tensors, or one under 'state_dict'.")
    return dict(content)


def _renamed(tensors: Mapping[str, Tensor], rename: Mapping[str, str | None], path: str) -> dict[str, Tensor]:
    """The tensors under the names of the layout."""
    renamed: dict[str, Tensor] = {}
    for found, tensor in tensors.items():
        matching = [beginning for beginning in rename if f"{found}.".startswith(f"{beginning}.")]
        name: str | None = found
        if matching:
            beginning = max(matching, key=len)
            new = rename[beginning]
            name = None if new is None else new + found.removeprefix(beginning)
        if name is None:
            continue
        for new, old in WEIGHT_NORM.items():
            name = name.replace(new, old)
        if name in renamed:
            raise AssetError(f"{path}: two tensors become {name!r}, {found!r} the second. Change `rename`.")
        renamed[name] = tensor
    return renamed


def _check(layout: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Mapping[str, Tensor], path: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = [
        f"{name} {shapes[name]} (expected {shape})"
        for name, (_, shape) in layout.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = {
        "missing": [name for name in layout if name not in shapes],
        "unknown": [name for name in shapes if name not in layout],
        "of another shape": differing,
    }
    found = [f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise AssetError(
            f"{path}: the tensors are not those of this codec. {'. '.join(found)}. Lead names to the layout with "
            "`rename`, and set the codec to the sizes of the file."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")

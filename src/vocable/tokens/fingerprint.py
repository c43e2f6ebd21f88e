"""Fingerprints: short names of exactly one encoder, codebook or tokenizer, to refuse parts that do not belong together.

The classic silent failure of unit language models is a codebook used with another layer or other weights than it was
fitted on: the ids are valid and mean nothing. Whatever is derived from a tokenizer (tokens, shards, language model,
vocoder) therefore carries its fingerprint, and `check_fingerprint` compares.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vocable.errors import FingerprintError

FINGERPRINT_LETTERS = 16  # 64 bits: chance collisions are out of the question for the number of tokenizers in the world


def tensor_sha256(tensors: Tensor | Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes of some tensors; the order of the mapping and the device do not matter."""
    if isinstance(tensors, Tensor):
        tensors = {"": tensors}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(header).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(description: Mapping[str, Any]) -> str:
    """Hash a description of JSON values to 16 hexadecimal letters; the order of keys does not matter."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:FINGERPRINT_LETTERS]


def encoder_fingerprint(description: Mapping[str, Any]) -> str:
    """Name an encoder by what decides its features: a model is the same under a hub name, an alias or a folder."""
    return fingerprint({key: value for key, value in description.items() if key != "name"})


def check_fingerprint(expected: str, found: str, what_expected: str, what_found: str) -> None:
    """Compare two fingerprints.

    Args:
        expected: The fingerprint that `what_expected` was made with.
        found: The fingerprint of `what_found`, which is about to be used with it.
        what_expected: For the message, e.g. "the language model lm/".
        what_found: For the message, e.g. "the tokenizer units/".

    Raises:
        FingerprintError: they differ; the message names both parts and both fingerprints.
    """
    if expected != found:
        raise FingerprintError(
            f"{what_expected} was made for fingerprint {expected}, but {what_found} has fingerprint {found}. "
            f"They do not belong together: use the part with fingerprint {expected}, or make {what_expected} again."
        )

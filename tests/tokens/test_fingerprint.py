import pytest
import torch

from vocable.errors import FingerprintError
from vocable.tokens.fingerprint import check_fingerprint, fingerprint, tensor_sha256


def test_order_of_names_does_not_matter_and_every_detail_does():
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    base = tensor_sha256({"a": a, "b": b})
    assert tensor_sha256({"b": b, "a": a.clone()}) == base
    changed = a.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = [
        {"a": changed, "b": b},
        {"a": a.reshape(3, 2), "b": b},
        {"a": a.double(), "b": b},
        {"a": a, "c": b},
        {"a": b, "b": a},
    ]
    assert len({base, *(tensor_sha256(other) for other in others)}) == 6


def test_non_contiguous_bfloat16_and_scalar_tensors_can_be_hashed():
    matrix = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    assert tensor_sha256(matrix.T) == tensor_sha256(matrix.T.contiguous())
    assert tensor_sha256(torch.tensor(1.0)) != tensor_sha256(torch.tensor(2.0))


def test_fingerprint_is_pinned():
    # computed once by this function; a change would orphan every saved tokenizer
    assert fingerprint({"layer": 2, "name": "é"}) == fingerprint({"name": "é", "layer": 2}) == "f39cca833ba41ce3"
    assert fingerprint({"layer": 3, "name": "é"}) != fingerprint({"layer": 2, "name": "é"})


def test_a_mismatch_names_both():
    check_fingerprint("aa", "aa", "the model", "the tokenizer")
    with pytest.raises(FingerprintError, match=r"the model lm/ .*fingerprint aa, but the tokenizer units/ .* bb"):
        check_fingerprint("aa", "bb", "the model lm/", "the tokenizer units/")

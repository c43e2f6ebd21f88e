"""How much units say about phones: purities and mutual information of a table of joint counts.

    frames labelled with phone and unit  ->  counts (phones, units)  ->  phone purity, cluster purity, PNMI

Source: HuBERT (Hsu et al., 2021, arXiv:2106.07447), section IV, "Metrics of target quality". All three grow with the
number of units when there are few frames, and phone purity and PNMI with the number of units in any case: compare them
at equal codebook size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vocable.errors import ConfigError


class PhoneUnitStatistics(NamedTuple):
    """Purities and mutual information of a table of joint counts; p is the share of frames."""

    phone_purity: float
    """sum over units of max over phones of p(phone, unit): accuracy of calling each unit by its commonest phone."""
    cluster_purity: float
    """sum over phones of max over units of p(phone, unit): the converse; falls when a phone has several units."""
    pnmi: float
    """I(phone; unit) / H(phone): share of the uncertainty about the phone that the unit removes, 0 to 1."""
    mutual_information_bits: float
    phone_entropy_bits: float
    unit_entropy_bits: float


def phone_unit_statistics(joint: Float[np.ndarray, "phones units"]) -> PhoneUnitStatistics:
    """Compute purities and PNMI of joint counts. Where there is one phone only, PNMI is NaN: nothing can be learnt.

    Raises:
        ConfigError: the table is not two-dimensional, is empty, or holds a negative or infinite count.
    """
    joint = np.asarray(joint, dtype=np.float64)
    if joint.ndim != 2 or not np.isfinite(joint).all() or (joint < 0).any() or joint.sum() == 0:
        raise ConfigError("Joint counts must be a table (phones, units) of finite counts, at least one of them not 0.")
    shares = joint / joint.sum()
    phones, units = shares.sum(1), shares.sum(0)
    phone_entropy, unit_entropy = entropy_bits(phones), entropy_bits(units)
    information = max(phone_entropy + unit_entropy - entropy_bits(shares.ravel()), 0.0)
    return PhoneUnitStatistics(
        phone_purity=float(shares.max(0).sum()),
        cluster_purity=float(shares.max(1).sum()),
        pnmi=information / phone_entropy if phone_entropy > 0 else float("nan"),
        mutual_information_bits=information,
        phone_entropy_bits=phone_entropy,
        unit_entropy_bits=unit_entropy,
    )


def entropy_bits(counts: Float[np.ndarray, " cells"]) -> float:
    """Entropy of the shares of some counts, in bits; 0 log 0 is 0."""
    counts = counts[counts > 0]
    if counts.size < 2:  # exactly 0, not 0 up to rounding
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())

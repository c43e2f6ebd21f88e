"""Minimal pairs: what they are, how rows are built and scored, and how credits are summed up.

items -> rows -> log-likelihoods -> tables        models: what is scored        benchmark: what the four share
"""

from vocable.evaluation.pairs.items import PairItem, PairSet, Segment, is_pair_set, read_pair_set, write_pair_set

__all__ = ["PairItem", "PairSet", "Segment", "is_pair_set", "read_pair_set", "write_pair_set"]

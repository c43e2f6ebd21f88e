"""Minimal pairs: what they are, how rows are built and scored, and how credits are summed up.

items -> rows -> scoring -> tables        models: what is scored        benchmarks: the four by name
"""

from vocable.evaluation.pairs.items import PairItem, PairSet, Segment, is_pair_set, read_pair_set, write_pair_set

__all__ = ["PairItem", "PairSet", "Segment", "is_pair_set", "read_pair_set", "write_pair_set"]

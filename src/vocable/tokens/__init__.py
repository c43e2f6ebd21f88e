"""Frames <-> units and codes: k-means, runs, the tokenizer interface, token shards."""

"""Compare results item by item: pairing, tests and intervals, the items that differ most, and a page."""

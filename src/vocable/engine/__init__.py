"""A map over shards: in this process, or over local processes."""

"""One file per corpus or foreign format: `download_x`, `prepare_x` -> manifest."""

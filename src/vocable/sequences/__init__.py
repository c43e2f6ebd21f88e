"""Units, codes and text -> token ids and masks; packing."""

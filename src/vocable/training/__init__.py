"""Training loops: schedules, checkpoints, exact resume."""

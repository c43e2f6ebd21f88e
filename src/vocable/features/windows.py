"""Cut long recordings into overlapping windows of frames, and say which frames of each to keep.

    run    |------------------|
                         |------------------|
                                       |------------|
    keep   |----------------|-------------|-----------|

Neighbouring windows share `2 * context` frames; each gives up `context` of them, so every kept frame has seen at least
`context` frames on both sides (except at the ends of the recording), and every frame is kept exactly once.

What is promised of a recording longer than a window:
- Exact, always: the number of frames; streamed blocks give the same bits as the whole; windows lie at fixed places.
- log-mel: equal to one pass over the whole, up to rounding, because a frame hears less than the context. (With
  Whisper's scaling, the loudest value is that of the window.)
- HuBERT, WavLM, wav2vec 2.0: an approximation of one pass. Attention hears the window only, and normalisation of the
  input and the base models' norm over time are those of the window. More context brings it closer (tested).
- Whisper: there is no one pass, since the model ends at 30 s; windows are the definition. Its features carry the place
  in the window, by its absolute positions. Measured with tiny.en, layer 2, on 3 minutes of read speech: moved by 8 s in
  the window, frames differ by 34 % of their norm (4 % if the positions are moved along), and of 100 units, 24 % change.
  On 12.5 minutes by many speakers 33 % of units change, and 7 % with `positions: remove`
  (experiments/whisper-positions).
"""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Frames to run, and which of them to keep; all counted from the start of the recording."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def keep(self) -> slice:
        """The kept frames, counted from the start of the window."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def plan_windows(num_frames: int, window_frames: int, context_frames: int) -> list[Window]:
    """Cover `num_frames` with windows of at most `window_frames`; a recording that fits is one window.

    `window_frames` must be larger than `2 * context_frames`.
    """
    assert window_frames > 2 * context_frames >= 0, (window_frames, context_frames)
    step = window_frames - 2 * context_frames
    starts = range(0, max(num_frames - window_frames, 0) + step, step)
    windows = []
    for start in starts:
        stop = min(start + window_frames, num_frames)
        keep_start = start + context_frames if start > 0 else 0
        keep_stop = num_frames if start == starts[-1] else stop - context_frames
        windows.append(Window(start, stop, keep_start, keep_stop))
    return windows

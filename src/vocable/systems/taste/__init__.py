"""TASTE: one vector and a few codes per word, read off a recogniser's states by its own decoder.

    waveform -> Whisper's encoder, frozen -> last states (keys), shallow states (values)
    text     -> words -> Whisper's tokens -> Whisper's decoder over both (aggregator) -> a vector per token
             -> mean over the tokens of each word -> quantizer -> codes, 36 bits a word -> a vector for all its tokens

The text says what is spoken, so the codes are left with how. No word times are needed: attention finds the words.
config.py holds every setting; aggregator.py and quantizer.py learn, model.py joins them; pieces.py cuts what is longer
than Whisper's window; tokenizer.py is the tokenizer. recipe.py, data.py, task.py and stages.py train it together with a
speech decoder (speech_decoder.py), which then speaks its tokens (speech.py).

Source: Tseng et al., 2025, arXiv:2504.07053 (ICLR 2026), and its two published implementations, "research" and "HF".
"""

from vocable.systems.taste.stages import SYSTEM

__all__ = ["SYSTEM"]

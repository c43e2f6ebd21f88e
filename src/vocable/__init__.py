"""Vocable: speech to tokens, language models on them, and back to speech.

    audio -> features -> tokens -> sequences -> language model -> tokens -> audio

The folders of this package follow that line. `docs/architecture.md` follows one utterance along it.
"""

__version__ = "0.1.0"

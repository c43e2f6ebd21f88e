"""LM-SPT: a codec whose semantic code is distilled by resynthesis, and speech-text models on that code.

    waveform -> two encoders -> one semantic level + n acoustic levels -> decoder -> waveform
                                semantic vectors -> auxiliary decoder -> waveform -> frozen speech encoder (training)

Source: Jo et al., 2025, arXiv:2506.16738, and its release. config.py holds every setting, stages.py the chain.
"""

from vocable.systems.lm_spt.config import CodecConfig, LmSptConfig
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.stages import SYSTEM, build_codec, train_codec
from vocable.systems.lm_spt.tokenizer import LmSptTokenizer

__all__ = ["SYSTEM", "CodecConfig", "LmSptCodec", "LmSptConfig", "LmSptTokenizer", "build_codec", "train_codec"]

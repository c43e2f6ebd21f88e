"""LM-SPT: a codec whose semantic code is distilled by resynthesis, and speech-text models on that code.

    waveform -> two encoders -> one semantic level + n acoustic levels -> decoder -> waveform
                                semantic vectors -> auxiliary decoder -> waveform -> frozen speech encoder (training)

Source: Jo et al., 2025, arXiv:2506.16738, and its release. config.py holds every setting, stages.py the chain.
"""

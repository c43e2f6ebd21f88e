"""LM-SPT: a codec whose semantic code is distilled by resynthesis (Jo et al., 2025, arXiv:2506.16738).

waveforms -> two encoders -> split quantizer -> one semantic and several acoustic codes a frame
all codes        -> main decoder      -> the waveform
semantic code    -> auxiliary decoder -> a waveform that a frozen speech encoder hears as it hears the recording
"""

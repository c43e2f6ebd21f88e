"""Make pair sets of one's own, in any language and with any voices.

    lexicon, sentence pairs or stories -> planned pairs (plan.py) -> speech (speak.py) -> a pair set (pairs.py)
    recordings -> consistency.py, recorded_stories.py -> a pair set

words.py: words against pseudo-words (as in sWUGGY); sentences.py: right sentences against wrong ones (sBLIMP);
stories.py: right endings against wrong ones (spoken StoryCloze); consistency.py: recordings in which something changes
half way (SALMon). Command line: `vocable evaluate build ...`.
"""

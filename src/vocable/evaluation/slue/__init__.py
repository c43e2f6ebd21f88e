"""Two tasks of understanding, on speech or on text: sentiment (SLUE-SA) and named entities (SLUE-NER).

    published tables (published.py) or a set of our own (build/labelled_speech.py) -> labelled set (labelled_set.py)
    labelled set + tokens or text -> rows (rows.py) -> hidden states -> head (heads.py)
    -> predictions -> macro-F1, entity F1 (metrics.py) -> table: trained on one modality, tested on both (benchmark.py)

SLUE: Shon et al., 2022 (arXiv:2111.10367). The zero-shot transfer between modalities: SUTLM (Chou et al., 2023,
arXiv:2310.08715). Command line: `vocable evaluate slue`.
"""

"""When each word of a transcript is spoken: aligners, importers of other programs' times, and their agreement.

    manifest with text  ->  spoken forms  ->  CTC Viterbi | pocketsphinx | Whisper | files  ->  manifest with `words`

The words of the result are those of the text, in order. What had to be read in another way, and what got no time of its
own, is written down with each utterance. Beside the line of stages; `vocable align` is the command.
"""

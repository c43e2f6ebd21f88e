"""Word error rate, predicted opinion scores, speaker similarity."""

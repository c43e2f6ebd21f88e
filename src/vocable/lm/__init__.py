"""Language models: vocabulary surgery, packed attention, scoring, sampling."""

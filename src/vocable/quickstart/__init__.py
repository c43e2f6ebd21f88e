"""`vocable quickstart`: the whole TWIST path on a little speech, with a report one can hear."""

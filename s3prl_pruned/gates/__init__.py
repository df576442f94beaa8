"""Learned masks: the hard concrete distribution, and gates for the slots of an encoder."""

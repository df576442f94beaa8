"""Sizes of a model: counts, expected counts, and the control that drives them to a target."""

"""How much of a model is left: counts, expected counts, and the control that drives them to a target."""

"""Speech encoders with gate slots and ragged heads."""

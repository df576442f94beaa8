"""Speech encoders with gate slots and ragged heads, and the way in and out of other formats."""

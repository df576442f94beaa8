"""What the student is trained for."""

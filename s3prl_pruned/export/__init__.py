"""From masks to a smaller network."""

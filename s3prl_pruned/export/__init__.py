"""From masks to a smaller network, and that network on disk."""

"""The planner: many runs as jobs, run here or written as job scripts."""

"""The planner: many runs as jobs, carried out here or written as job scripts."""

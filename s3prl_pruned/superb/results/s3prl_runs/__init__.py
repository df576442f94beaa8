"""Run directories that s3prl itself wrote: where each task's numbers are in them, and how they are read."""

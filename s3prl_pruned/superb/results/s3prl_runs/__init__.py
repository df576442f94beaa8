"""Run directories that s3prl itself wrote: where each task's metrics are, and how they are read."""

"""What each task needs beside s3prl's experts: settings, corpora, checkpoints, and one driver per task."""

"""What each task needs besides s3prl's experts: settings, corpora, checkpoints, and one driver per task."""

"""What runs leave: our `result.json`, s3prl's own folders, and numbers that somebody wrote down."""

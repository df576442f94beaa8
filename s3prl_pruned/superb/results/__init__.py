"""Results: our `result.json`, s3prl's own run folders, and hand-written numbers."""

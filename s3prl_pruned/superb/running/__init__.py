"""One run of one task: from the command line through s3prl's runner to `result.json`."""

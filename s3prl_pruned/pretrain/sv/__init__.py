"""Speaker verification as a task of one-pass pruning: s3prl's x-vector head, trained on the labels of speakers."""

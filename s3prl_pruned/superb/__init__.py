"""SUPERB: the ten tasks as data, running them with s3prl, reading their results, the score."""

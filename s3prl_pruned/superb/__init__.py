"""SUPERB: the ten tasks as data, running them with s3prl, reading what they wrote, the score."""

"""The training loop, and one `pretrain_expert.py` per objective, in s3prl's layout."""

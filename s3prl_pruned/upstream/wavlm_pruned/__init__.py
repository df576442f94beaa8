"""Upstream `wavlm_pruned`: s3prl's expert and hub entries."""

"""The pruned encoders as s3prl upstreams."""

"""Speech in: decoding, manifests, batches, and the embedded corpus."""

"""Speech data: decoding, manifests, batches, and the embedded corpus."""

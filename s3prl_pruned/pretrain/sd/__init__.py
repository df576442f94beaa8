"""Speaker diarisation as a task of one-pass pruning: s3prl's LSTM head, trained on mixtures with segments."""

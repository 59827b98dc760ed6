"""What `scripts.benchmark` measures: network, preprocessing, training, our server under load and others beside it."""

"""From a batch of requests to their replies, with metrics, drift and the checks a worker makes before it is ready."""

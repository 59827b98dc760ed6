"""How fast this product is on a machine: network, preprocessing, training, our server under load and others beside it.

Whatever cannot be measured ends the command with one line: a `BenchmarkError`, or a `UsageError` before anything began.
"""

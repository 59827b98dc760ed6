"""The parts of `scripts.models`: which versions a server serves, and the changes of them."""

"""The parts of `pneumoscan models`: which versions a server serves, and the changes of them."""

"""The ops in NumPy: slow, plain, and the specification that every other back end is held to."""

"""The algorithms: evolutionary training (``ea``), and the loop shell they share (``run``)."""

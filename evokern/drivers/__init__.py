"""The algorithms: the genetic one (``ea``), the evolution strategy (``es``), gradients beside them
(``adam``), and the shell that long runs share (``run``)."""

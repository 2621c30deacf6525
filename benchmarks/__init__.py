"""evokern beside its rivals and beside the limits of the machine. Not part of the package."""

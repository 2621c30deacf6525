"""The subcommands of the ``evokern`` command, one module each: ``main(arguments) -> int``."""

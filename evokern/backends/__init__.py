"""The engines behind `evokern.ops`, all with the same results where bits are promised."""

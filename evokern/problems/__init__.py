"""What is optimised: data sets and the problems that score a population on them."""

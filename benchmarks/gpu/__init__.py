"""What the first machine with a GPU runs (`make gpu`), and what its kernels should need there."""

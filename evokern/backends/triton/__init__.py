"""The Triton kernels, each beside its launch. Triton is imported with the first of them."""

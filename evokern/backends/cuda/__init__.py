"""The CUDA kernels: what ``evokern.ops`` has checked, in the form that ``evokern._cuda`` takes."""

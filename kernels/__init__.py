"""Numba loop nests over plain arrays; import them as ``definetti_np.kernels``, never as ``kernels``."""

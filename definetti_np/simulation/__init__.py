"""Where examples come from: simulated here, by processes of our own, or by an executor; Numba is never imported."""

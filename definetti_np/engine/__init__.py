"""What operations stand on: Tensors, features of rows, parameters, the optimiser, and memory."""

"""Posteriors of labels, and the heads of networks that describe them."""

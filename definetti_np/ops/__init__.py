"""Differentiable operations for networks and losses that users write.

They take Tensors, Parameters, features, and arrays and numbers as constants. Constants take the Tensors' dtype.

    B          datasets of a batch: the first axis of a Tensor
    P, C       positions and channels of a row, or of what is pooled of rows
    N          nodes that a dense layer computes
    features   what is computed of each row of each dataset, as if of shape (rows, P, C) or (rows, N); the rows have
               no order, so what goes along their axis is symmetric in them, and gives a Tensor (B, P, C) or (B, N)
"""

from .dense_conv import (
    conv,  # slide a window over the positions
    dense,  # connect all of a row, or of a dataset, to nodes
    matmul,  # x @ y
)
from .elementwise import (
    abs,  # |x|
    add,  # x + y
    clip,  # x moved into a range
    constant,  # x, to which no gradient is sent
    divide,  # x / y
    dropout,  # 0 with some probability, in training
    equal,  # x == y, as 1 or 0
    exp,  # e ** x
    greater,  # x > y, as 1 or 0
    greater_equal,  # x >= y, as 1 or 0
    leaky_relu,  # x, or a small slope times x below 0
    less,  # x < y, as 1 or 0
    less_equal,  # x <= y, as 1 or 0
    log,  # the natural logarithm
    multiply,  # x * y
    negative,  # -x
    not_equal,  # x != y, as 1 or 0
    power,  # x ** y
    relu,  # max(x, 0)
    sigmoid,  # 1 / (1 + exp(-x))
    softplus,  # log(1 + exp(x))
    sqrt,  # the square root
    subtract,  # x - y
    tanh,  # the hyperbolic tangent
    where,  # x where a condition holds, else y
)
from .losses import (
    cross_entropy,  # the mean of -sum(labels * log probabilities)
    log_softmax,  # the logarithms of probabilities
    squared_error,  # the mean of the summed squared error
)
from .pooling import (
    count_distinct,  # how many distinct windows a dataset has around each position
    moments,  # the means of powers over the rows of each dataset
    sort,  # all values of the rows, descending
    to_rows,  # what was pooled of a dataset, for each of its rows
    top_k,  # the k largest over the rows of each dataset
)
from .reductions import (
    logsumexp,  # log(sum(exp(x))) along axes
    max,  # the largest along axes, or over rows
    mean,  # the mean along axes, or over rows
    sum,  # the sum along axes, or over rows
    var,  # the variance along axes, or over rows
)
from .shapes import (
    concatenate,  # join along an axis
    flatten,  # all of a dataset, or of a row, along one axis
    getitem,  # x[key]
    reshape,  # the same numbers in another shape
    stack,  # join along a new axis
    transpose,  # the axes in another order
)

__all__ = [
    "abs", "add", "clip", "concatenate", "constant", "conv", "count_distinct", "cross_entropy", "dense", "divide",
    "dropout", "equal", "exp", "flatten", "getitem", "greater", "greater_equal", "leaky_relu", "less", "less_equal",
    "log", "log_softmax", "logsumexp", "matmul", "max", "mean", "moments", "multiply", "negative", "not_equal",
    "power", "relu", "reshape", "sigmoid", "softplus", "sort", "sqrt", "squared_error", "stack", "subtract", "sum",
    "tanh", "to_rows", "top_k", "transpose", "var", "where",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__

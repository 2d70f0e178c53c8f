"""Operators and NumPy functions on Tensors, features and Parameters: all of them are `ops` of the same name."""

import difflib
from collections.abc import Callable

OPERATIONS: dict[str, Callable] = {}  # by name; `ops` fills it
_NUMPY_NAMES = {"absolute": "abs", "amax": "max", "true_divide": "divide"}


def _operator(name: str, *, reflected: bool = False):
    def method(self, other):
        return OPERATIONS[name](other, self) if reflected else OPERATIONS[name](self, other)

    return method


class Arithmetic:
    """Gives a class the operators of arrays."""

    __slots__ = ()

    __add__, __radd__ = _operator("add"), _operator("add", reflected=True)
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", reflected=True)
    __mul__, __rmul__ = _operator("multiply"), _operator("multiply", reflected=True)
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", reflected=True)
    __pow__, __rpow__ = _operator("power"), _operator("power", reflected=True)
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", reflected=True)
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")
    __eq__, __ne__ = _operator("equal"), _operator("not_equal")
    __hash__ = object.__hash__
    __getitem__ = _operator("getitem")
    __iter__ = None  # else Python would try 0, 1, 2, ... as indices

    def __bool__(self):
        raise TypeError(
            f"a {type(self).__name__} is not True or False: `if`, `and`, `or` and `not` do not go number by number; "
            "use definetti_np.ops.where"
        )

    def __neg__(self):
        return OPERATIONS["negative"](self)

    def __abs__(self):
        return OPERATIONS["abs"](self)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__":
            raise TypeError(_refusal(f"{ufunc.__name__}.{method}", ufunc.__name__))
        return _operation_for(ufunc.__name__)(*inputs, **options)

    def __array_function__(self, function, types, args, options):
        return _operation_for(function.__name__)(*args, **options)

    def __array__(self, *args, **options):
        raise TypeError(f"a {type(self).__name__} is no array: NumPy cannot see its gradient; use definetti_np.ops")


def _operation_for(numpy_name: str) -> Callable:
    name = _NUMPY_NAMES.get(numpy_name, numpy_name)
    if name not in OPERATIONS:
        raise TypeError(_refusal(numpy_name, name))
    return OPERATIONS[name]


def _refusal(numpy_name: str, name: str) -> str:
    closest = difflib.get_close_matches(name, OPERATIONS, n=1, cutoff=0)[0]
    return (
        f"numpy.{numpy_name} has no gradient here and takes no Tensor; the closest operation by name is "
        f"definetti_np.ops.{closest}, and all of them are {', '.join(sorted(OPERATIONS))}"
    )

"""Small networks that cover every layer, symmetric function and loss, with the data they are tested on."""

import json
from dataclasses import asdict, dataclass

MOMENTS = ("moments", 1, 2, 0.5, 3.5)
ADAM_STEPS = 5  # after which the references hold the trained parameters


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and the kind of batch it is tested on.

    Attributes
    ----------
    input_shape, output_shape, phi_net, g, h_net
        As `definetti_np.network.Network` takes them.
    loss
        "cross-ent" or "l2".
    data
        "continuous": all rows differ; "repeated": continuous rows that occur twice on average;
        "identical": one continuous row, repeated; "haplotypes": rows of 0 and 1 that occur twice on average and
        agree in many windows.
    labels
        "one-hot", "soft" (distributions) or "values".
    batch
        The number of datasets.
    dead_units
        Whether the first node of each hidden layer never fires and the second has bias 0, so that it is exactly at the
        corner of its ReLU where a window is all zeros.
    """

    input_shape: tuple
    output_shape: tuple = (3,)
    phi_net: tuple = ()
    g: tuple = ("max",)
    h_net: tuple
    loss: str = "cross-ent"
    data: str = "haplotypes"
    labels: str = "one-hot"
    batch: int = 4
    dead_units: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def l2(**fields) -> Case:
    return Case(**fields, loss="l2", labels="values")


CASES = {
    "conv_max": Case(
        input_shape=(8, 7), phi_net=(("conv", 3, 4), ("conv", 2, 5)), h_net=(("fc", 6), ("softmax",)), batch=20
    ),
    "fc_max": Case(
        input_shape=(6, 4, 2), phi_net=(("fc", 6), ("fc", 5)), h_net=(("fc", 4), ("softmax",)), data="continuous"
    ),
    "dead_units_max": Case(
        input_shape=(6, 6), phi_net=(("conv", 2, 4), ("fc", 5)), h_net=(("fc", 4), ("softmax",)), dead_units=True
    ),
    "conv_sort_conv": l2(
        input_shape=(4, 6, 2), phi_net=(("conv", 2, 3),), g=("sort",), h_net=(("conv", 3, 4), ("matmul",))
    ),
    "fc_sort_conv": Case(
        input_shape=(5, 6),
        phi_net=(("conv", 3, 3), ("fc", 5)),
        g=("sort",),
        h_net=(("conv", 2, 3), ("fc", 4), ("softmax",)),
        data="repeated",
    ),
    "one_row_sort": l2(input_shape=(1, 5), phi_net=(("conv", 2, 3), ("fc", 4)), g=("sort",), h_net=(("matmul",),)),
    "top_1": l2(
        input_shape=(6, 5, 3),
        output_shape=(1,),
        phi_net=(("conv", 2, 4),),
        g=("top_k", 1),
        h_net=(("fc", 5), ("matmul",)),
        data="repeated",
    ),
    "top_3_conv_after_fc": Case(
        input_shape=(7, 5),
        phi_net=(("fc", 6), ("conv", 3, 2)),
        g=("top_k", 3),
        h_net=(("fc", 5), ("conv", 2, 3), ("softmax",)),
        labels="soft",
    ),
    "top_3_fc_conv": l2(
        input_shape=(6, 4, 2), phi_net=(("fc", 5),), g=("top_k", 3), h_net=(("conv", 2, 4), ("fc", 4), ("matmul",))
    ),
    "top_n": Case(
        input_shape=(6, 6),
        phi_net=(("conv", 2, 3), ("conv", 2, 4)),
        g=("top_k", 6),
        h_net=(("conv", 2, 3), ("softmax",)),
        labels="soft",
    ),
    "identical_rows_top_3": Case(
        input_shape=(5, 5),
        phi_net=(("conv", 2, 4),),
        g=("top_k", 3),
        h_net=(("fc", 4), ("softmax",)),
        data="identical",
    ),
    "conv_moments_conv": Case(
        input_shape=(6, 6), phi_net=(("conv", 2, 3),), g=MOMENTS, h_net=(("conv", 2, 4), ("softmax",)), batch=1
    ),
    "fc_moments_conv": l2(
        input_shape=(5, 4, 2),
        phi_net=(("conv", 2, 3), ("fc", 4)),
        g=MOMENTS,
        h_net=(("conv", 2, 3), ("matmul",)),
        data="repeated",
    ),
    "dead_units_moments": Case(
        input_shape=(6, 6), phi_net=(("conv", 2, 4), ("fc", 4)), g=MOMENTS, h_net=(("softmax",),), dead_units=True
    ),
    "one_row_moments": Case(input_shape=(1, 5), phi_net=(("fc", 4),), g=MOMENTS, h_net=(("softmax",),)),
    "no_phi_top_2": Case(input_shape=(5, 6, 2), g=("top_k", 2), h_net=(("conv", 3, 4), ("fc", 4), ("softmax",))),
    "no_phi_moments": l2(input_shape=(5, 6), g=("moments", 1, 2, 3), h_net=(("matmul",),), data="continuous"),
}

"""Networks of the benchmark, by name."""

__all__ = ["NETWORKS", "network"]

import keras_tilt as kt

NETWORKS = {
    "convnet": kt.convnet,
    "pooled_convnet": kt.networks.pooled_convnet,
}


def network(run, num_classes):
    """The network of a run, of weights by its seed."""
    shape = (run["size"], run["size"], 3)
    kind = {"normalization": run["normalization"]}
    if run["network"] == "convnet":
        kind = {"batch_norm": run["normalization"] == "batch"}
    return NETWORKS[run["network"]](shape, num_classes, run["seed"], **kind)

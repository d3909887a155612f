"""Networks of the benchmark, by name.

convnet                    three convolutions and a dense layer
pooled_convnet             four, each normalized, and a mean over the last map
pooled_convnet_batch_head  the same, and a batch norm of that mean
"""

__all__ = ["network"]

import keras

import keras_tilt as kt


def batch_head(*args, **kwargs):
    """Features centered and scaled over the batch, before the last layer alone."""
    body = kt.pooled_convnet(*args, **kwargs)
    features = body.get_layer("mean").output
    norm = keras.layers.BatchNormalization(center=False, scale=False, name="head_norm")
    logits = body.get_layer("classes")(norm(features))
    return keras.Model(body.input, logits, name="pooled_convnet_batch_head")


NETWORKS = {
    "convnet": kt.convnet,
    "pooled_convnet": kt.pooled_convnet,
    "pooled_convnet_batch_head": batch_head,
}


def network(run, num_classes):
    """The network of a run, of weights by its seed."""
    shape, norm = (run["size"], run["size"], 3), run["normalization"]
    kind = {"normalization": None if norm == "none" else norm}
    if run["network"] == "convnet":
        kind = {"batch_norm": norm == "batch"}
    return NETWORKS[run["network"]](shape, num_classes, run["seed"], **kind)

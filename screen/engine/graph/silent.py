"""Remove the noise of an exported graph, for one evaluation of the network without dropout (`--masks none`).

In: an exported model. Out: the same model in which every site but the last is the identity. The last site stays,
because a head needs a site; a mask of ones makes this site the identity too. The trunk then contains all layers before
the last site, and runs once.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from export.contract.metadata import DOMAIN, ZEROING_KINDS
from export.contract.reader import ExportedModel


def keep_last_site(model: ExportedModel) -> ExportedModel:
    """The model with only its last site, changed to a kind of noise for which a mask of ones is the identity.

    Args:
        model: an exported model; it is not changed.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = [node for node in proto.graph.node if node.domain == DOMAIN]
    for node in nodes[:-1]:
        make_identity(node)
    last = next(site for site in model.contract.sites if site.name == nodes[-1].name)
    # Alpha dropout shifts the kept elements too, so a mask of ones would change its input.
    kept = replace(last, kind=ZEROING_KINDS[0], noise_shape=(1,) * len(last.shape))
    return replace(model, proto=proto, contract=replace(model.contract, sites=(kept,)))


def make_identity(node: onnx.NodeProto) -> None:
    """Turn the node of a site into the identity."""
    node.op_type, node.domain = "Identity", ""
    del node.attribute[:]

"""Choose the tensors that serve as features, and compute the features in the trunk.

In: an exported graph and its sizes. Out: a `FeaturePlan`, and a trunk with the output `FEATURES`.
"""

"""A loss from outside the package that is never a number."""


def nan_loss(logp_NL):
    return logp_NL * float("nan"), {}

"""Full fine-tuning: every parameter goes on learning from where it stands.

The yardstick for all the other methods; Howard & Ruder 2018, arXiv:1801.06146, and Devlin et al.
2019, arXiv:1810.04805, made it the usual way. Result: theta' = theta - what the optimiser does,
for all of theta.
"""

from torch import nn


def adapt(module: nn.Module) -> nn.Module:
    """Let every parameter learn."""
    return module.requires_grad_(True)

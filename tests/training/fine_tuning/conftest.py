import warnings
from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import flex_attention


@pytest.fixture
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let FlexAttention run on a CPU without a compiler: in full and slowly, but with the same masks and gradients.

    torch refuses gradients on a CPU because its compiler has no kernel for them. Uncompiled, they are computed as on any other device.
    """
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")  # torch's own: slow attention, deprecations in its compiler, .grad of what is no leaf
        yield

from collections.abc import Iterator

import pytest
import torch

from zssmnet.config import PROBE_SCALES, ProbeScale


@pytest.fixture(autouse=True, scope="module")
def small_scale() -> Iterator[None]:
    """Windows as small as MNet takes, and one thread, which is faster then."""
    small = ProbeScale(spacing_mm=(1.0, 1.0, 3.0), window=(16, 16, 4), windows=(1, 1, 1), batch_size=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROBE_SCALES, "cpu", small)
        yield
    torch.set_num_threads(threads)

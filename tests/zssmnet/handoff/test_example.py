"""The example of docs/fine-tuning.md, run as it stands there on a tiny case."""

import re
from pathlib import Path

import pytest
import torch

from zssmnet.mnet import MNet

from .conftest import write_case

PAGE = Path(__file__).resolve().parents[3] / "docs" / "fine-tuning.md"


@pytest.mark.filterwarnings("ignore")  # MONAI's own
def test_fine_tuning_with_monai_learns_and_predicts_a_whole_case(
    model: Path, pretrained: MNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path, "case")
    for file in [*(tmp_path / "imagesTr").iterdir(), tmp_path / "zones/case.nii.gz"]:
        file.rename(tmp_path / file.name)
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "monai" in block)
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102
    assert names["losses"][-1] < names["losses"][0]
    probability = names["probability"]
    assert probability.shape == (1, 8, 24, 24)
    assert 0 <= probability.min() < probability.max() <= 1

"""The page of all models of a root."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.model_record import model_record
from zssmnet.config import PretrainConfig, TrainingConfig
from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.registry.rollbacks import rollbacks
from zssmnet.registry.versions import promote, publish, roll_back
from zssmnet.report.models_page import models_page
from zssmnet.report.training import compared_losses
from zssmnet.storage import LocalStorage
from zssmnet.storage.records import publish_record
from zssmnet.training.checkpoint import EpochResult

LONGER = PretrainConfig(training=TrainingConfig(epochs=7))


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    """Two versions, the second of another recipe, and a challenger that lost."""
    weights = LocalStorage(tmp_path / "SSL" / "pretrained_weights")
    for run_id, config in (("aaaa", PretrainConfig()), ("bbbb", LONGER)):
        (tmp_path / "best").write_text(f"the weights of {run_id}")
        history = (EpochResult(1, 0.5, 0.5, 0.1, explained=0.25), EpochResult(2, 0.4, 0.3, 0.1, explained=0.5))
        record = model_record(run_id).model_copy(update={"parameters": config, "history": history})
        publish(weights, record, tmp_path / "best")
    lost = Judgement(
        method=1,
        inputs=(),
        outputs=(),
        run_id="cccc",
        champion="bbbb",
        champion_loss=0.3,
        challenger_loss=0.4,
        published=False,
        parameters=LONGER,
        data=(),
        best_epoch=1,
        history=(EpochResult(1, 0.6, 0.4, 0.1),),
        margin_percent=2.0,
    )
    publish_record(weights, f"{JUDGEMENT}-cccc", lost)
    return weights


def test_it_has_versions_challengers_differences_and_decisions(weights: LocalStorage):
    page = models_page(weights)
    assert page.startswith("Models: 3, the latest first; **in bold** the stable one")
    rows = {row.split(" | ")[0].strip("| "): row for row in page.splitlines() if row.startswith("| ")}
    assert "50.0%" in rows["**`bbbb`**"]
    assert "| 0.40000 |" in rows["`cccc`, not published"]
    assert f"| `aaaa` | training.epochs {PretrainConfig().training.epochs} |" in page
    assert (
        "`cccc` not published | challenge of `bbbb`: loss 0.40000 against 0.30000, lower by 2 % was asked for" in page
    )
    assert page.count("data:image/png;base64,") == 1


def test_rollbacks_are_on_it_with_their_comment(weights: LocalStorage):
    roll_back(weights, comment="the new one\n| <b>misses</b> lesions")
    roll_back(weights, "bbbb")
    assert [(one.number, one.version, one.replaced) for one in rollbacks(weights)] == [
        (1, "aaaa", "bbbb"),
        (2, "bbbb", "aaaa"),
    ]
    page = models_page(weights)
    assert "rolled back to `aaaa` | a command (process " in page
    assert "the new one &#124; &#60;b&#62;misses&#60;/b&#62; lesions" in page
    assert "no comment" in page


def test_a_rollback_after_a_training_that_undid_it_keeps_the_earlier_comment(weights: LocalStorage):
    roll_back(weights, comment="misses lesions")
    promote(weights, "bbbb")  # as a training with its cubes and settings does
    roll_back(weights, comment="still misses them")
    assert [one.comment for one in rollbacks(weights)] == ["misses lesions", "still misses them"]


def test_without_models_there_is_none(tmp_path: Path):
    assert models_page(LocalStorage(tmp_path)) == ""


def test_the_stable_model_s_curve_is_the_thick_one():
    curves = [(f"{number:04}", [(1, 1.0 / number), (2, 0.5 / number)], number == 3) for number in range(1, 10)]
    picture = Image.open(io.BytesIO(compared_losses(curves, "Validation loss of all models")))
    assert picture.size[0] > picture.size[1]
    coloured = [count for count, colour in picture.convert("RGB").getcolors(1 << 24) or [] if colour == (209, 73, 91)]
    assert coloured

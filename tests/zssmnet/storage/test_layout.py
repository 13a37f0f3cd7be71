import pytest

from zssmnet.storage.layout import Layout, reports_beside


@pytest.mark.parametrize("root", ["/data/run", "/data/run/", "run", "s3://bucket/prefix"])
def test_folders_below_the_root(root: str):
    layout, below = Layout(root), f"{root.rstrip('/')}/SSL"
    assert layout.data == f"{below}/data"
    assert layout.cubes == f"{below}/generated_cubes"
    assert layout.weights == f"{below}/pretrained_weights"
    assert layout.reports == f"{below}/reports"


@pytest.mark.parametrize(
    ("folder", "reports"),
    [
        ("/run/SSL/data", "/run/SSL/reports"),
        ("/run/SSL/generated_cubes/", "/run/SSL/reports"),
        ("SSL/data", "SSL/reports"),
        ("s3://bucket/SSL/data", "s3://bucket/SSL/reports"),
        ("/run/cubes", "/run/cubes/reports"),
        ("cubes", "cubes/reports"),
        ("/run/notSSL/data", "/run/notSSL/data/reports"),
    ],
)
def test_reports_lie_beside_a_stage_of_a_working_root(folder: str, reports: str):
    assert reports_beside(folder) == reports

"""Where things lie below the working root, a local folder or ``s3://bucket/prefix``."""

ROOT_FOLDER = "SSL"
"""The folder of everything below a working root."""


class Layout:
    """The folders of the stages below a working root.

    Attributes:
        data: prepared cases, ``subset{0..5}/``.
        cubes: files of cubes.
        weights: pre-trained weights.
        zones: zonal masks that were made, and those that were given.
        zones_model: networks that make zonal masks.
        reports: pictures.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        top = f"{root.rstrip('/')}/{ROOT_FOLDER}"
        self.data = f"{top}/data"
        self.cubes = f"{top}/generated_cubes"
        self.weights = f"{top}/pretrained_weights"
        self.zones = f"{top}/zones"
        self.zones_model = f"{top}/zones_model"
        self.reports = f"{top}/reports"


def reports_beside(folder: str) -> str:
    """Where a stage that was given only its own folder puts its pictures: ``SSL/reports``, or below that folder."""
    parent, _, _ = folder.rstrip("/").rpartition("/")
    return f"{parent}/reports" if parent.split("/")[-1] == ROOT_FOLDER else f"{folder.rstrip('/')}/reports"

"""Where things lie below the working root, a local folder or ``s3://bucket/prefix``."""

from dataclasses import dataclass

ROOT_FOLDER = "SSL"
"""The folder of everything below a working root."""


@dataclass(frozen=True)
class Layout:
    """The folders of the stages below a working root."""

    root: str

    @property
    def data(self) -> str:
        """Prepared cases, ``subset{0..5}/``."""
        return self._folder("data")

    @property
    def cubes(self) -> str:
        """Files of cubes."""
        return self._folder("generated_cubes")

    @property
    def weights(self) -> str:
        """Pre-trained weights."""
        return self._folder("pretrained_weights")

    @property
    def zones(self) -> str:
        """Zonal masks that were made, and those that were given."""
        return self._folder("zones")

    @property
    def zones_model(self) -> str:
        """Networks that make zonal masks."""
        return self._folder("zones_model")

    @property
    def reports(self) -> str:
        """Pictures."""
        return self._folder("reports")

    def _folder(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{ROOT_FOLDER}/{name}"


def reports_beside(folder: str) -> str:
    """Where a stage that was given only its own folder puts its pictures: ``SSL/reports``, or below that folder."""
    parent, _, _ = folder.rstrip("/").rpartition("/")
    return f"{parent}/reports" if parent.split("/")[-1] == ROOT_FOLDER else f"{folder.rstrip('/')}/reports"

"""The directory of the YAML files."""

from pathlib import Path


def config_directory() -> Path:
    """Return the directory of the YAML files: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent.parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"

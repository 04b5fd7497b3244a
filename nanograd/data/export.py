"""A data set as a folder of PNG files, one subfolder a class."""

from pathlib import Path

from PIL import Image

from nanograd.data.dataset import Dataset
from nanograd.errors import StorageError


def write_pictures(dataset: Dataset, folder: str) -> None:
    """Write each image as `folder/LABEL/NUMBER.png`; files of those names are replaced.

    Args:
        dataset: N images.
        folder: a local folder.

    Raises:
        StorageError: it cannot be written.
    """
    root = Path(folder).expanduser()
    try:
        for label in sorted(set(dataset.labels.tolist())):
            (root / str(label)).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            Image.fromarray(image.reshape(28, 28)).save(root / str(label) / f"{number:05d}.png")
    except OSError as error:
        raise StorageError(f"cannot write pictures to {folder}: {error.strerror}") from error

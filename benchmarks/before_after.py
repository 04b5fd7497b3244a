"""Draw docs/pictures/normaliser.png: simulated photos, their ink, and the 28 x 28 results.

.venv/bin/python benchmarks/before_after.py --data FOLDER
"""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.append(str(Path(__file__).parents[1]))

from nanograd.images import sources
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import trace
from nanograd.report.sheet import Inspection, draw_panels, draw_text
from simulators.photos import photograph
from simulators.scenes import KINDS

NAMES = {
    "vignette": "dark corners",
    "squares": "squared paper",
    "dots": "dotted paper",
    "binding": "a binding",
    "table": "table beside the sheet",
    "faint in shadow": "faint, in shadow",
    "tight crop": "bold, cropped",
    "equal light": "colours of equal light",
}


def main() -> None:
    """Draw a column for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="sample")
    images = sources.load([parser.parse_args().data]).test.images
    side, gap, caption = 100, 6, 18
    sheet = Image.new("RGB", (len(NAMES) * (side + gap) - gap, caption + 3 * (side + gap)), "white")
    for column, (kind, name) in enumerate(NAMES.items()):
        place = 50 * list(KINDS).index(kind) + 8
        picture = decode(photograph(images[place].reshape(28, 28), kind, place))
        inspection = Inspection(file=kind, steps=trace(picture), picture=picture, size=picture.size)
        panels = draw_panels(inspection)
        left = column * (side + gap)
        draw_text(ImageDraw.Draw(sheet), (left, 2), name, size=9)
        for row, panel in enumerate((panels[0], panels[1], panels[-1])):
            if panel is not None:
                small = panel.image.resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left, caption + row * (side + gap)))
    sheet.quantize(96).save("docs/pictures/normaliser.png", optimize=True)


if __name__ == "__main__":
    main()

"""Train the line net of `nanograd.numbers` on lines of MNIST's training digits.

    python -m scripts.make_line_net --data FOLDER_OF_MNIST --lines-in FOLDER

FOLDER/fonts holds files of the npm packages @fontsource/NAME, see `_FONTS`.

One half of the lines is drawn or photographed, and found as in use. The folder keeps these lines,
so a stopped run continues. The other half is drawn anew for each batch, in the size in which the
net sees it. The net maximises the probability of their texts. PyTorch is needed (`.[bench]`).

The weights also depend on the processor. The net in the package was trained in 15 parts, of 42, 37,
58, 16, 75, 64, 85, 86, 69, 27, 72, 72, 74, 74 and 66 minutes on two cores that did other work
besides. The first six parts trained a net with fewer maps and one layer less. They differed in
their lines (without words, then with words, items of lists and groups of digits), distortions and
learning rates, and some of them began with a mean of earlier weights (Wortsman et al. 2022). The
seventh part began with their net: the layer that was added returned its input, and the maps that
were added had random weights and were not seen by the others (Chen et al. 2016). Its learning rate
was 2e-3. A quarter of its lines were of 3,100 photos, a seventh of 5,345 other lines that were
found, and the rest of 186,000 drawn lines. The eighth part continued at 1.6e-3, with 7,100 photos
for a third of the lines, and the ninth part likewise, with 8,600 photos and 25,000 lines in the
boxes of a form for an eighth of the lines. Net A is the mean of the weights after the eighth and
the ninth part, and the bias of its ones is larger by 0.15. From it, the tenth and the eleventh part
continued at 7e-4 and 4.5e-4, with lines that also have combs, ticked boxes, handwritten
parentheses, punched holes and more slashes. The twelfth part began with the mean of net A and the
eleventh part, and continued at 5e-4: a quarter of its lines were 9,644 lines of pages, and others
were of 10,710 photos, 7,125 forms, 7,235 rows that nearly touch, 14,700 other lines that were
found, and 138,000 drawn lines. Net B is the mean of net A and the twelfth part. The thirteenth part
began with net B, at 5e-4, with lines of one to three digits, half of which are ones, clean lines,
and photos of the kinds that are read worst. Net C is the mean of net B and the thirteenth part. The
fourteenth part began with net C, at 5e-4, with lines of hands in which all digits lean alike, and a
slash leans more. These were 45,000 drawn lines, half of them with slashes, others with long commas
or units, and 4,500 lines of pages. Net D is the mean of net C and of the weights after each quarter
of this part. The fifteenth part began with net D, at 5e-4, with more lines of one to three digits.
The net is the mean of net C (weight 7), net D (weight 3) and the weights after each quarter of the
fifteenth part (weight 1 each). So this script does not make the same file again.

Of 255 pictures of numbers that were simulated by another program, 196 are right with this net, 193
with net C, 190 with net B, and 180 with net A. Of 374 numbers on 50 pages (`simulators.pages`), 295
are right with this net, and 275 with net C. Of 2,579 lines of a third program, 2,383 and 2,364 are
right without the model. With net D or the fifteenth part itself, these are up to 2,400, but more
printed slashes are read as ones (2026-12-02).

References:
    Chen et al. (2016), "Net2Net: accelerating learning via knowledge transfer".
    Graves et al. (2006), "Connectionist temporal classification".
    Ioffe & Szegedy (2015), "Batch normalization".
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization" (AdamW).
    Wortsman et al. (2022), "Robust fine-tuning of zero-shot models" (means of weights).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from nanograd.numbers import line_net
from nanograd.numbers.locate import Line
from nanograd.numbers.texts import NO_DIGIT
from nanograd.runtime.arrays import Bytes, Floats
from nanograd.runtime.json_files import JsonObject
from scripts import recipes
from scripts.lines import (
    OF_FONTS,
    SETTINGS,
    choose_digits,
    draw_files,
    draw_lines,
    draw_pages,
    draw_rows,
    print_line,
    save_arrays,
)
from scripts.make_model import DATA_SHA256
from simulators.strings import HEIGHT, Style, write

OUTPUT = Path(line_net.__file__).with_name("line_net.safetensors")
SHA256 = "f2cd31d41ea3ba9cfa8a3141867cde3088b9261094be833ca5221474dbc1a7e6"

# Number of lines that are found, and of lines in a file; number of batches, and lines in a batch.
LINES, TASK, STEPS, BATCH = 28_000, 200, 16_000, 64
# Largest learning rate, weight decay, and share of maps that are dropped.
_RATE, _DECAY, _DROPOUT = 3e-3, 0.02, 0.1
# Maps of each layer, and the height and width of its windows.
_LAYERS = (
    (24, (5, 5)), (64, (5, 5)), (64, (3, 3)), (128, (3, 3)),
    (192, (3, 5)), (160, (1, 5)), (160, (1, 9)), (160, (1, 9)),
)  # fmt: skip
# Share of the new weights in their moving average after each batch.
_NEW = 0.002
# Loss above which a line has no weight at the end of the training; before, it is larger.
_HOPELESS = 12.0
# Standard deviations of the distortions: logs of width and height, slant, shift as a share of the
# height, slope, and the difference of pens and the log of brightness, which half of the lines have.
_VARY = {
    "width": 0.1, "height": 0.07, "slant": 0.12, "shift": 0.05, "slope": 0.012, "pen": 0.3,
    "brightness": 0.25,
}  # fmt: skip
# Share of the lines that are blurred. Pixels between the points at which a line is bent, and the
# largest standard deviation of their shifts, in pixels.
_BLURRED, _POINTS, _BEND = 0.3, 5, 1.1
# Of so many files of lines that are found, one has lines with words in a font, two have the lines
# of pages, and one has rows that nearly touch. Share of the lines with words, of those that are
# drawn anew.
_OTHERS, _WORDS_DRAWN = 8, 0.15
# Fonts of the words: handwriting, and a few for print.
_FONTS = """
annie-use-your-telescope bad-script beth-ellen bilbo caveat-brush chilanka coming-soon
courier-prime crafty-girls dawning-of-a-new-day dekko edu-nsw-act-foundation edu-qld-beginner
edu-sa-beginner edu-vic-wa-nt-beginner fuzzy-bubbles gamja-flower give-you-glory gloria-hallelujah
hi-melody ibm-plex-mono itim just-another-hand just-me-again-down-here kavivanar klee-one lato
league-script leckerli-one licorice loved-by-the-king mali mansalva merienda merriweather mr-dafoe
mrs-saint-delafield mynerve nerko-one nothing-you-could-do open-sans over-the-rainbow pangolin
playpen-sans poor-story qwigley rancho roboto rouge-script ruthie sassy-frass satisfy sedgwick-ave
shantell-sans short-stack single-day source-serif-4 square-peg sriracha stalemate
swanky-and-moo-moo the-girl-next-door waiting-for-the-sunrise walter-turncoat yomogi zen-kurenaido
"""
# Least number of empty columns on both sides of the lines of a batch.
_MARGIN = 4

Sample = tuple[str, Bytes]


def find_fonts(folder: Path) -> list[str]:
    """Return the files of the fonts."""
    return [str(folder / "fonts" / f"{name}-latin-400-normal.woff") for name in _FONTS.split()]


def find_lines(seed: int, name: str, folder: Path) -> None:
    """Draw and find lines, and save their texts and their ink as the net sees it."""
    path = folder / f"{seed}.npz"
    if path.exists():
        return
    draw, lines = np.random.default_rng([seed, 31]), list[tuple[str, Line]]()
    if seed % _OTHERS == 0:
        lines += draw_lines(name, draw, TASK, find_fonts(folder))
    elif seed % _OTHERS <= 2:
        while len(lines) < TASK:
            lines += draw_pages(name, draw, find_fonts(folder))
    elif seed % _OTHERS == 3:
        while len(lines) < TASK:
            lines += draw_rows(name, draw)
    else:
        lines += draw_lines(name, draw, TASK)
    inks = [line_net.shrink(each.ink, (each.top + each.bottom) / 2) for _, each in lines]
    arrays = {
        "texts": np.array([text for text, _ in lines]),
        "ends": np.cumsum([ink.shape[1] for ink in inks]),
        "ink": np.round(255 * np.concatenate(inks, 1)).astype(np.uint8),
    }
    save_arrays(path, arrays)


def load_lines(paths: Sequence[Path]) -> list[Sample]:
    """Load saved lines."""
    samples = list[Sample]()
    for path in paths:
        arrays = np.load(path)
        inks = np.split(arrays["ink"], arrays["ends"][:-1], axis=1)
        samples += zip(arrays["texts"].tolist(), inks, strict=True)
    return samples


def draw_line(name: str, draw: Generator, fonts: Sequence[str]) -> Sample:
    """Draw a line in about the size that `nanograd.numbers.locate` would give it."""
    digits, text = choose_digits(name, draw)
    font = str(draw.choice(fonts)) if fonts and draw.random() < _WORDS_DRAWN else ""
    if font and draw.random() < OF_FONTS:
        digits = print_line(text, draw, font)
    images = list(digits.reshape(-1, 28, 28))
    style = Style(
        touching=draw.random() < 0.6,
        marks=draw.choice([0.2, 0.5]) * (draw.random() < 0.3) if images else 0.75,
        pale=0.2 * (draw.random() < 0.1),
        links=0.3 * (draw.random() < 0.1),
        wobble=0.0 if draw.random() < 0.5 else max(0.0, draw.uniform(-2, 2)),
        spread=draw.choice([1.0, 1.0, 1.5, 2.0]),
        comb=draw.random() < SETTINGS["combs"],
        font=font,
    )
    ink = write(images, style, draw)
    rows = np.flatnonzero(ink.max(1) > 90)
    if not len(rows):
        return draw_line(name, draw, fonts)
    # A line is higher than its digits, which do not stand on one level.
    usual = (rows[-1] - rows[0] + 1) / (draw.uniform(1, 1.35) if len(text) > 1 else 1)
    scale = np.clip(HEIGHT / usual * np.exp(draw.normal(0, 0.04)), 0.6, 1.5)
    size = [round(side * scale) for side in reversed(ink.shape)]
    line = Image.fromarray(ink).resize(size, Image.Resampling.BOX)
    middle = scale * (rows[0] + rows[-1] + 1) / 2 + draw.normal(0, 1.4)
    shrunk = line_net.shrink(np.asarray(line, np.float32), middle)
    return text, np.round(shrunk).astype(np.uint8)


def draw_batches(name: str, seed: int, fonts: Sequence[str]) -> Iterator[list[Sample]]:
    """Yield batches of new lines with similar widths."""
    draw = np.random.default_rng([seed, 77])
    while True:
        lines = [draw_line(name, draw, fonts) for _ in range(8 * BATCH)]
        lines.sort(key=lambda line: line[1].shape[1])
        yield from (lines[start : start + BATCH] for start in range(0, len(lines), BATCH))


def take_batches(lines: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Yield batches of saved lines with similar widths."""
    draw, widths = np.random.default_rng(0), np.array([ink.shape[1] for _, ink in lines])
    while True:
        order = np.argsort(widths * draw.uniform(0.75, 1.3, len(widths)))[draw.integers(BATCH) :]
        for place in draw.permutation(len(order) // BATCH):
            yield [lines[number] for number in order[place * BATCH :][:BATCH]]


def build() -> Any:
    """Build the net in PyTorch: (lines, 1, ROWS, width) to (lines, 11, 1, frames)."""
    import torch  # noqa: PLC0415 - only needed to train
    from torch import nn  # noqa: PLC0415

    layers, inputs = list[Any](), 1
    for number, (outputs, size) in enumerate(_LAYERS):
        has_maxima = number < len(line_net.MAXIMA)
        square, rows = (line_net.MAXIMA[number], size[0] // 2) if has_maxima else ((1, 1), 0)
        apart = line_net.APART if number == len(_LAYERS) - 1 else 1
        columns = apart * (size[1] // 2)
        conv = nn.Conv2d(
            inputs, outputs, size, padding=(rows, columns), dilation=(1, apart), bias=False
        )
        # As the factors of the normalisation are positive, the maxima may come first.
        layers += [conv, *([nn.MaxPool2d(square)] if square != (1, 1) else [])]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Dropout2d(_DROPOUT)] if number == len(_LAYERS) - 2 else []
        inputs = outputs
    net = nn.Sequential(*layers, nn.Conv2d(inputs, NO_DIGIT + 1, 1))
    return net.to(memory_format=torch.channels_last)


def vary(ink: Any) -> Any:
    """Distort lines, (lines, 1, ROWS, width), by a map, bends, pen, blur and brightness each."""
    import torch  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    count, _, height, width = ink.shape
    normal = {name: size * torch.randn(count) for name, size in _VARY.items()}
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = torch.exp(normal["width"]).clamp(0.8, 1.3)
    maps[:, 0, 1] = normal["slant"] * height / width
    maps[:, 0, 2] = maps[:, 0, 0] - 1  # the left end stays
    maps[:, 1, 0] = normal["slope"] * width / height
    maps[:, 1, 1], maps[:, 1, 2] = torch.exp(normal["height"]), normal["shift"]
    places = functional.affine_grid(maps, list(ink.shape), align_corners=False)
    pixel = torch.tensor([2 / width, 2 / height]).view(2, 1, 1)
    points = torch.randn(count, 2, height // _POINTS, width // _POINTS)
    points *= _BEND * torch.rand(count, 1, 1, 1) * pixel
    bends = functional.interpolate(points, (height, width), mode="bicubic", align_corners=False)
    places = places + bends.permute(0, 2, 3, 1)
    ink = functional.grid_sample(ink, places, align_corners=False)
    pen, brightness = (
        normal[name].view(-1, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5)
        for name in ("pen", "brightness")
    )
    extreme = pen.sign() * functional.max_pool2d(pen.sign() * ink, 3, 1, 1)
    ink = ink + pen.abs().clamp(max=0.7) * (extreme - ink)
    blur = torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < _BLURRED)
    ink = ink + blur * (functional.avg_pool2d(ink, 3, 1, 1) - ink)
    return (ink * brightness.exp()).clamp(0, 1)


def train(batches: Iterator[Sequence[Sample]]) -> dict[str, Floats]:
    """Train the net, and return the moving average of its weights, as `LineNet` needs them."""
    import torch  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    torch.manual_seed(0)
    net = build()
    mean = {name: each.clone() for name, each in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=_DECAY, betas=(0.9, 0.98))
    for step in range(1, STEPS + 1):
        left = 1 - step / STEPS
        optimizer.param_groups[0]["lr"] = _RATE * min(step / 300, 1, 1.25 * left + 0.001)
        lines = next(batches)
        # A line may become wider by a quarter.
        width = round(1.25 * max(ink.shape[1] for _, ink in lines)) + 2 * _MARGIN
        ink = np.zeros((len(lines), 1, line_net.ROWS, width + width % 2), np.float32)
        for place, (_, each) in zip(ink, lines, strict=True):
            place[0, :, _MARGIN : _MARGIN + each.shape[1]] = each / 255
        texts = torch.tensor([int(digit) for text, _ in lines for digit in text])
        varied = vary(torch.from_numpy(ink)).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            scores = net(varied)[:, :, 0]
        scores = functional.log_softmax(scores.float(), 1)
        frames, lengths = [scores.shape[2]] * len(lines), [len(text) for text, _ in lines]
        losses = functional.ctc_loss(
            *(scores.permute(2, 0, 1), texts, frames, lengths),
            blank=NO_DIGIT,
            reduction="none",
            zero_infinity=True,
        )
        loss = (losses * (losses < _HOPELESS * STEPS / step)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        with torch.no_grad():
            for each in net:
                if isinstance(each, torch.nn.BatchNorm2d):
                    each.weight.clamp_(min=1e-3)
        for name, each in net.state_dict().items():
            if each.is_floating_point():
                mean[name].lerp_(each, max(_NEW, 50 / (step + 50)))
        if step % 100 == 0:
            print(f"{step} of {STEPS}: loss {loss:.3f}", flush=True)
    net.load_state_dict(mean)
    return fold(net)


def fold(net: Any) -> dict[str, Floats]:
    """Return weights, (height, width, inputs, outputs), with the normalisation of batches."""
    convolutions = [
        each for each in net if hasattr(each, "kernel_size") and hasattr(each, "weight")
    ]
    norms = [each for each in net if hasattr(each, "running_var")]
    folded = dict[str, Floats]()
    for number, each in enumerate(convolutions):
        weight, bias = each.weight.detach().permute(2, 3, 1, 0), each.bias
        if number < len(norms):
            norm = norms[number]
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight, bias = weight * factor, norm.bias - norm.running_mean * factor
        folded[f"{number}.weight"] = weight.detach().contiguous().numpy()
        folded[f"{number}.bias"] = bias.detach().numpy()
    return folded


def recipe() -> JsonObject:
    """Return all settings on which the net depends."""
    layers = [[maps, *size] for maps, size in _LAYERS]
    net = {
        "layers": layers,
        "maxima": [*map(list, line_net.MAXIMA)],
        "rate": _RATE,
        "decay": _DECAY,
        "dropout": _DROPOUT,
        "new": _NEW,
    }
    work = {
        "lines": LINES,
        "task": TASK,
        "steps": STEPS,
        "batch": BATCH,
        "hopeless": _HOPELESS,
        "vary": _VARY,
    }
    work |= {"blurred": _BLURRED, "bend": [_POINTS, _BEND], "fonts": _FONTS.split()}
    work |= {"of_fonts": OF_FONTS, "others": _OTHERS, "words_drawn": _WORDS_DRAWN}
    return {"data_sha256": DATA_SHA256, **SETTINGS, **net, **work}


def main() -> None:
    """Draw and find lines, train the net and write it."""
    paths, given = draw_files(__doc__, OUTPUT, LINES // TASK, find_lines)
    drawn = draw_batches(given.data, 0, find_fonts(given.lines_in))
    pairs = zip(take_batches(load_lines(paths)), drawn, strict=True)
    net = train(batch for pair in pairs for batch in pair)
    recipes.save(net, given.output, recipe())


if __name__ == "__main__":
    main()

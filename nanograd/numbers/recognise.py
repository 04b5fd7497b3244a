"""Numbers in pictures: lines of digits with their text, boxes and confidences.

The line net (`line_net`) reads a line as a whole: it gives the probable texts, and where the digits
of a text are. The line is then cut between adjacent digits, so that each has a box and an image. If
the line net is not certain, the model of single digits classifies these images for each probable
text, and the model's probabilities help to choose a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from math import log

import numpy as np
from PIL import Image

from nanograd.errors import Reason, UnreadableError
from nanograd.models.model import Model
from nanograd.numbers.line_net import STRIDE, load_line_net, shrink, slant
from nanograd.numbers.locate import SEARCH_SIDE, TALL, Found, Line, Way, find_lines
from nanograd.numbers.pieces import Pieces, divide
from nanograd.numbers.strokes import draw_strokes
from nanograd.numbers.texts import find_frames, find_shares, find_texts
from nanograd.pictures.paper import reduce
from nanograd.runtime.arrays import Bytes, Doubles, Floats, Ints

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the picture

# Minimum lead of a text over having no digit: for each digit, and for all of them. Less is enough
# for a line of digits alone that is about as high as the others that are read (at most ALIKE times
# as high, or as low): _LEAD_BESIDE, with the confidence _SURE_BESIDE, or _SURE_ONE for a one. A
# line that is less than TALL times as high needs _SURE_BESIDE, too, and two digits. For the line
# net, a single stroke may be a one, a slash or no digit: if a picture has nothing else, it is a one
# with the lead _LEAD_BESIDE, too. Of 40 ones alone and 36 below a number, 39 and 26 are read with
# leads of 0 and -1 and _SURE_ONE 0.35, and 40 and 35 now. Of 200 digits alone, 188 are read with
# _LEAD_OF_A_DIGIT 2, and 196 with 1 (2026-12-02).
_LEAD_OF_A_DIGIT, _LEAD, _ALIKE, _LEAD_BESIDE = 1.0, 12.0, 1.35, -2.0
_SURE_BESIDE, _SURE_ONE = 0.86, 0.12
# A picture is searched in other ways unless each line has more than the confidence _SURE. A line
# with less than _DOUBTFUL counts against a result, and each line must be worth _LEAST certain
# digits. Longest sides in pixels of the other copies. Of 740 photos of training digits, 644 were
# right with _SURE 0.5 and _LEAST 0, and 657 with 0.7 and 1 (2026-11-29). With _DOUBTFUL 0.3, fields
# whose ticks are read as ones won, because a long text was worth more (2026-12-01).
_SURE, _DOUBTFUL, _LEAST, _OTHER_SIDES = 0.7, 0.5, 1.0, (240, 960)
# Pages of text and textures have hundreds of lines, which take seconds. After _MANY lines without a
# number, no further way is tried. A way fails if it finds _MANY lines more than twice those of the
# first way. Of 150 photos, one has more than 25 lines without a number: 879 (2026-12-03).
_MANY = 200
# If marks are no digits in the first way, another result needs this value: two digits with 0.8.
_LEAST_AGAIN = -0.4
# A digit of another result is no part of a number whose digits are more than this times as tall.
_TALLER = 2.0
# A picture is coloured if the channels of one pixel in a hundred differ by more than this. Then its
# channels are searched, too: red ink is bright in the red one, yellow in red and green. Of 308
# numbers under a highlighter or in fields with ticks, 217 are right without it and 274 with it.
_COLOURED = 40
# Strokes are alike if the geometric mean of their odds is at least half their mean. Of 600 lines of
# two to four ones, 469 are right if the texts of ones are not joined, and 571 if they are
# (2026-12-03).
_ALIKE_ODDS = log(0.5)
# In the boxes of a form, a text with a digit for each box with marks is this much more probable. Of
# 600 forms of training digits, some with a dash, 572 are right without this, and 577 with it
# (2026-12-04).
_BOXED = log(20)
# The scores of a line with less than _SURE are means with those of copies slanted by these columns.
_SLANTS = (0.1, -0.1)
# If the best text has less than the share _CERTAIN, it is compared with the next ones of more than
# _LIKELY, _COMPARED texts in all. A digit speaks for a text if the model gives it more than _USUAL,
# and against it otherwise: by the difference of the logs, times _WEIGHT. So a text with one digit
# more wins if the model recognises this digit well. The weight is _WEIGHT_APART for a digit with a
# gap on both sides, because its piece was not cut from a neighbour. Of 1,800 lines of training
# digits and 514 photos, 1,721 and 479 are right with 0.5, and 1,717 and 480 with 0.35
# (2026-12-01). With an earlier line net, they were 1,701 and 468 with _USUAL 0.75, 1,706 and 470
# with 0.18, and 1,687 and 465 without the model.
_CERTAIN, _LIKELY, _COMPARED = 0.9, 0.002, 3
# A model is too sure of pieces that were cut badly, so its probabilities are _LEAST_PROBABILITY or
# more here.
_WEIGHT, _WEIGHT_APART, _USUAL, _LEAST_PROBABILITY = 0.35, 0.5, 0.18, 0.003


@dataclass(frozen=True, kw_only=True)
class Digit:
    """A digit of a number."""

    digit: int
    # (10,) float32, of each digit at this place; the rest is no digit
    probabilities: Floats = field(repr=False, compare=False)
    unfamiliarity: float  # see `Assessment`
    box: Box
    image: Bytes = field(repr=False, compare=False)  # (784,) in MNIST's form

    @property
    def confidence(self) -> float:
        """Probability of the digit, 0 to 1."""
        return float(self.probabilities[self.digit])


@dataclass(frozen=True, kw_only=True)
class Number:
    """A line of digits in a picture."""

    text: str
    confidence: float  # probability of the whole text, 0 to 1
    box: Box
    digits: tuple[Digit, ...]  # from left to right
    left_out: tuple[Box, ...]  # marks between the digits that are no digits


def read_line(line: Line, model: Model, lead: float = _LEAD) -> Number | None:
    """Read a line; None if the lead of its text over having no digit is too small."""
    net, small = load_line_net(), shrink(line.ink, (line.top + line.bottom) / 2)
    probabilities = net.read(small)
    texts = find_texts(probabilities)
    if max(texts.values()) < log(_SURE):
        probabilities = net.read(small, *(slant(small, columns) for columns in _SLANTS))
        texts = find_texts(probabilities)
    texts = _join_ones(texts)
    if line.num_boxes:
        lengths = np.array([*map(len, texts)])
        logs = np.array([*texts.values()]) + _BOXED * (lengths == line.num_boxes)
        texts = dict(zip(texts, (logs - np.logaddexp.reduce(logs)).tolist(), strict=True))
    text = max(filter(None, texts), key=texts.__getitem__, default="")
    if not text or texts[text] - texts[""] <= min(lead, _LEAD_OF_A_DIGIT * len(text)):
        return None
    likely = [each for each in texts if each and texts[each] > log(_LIKELY)]
    likely = nlargest(_COMPARED if texts[text] < log(_CERTAIN) else 1, likely, texts.__getitem__)
    ways, values = list[tuple[Ints, Pieces, Doubles]](), list[float]()
    for text in likely:
        frames, digits = find_frames(probabilities, text), [int(digit) for digit in text]
        pieces = divide(line, digits, STRIDE * (frames + 0.5), model)
        # How much the model's probabilities speak for each digit at each place, (D, 10).
        given = np.maximum(model.probabilities(pieces.images), _LEAST_PROBABILITY)
        fits = (given / _USUAL) ** np.where(pieces.apart, _WEIGHT_APART, _WEIGHT)[:, None]
        ways.append((frames, pieces, fits))
        values.append(texts[text] + float(np.log(fits[np.arange(len(digits)), digits]).sum()))
    best = int(np.argmax(values))
    share = np.exp(values[best] - np.logaddexp.reduce(values))
    text, (frames, pieces, fits) = likely[best], ways[best]
    digits = [int(digit) for digit in text]
    shares = find_shares(probabilities, text, frames)
    fitting = shares * fits
    fitting /= fitting.sum(1, keepdims=True) + 1 - shares.sum(1, keepdims=True)
    columns = zip(
        digits,
        fitting.astype(np.float32),
        model.compare(pieces.images, np.array(digits)).tolist(),
        map(line.place, pieces.boxes),
        pieces.images,
        strict=True,
    )
    read = tuple(
        Digit(digit=digit, probabilities=own, unfamiliarity=unfamiliarity, box=box, image=image)
        for digit, own, unfamiliarity, box, image in columns
    )
    return Number(
        text=text,
        confidence=float(share * sum(np.exp(texts[each]) for each in likely)),
        box=around([each.box for each in read]),
        digits=read,
        left_out=tuple(map(line.place, pieces.others)),
    )


def _join_ones(texts: dict[str, float]) -> dict[str, float]:
    """Join the texts of ones alone into the longest one whose strokes are alike.

    For the line net, each stroke without other digits may be a one or no digit, whatever the other
    strokes are. But strokes that are alike are either all ones, or no digits.
    """
    ones = [text for text in texts if text and not text.strip("1")]
    if len(ones) < 2 or "1" not in ones:
        return texts
    # The log of the odds of a text of ones. That of a single one is the sum over the strokes.
    odds = {text: texts[text] - texts[""] for text in ones}
    alike = [
        text for text in ones if odds[text] / len(text) > odds["1"] - log(len(text)) + _ALIKE_ODDS
    ]
    longest = max(*alike, max(ones, key=texts.__getitem__), key=len)
    others = {text: share for text, share in texts.items() if text not in ones}
    return others | {longest: float(np.logaddexp.reduce([texts[text] for text in ones]))}


def around(boxes: Sequence[Box]) -> Box:
    """Return the box around boxes."""
    sides = np.array(boxes)
    return (*sides[:, :2].min(0).tolist(), *sides[:, 2:].max(0).tolist())


def read_lines(lines: Sequence[Line], model: Model) -> list[Number]:
    """Read lines that were found, without those that have no digit."""
    numbers = [read_line(line, model) for line in lines]
    heights = [line.step[1] for line, number in zip(lines, numbers, strict=True) if number]
    usual, read = float(np.median(heights)) if heights else 0.0, list[Number]()
    for line, number in zip(lines, numbers, strict=True):
        height, found = line.step[1], number
        if number is None and usual / _ALIKE < height < usual * _ALIKE:
            found = read_line(line, model, _LEAD_BESIDE)
            least = _SURE_ONE if found and not found.text.strip("1") else _SURE_BESIDE
            found = found if found and found.confidence > least and not found.left_out else None
        elif number is None and len(lines) == 1:
            found = read_line(line, model, _LEAD_BESIDE)
            found = found if found and not found.text.strip("1") else None
        elif number and height < TALL * usual:
            is_sure = number.confidence > _SURE_BESIDE and len(number.text) > 1
            found = number if is_sure else None
        read += [found] if found else []
    return read


def read_numbers(picture: Image.Image, model: Model, polarity: str = "auto") -> list[Number]:
    """Read the lines of digits in a picture, from top to bottom, then from left to right.

    If the result is doubtful, the picture is searched in other ways, for example in a smaller copy.
    Each result has a value, which grows with the number of its digits and with their confidence.
    The result with the largest value is returned.

    Raises:
        UnreadableError: no mark is a digit, or marks cannot be distinguished from the paper.
    """
    results = list[list[Number]]()
    refused = (Reason.BLANK, "no mark in the picture is a digit")
    ways, least, best, wasted = [(picture, Way(polarity))], -np.inf, 0, 0
    strokes = None  # a drawing of thin strokes; it loses thick ink, so it does not end the search
    for number, (part, way) in enumerate(ways):
        found = None
        try:
            found = find_lines(part, way)
        except UnreadableError as error:
            refused = refused if number else (error.reason, error.detail)
        numbers = read_lines(found.lines, model) if found else []
        wasted += len(found.lines) - len(numbers) if found else 0
        if part is strokes:  # the edge of a shadow looks like a one, and noise like a digit
            likely = [
                each
                for each in numbers
                if each.text.strip("1") and (len(each.text) > 1 or each.confidence > _SURE_BESIDE)
            ]
            numbers = likely or numbers
        if way.padded:  # where a shade of the paper ends, it may look like a digit
            numbers = [each for each in numbers if each.confidence > _DOUBTFUL]
        results.append(numbers)
        values = [_value(each, results) for each in results]
        values[0] = max(values[0], least)
        best = int(np.argmax(values))
        # A single digit may be all that was found of a line.
        sure = sum(len(each.text) for each in results[best]) > 1
        sure = sure and min(each.confidence for each in results[best]) > _SURE
        if not number:
            # If marks are no digits in the first way, or a single stroke, they are not read with
            # doubts in another: in a tight crop, the paper around a one looks like a light zero.
            is_stroke = len(numbers) == 1 and not numbers[0].text.strip("1")
            least = _LEAST_AGAIN if found and (is_stroke or not numbers) else least
            if found is None or found.is_tight:
                ways.append((picture, Way(polarity, padded=True)))
            others = _other_ways(polarity, found, bool(numbers), sure)
            most = _MANY + 2 * len(found.lines) if found else np.inf
            # Without a digit other than a one, the marks may be edges of shadows. Of 150 photos of
            # the kind "faint in shadow", 123 are right without this, and 128 with it (2026-12-07).
            is_faint = found is None or found.is_faint
            is_faint |= not any(each.text.strip("1") for each in numbers)
            if polarity != "light-on-dark" and is_faint:
                strokes = draw_strokes(picture)
                ways.append((strokes, Way("dark-on-light", most=most)))
            ways += [(picture, replace(each, most=most)) for each in others]
            if not sure:
                ways += [(each, Way(polarity, most=most)) for each in _channels(picture)]
        elif sure and best == number and found and found.has_print and way.printed:
            # The rules of a table in perspective are not straight, so parts of them are left.
            ways.insert(number + 1, (part, replace(way, printed=False)))
        elif sure and best >= max(number - (not way.printed), 1) and ways[best][0] is not strokes:
            break  # the best way is this one, or this one with its print
        if wasted > _MANY:
            break
    if not results[best]:
        raise UnreadableError(*refused)
    return [_clip(number, picture.size) for number in results[best]]


def _clip(number: Number, size: tuple[int, int]) -> Number:
    """Return a number whose boxes do not reach beyond a picture of this width and height."""

    def clip(box: Box) -> Box:
        left, top, right, bottom = np.clip(box, 0, [*size, *size]).tolist()
        return left, top, right, bottom

    digits = tuple(replace(each, box=clip(each.box)) for each in number.digits)
    others = tuple(map(clip, number.left_out))
    return replace(number, box=clip(number.box), digits=digits, left_out=others)


def _value(numbers: Sequence[Number], results: Sequence[Sequence[Number]]) -> float:
    """Return how good a result is, also compared with the others.

    What surely was a digit in another result should be part of a number in this one. Of 255
    simulated pictures and 374 lines of simulated pages, 180 and 215 are right if only the digits of
    the first result count, and 180 and 230 with those of all (2026-12-02).
    """
    if not numbers:
        return -np.inf
    lost = (
        sum(
            max(float(digit.probabilities.sum()) - _DOUBTFUL, 0)
            for each in result
            if each.confidence > _SURE or result is results[0]
            for digit in each.digits
            if not _is_part(digit.box, numbers)
        )
        for result in results
    )
    own = 0.0
    for each in numbers:
        # A line that is surely read counts fully, so that a result in which lines are joined is no
        # better. Strokes, or a digit alone, may be no digits.
        is_sure = each.confidence > _SURE_BESIDE and each.text.strip("1") != ""
        is_sure &= len(numbers) > 1 or len(each.text) > 1
        own += len(each.text) * (each.confidence - _DOUBTFUL) - (0 if is_sure else _LEAST)
    return own - max(lost)


def _is_part(box: Box, numbers: Sequence[Number]) -> bool:
    """Return whether the middle of a digit's box is in a number whose digits are not much taller.

    Otherwise, the paper around digits, read as a zero, would contain them.
    """
    x, y, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[3] - box[1]
    return any(
        each.box[0] <= x <= each.box[2]
        and each.box[1] <= y <= each.box[3]
        and max(digit.box[3] - digit.box[1] for digit in each.digits) < _TALLER * height
        for each in numbers
    )


def _channels(picture: Image.Image) -> Sequence[Image.Image]:
    """Return the red, green and blue channel of a coloured picture; none of a grey one."""
    rgb = picture.convert("RGB")
    differences = np.ptp(np.asarray(reduce(rgb, SEARCH_SIDE)), axis=2)
    return rgb.split() if np.quantile(differences, 0.99) > _COLOURED else ()


def _other_ways(polarity: str, found: Found | None, is_read: bool, sure: bool) -> Iterator[Way]:
    """Yield the ways to search a picture again; `found` is the result of the first way."""
    if found and found.is_dense:  # other lines may be read well without those that are joined
        yield Way(polarity, cut=True)
    if found and found.has_sheet:
        # Digits at the border, or a shadow, may look like surroundings.
        yield Way(("dark-on-light", "light-on-dark")[found.inverted], sheets=False)
    if found and found.has_print:
        yield Way(polarity, printed=False)
    if sure:
        if found and found.has_paler:
            yield Way(polarity, weaker=True)
        return
    found = found if is_read else None  # without digits, the ink may not be known either
    likely = "dark-on-light" if polarity == "auto" and not found else polarity
    others = {"auto": ("dark-on-light", "light-on-dark")}.get(polarity, ())
    if found is None or found.inverted:
        yield from (Way(each, spread=True) for each in others[:1])
    yield Way(likely, weaker=True)  # print may be stronger than digits
    for side in _OTHER_SIDES:
        yield Way(likely, side=side)
    yield Way(likely, inner=True)
    if found is None or not found.inverted:
        yield from map(Way, others[1:])

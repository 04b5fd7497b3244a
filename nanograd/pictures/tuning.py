"""All constants of the normaliser, each with the measurement or the reason behind it.

They were chosen on photos simulated from training images and on the development pictures, never on
test images; docs/handwriting.md lists the kinds of photos and the errors of each. Sizes
are shares of the picture's side unless they say pixels, which are those of the reduced copy.
"""

import numpy as np

# Longest side in pixels of the reduced copy in which the digit is found, which limits how small a
# digit may be (docs/handwriting.md), and of the digit that is cut out, before it is shrunk to 20.
SEARCH_SIDE, DETAIL_SIDE = 160, 80
# Pixels: digits of 28 x 28 are stored with borders of up to 18, as in files of 32, 40, 48 or 64.
MAX_BORDERED_SIDE = 64

# Width of MNIST's digits by `pen_width`: median 2.4 pixels, middle half 2.0 to 2.85. Thinning must
# leave this share of the ink once it is thickened again.
PEN_MIN, PEN_MAX, KEPT = 2.0, 2.85, 0.985
# Pen width / longest side of the digit: above 0.2 is unusual, above 0.35 is a blot, not a pen.
WIDEST_PEN, BLOT = 0.2, 0.35

# Paper and polarity. Otsu's criterion above which two tones are ink and paper: 0.82 and more in
# drawings and crops of MNIST, 0.5 to 0.75 in photos under uneven light.
TWO_TONES = 0.8
# Tones and votes of pictures cropped to the digit: 0.94 and 0.19 at least, seldom beside shadows.
SHARP_TONES, CLEAR_VOTE = 0.93, 0.17
# A border with more than this share of either tone has two of them.
MIXED = 0.1
# Longest side in pixels of a bitmap, and of the copy in which the width of the pen is measured.
BITMAP_SIDE, COARSE_SIDE = 64, 80
# Darker grey levels, and channels darker than this share of the brightest (blue on yellow paper),
# are noise: their ratios carry no information.
DARKEST, DARK_CHANNEL = np.uint8(5), 0.3
# In a drawing on a screen, this share of the pixels, and of the border, is exactly the paper's.
BARE_SCREEN = 0.5
# Half the window widths that are tried, in pixels of the coarse copy.
RADII = (1, 2, 3, 5, 8, 13)
# Growth of the energy of narrow structures, from one width to the next, below which the window
# covers the pen: all of it to remove the pen, most of it to compare two tones, before wedges of
# light beside a shadow begin to count (43 of 2,240 photos and negatives wrong, then 16).
ALL_OF_PEN, MOST_OF_PEN = 1.25, 1.5
# In a bitmap: side of its corners, least piece, weight of a piece, and the quantile of the brighter
# tone that is bare paper. Votes of border, picture, corners and pieces mistake none of 600
# simulated crops, those of border and picture alone 15.
CORNER, SPECK, PIECE_WEIGHT, BARE_TONE = 0.15, 0.004, 0.06, 0.9
# No pen in a bitmap is wider than this share of its longest side.
PEN_SHARE = 0.3

# Marks whose box covers more of the picture than ALL_OVER are all over it; stronger ones within
# ONE_PLACE are the digit. Between lines and ink lies this share of their threshold.
ALL_OVER, ONE_PLACE, WEAK_AMONG_LINES = 0.8, 0.6, 0.8
# Below: nothing but paper. In units of the paper's grain: least ink, and the edge of ink
# (docs/handwriting.md, "Ink only darkens").
LEAST_CONTRAST, LEAST_SIGNAL, ABOVE_GRAIN = 0.06, 4.0, 3.0

# A thin, pale pen (simulated kinds "faint" and "faint in shadow"): half the window in pixels, the
# side of the blocks whose mean counts, the quantile of ink that is the core of its strokes, the
# share of it that is the level, the border to leave out, and the smoothing before, in pixels.
PALE_RADIUS, NEARBY, CORE, OF_CORE, BORDER, SMOOTH = 5, 12, 0.9975, 0.6, 4, 0.8
# Levels below which ink is pale, also in pictures of two tones, and below which marks from side to
# side are noise; least size of a pale digit on two tones, as a share of the shorter side.
PALE, PALEST, NOISE, LEAST_SIZE = 0.26, 0.1, 0.05, 0.3

# Light as a surface: side of the grid of blocks to which it is fitted, and the degrees tried.
GRID, DEGREES = 20, (2, 4)
# Median residual of a smooth light, in natural logarithms: 0.028 and less under vignettes by degree
# 2, 0.004 by degree 4; 0.01 and more beside a shadow by degree 4, 0.02 to 0.1 usually.
GOOD_FIT = 0.01
# Share of blocks that must be this close to the surface (the others have ink). A surface that
# varies less than FLAT, in natural logarithms, is left to the closing.
CLOSE, ON_SURFACE, FLAT = 0.05, 0.6, 0.2
# Median residuals beyond which a block has no weight; steps of the fit; the darkest grey level.
BIWEIGHT, FIT_STEPS, DARKEST_LIGHT = 6.0, 6, 8.0

# Ink by hue (simulated kind "equal light"): least colour of the sheet, and least difference of hue
# between ink and sheet, as shares of the sheet's brightness.
COLOURED, HUE = 0.25, 0.2
# Otsu's criterion for ink and sheet by hue, the share of the picture that ink may cover, and the
# grey levels of sheet and ink in the picture that is seen by hue.
TWO_HUES, INK_SHARE, PAPER_LEVEL, INK_LEVEL = 0.75, (0.003, 0.4), 210, 50

# Surroundings (simulated kinds "binding" and "table"). Share of a side that a mark covers if it is
# the edge of something, of such a mark that may be in the middle, of a row that belongs to it.
EDGE, IN_MIDDLE, ROW = 0.25, 0.02, 0.12
# Marks across a row that are the rings of a binding, and how near to the border they begin.
RINGS, RINGS_START = 8, 0.12
# Greatest gap between rows of a band, its greatest depth, and the share of a digit's pixels that a
# cut may remove.
GAP, DEEPEST, LOSS = 0.04, 0.3, 0.02
# Of a sheet within the picture (the other generator of docs/handwriting.md): the least share of its
# box that is sheet, and of the sheet that is not ink; the greatest bright share of a side with
# surroundings; its blurred edge in pixels.
SOLID, BRIGHT, RIM = 0.7, 0.25, 3
# Least share of dark pixels in a picture of a board. Least share of the picture of a sheet that was
# taken for ink, of any other, and of a board: beside a bold digit, paper may look like a sheet.
MOSTLY_DARK, INVERTED_SHEET, SHEET = 0.3, 0.08, 0.3

# Printed lines (simulated kinds "ruled", "squared" and "squares"). Strips across a line in which it
# is traced, and the share of them (of its columns) it must cover.
STRIPS, COVERED = 16, 0.7
# Slopes tried, up to 4 degrees; half the rows in which a line is traced beside a straight one, and
# half the width of the profile across it, in pixels.
SLOPES, BEND, HALF_LINE = np.linspace(-0.07, 0.07, 15), 3, 3
# The quantile that is a line's strength: of 300 photos of squared paper 9 are misclassified, with
# the median 11, with 0.8 13.
LINE_QUANTILE = 0.7
# Least strength of a line, also in units of the median over the picture. Above MOST_LINE it is
# drawn: black strokes on a screen, not print beside a pencil.
LEAST_LINE, ABOVE_MEDIAN, MOST_LINE = 0.04, 3.0, 0.9
# Lines in one direction, or in both, that are a pattern: a single one may be a stroke.
IN_ONE, IN_BOTH = 2, 3

# Marks of a digit. Largest gap between parts of one digit, as a share of the parts found so far.
REACH = 0.25
# Largest gap above or below for a bar, as the top stroke of a five: a share of the height of both.
# Least ink of a bar, and of any mark that is no speck, as a share of the largest mark's.
BAR_REACH, BAR_INK, LEAST_INK = 0.3, 0.1, 0.02
# Width of the picture's border, and the weight of a mark that touches it, beside one that does not.
RING, BORDER_WEIGHT = 0.02, 0.5
# Two marks with a gap are two digits if both are as tall as this share of the largest and have this
# share of its ink; marks beside each other if the fainter has BESIDE_INK and both together are
# wider than this multiple of the height.
TALL, MUCH_INK, BESIDE_INK, WIDEST = 0.7, 0.4, 0.2, 1.25
# A bitmap this many times as wide as high has room for two digits, the other at least half as tall.
WIDE, HALF_AS_TALL = 1.5, 0.5
# Dotted paper: greatest side and least number of dots, greatest factor from one to their median.
DOT, LEAST_DOTS, ALIKE = 0.06, 6, 3.0
# Least height and width of a digit in a frame, as shares of the frame's: a dotted zero is none.
# More pieces than any broken stroke has.
FRAMED, MAX_MARKS = 0.25, 15

# For the drawing pad of a report (report/page/normalise.js, marks.js).
PAGE = {name: value for name, value in globals().items() if isinstance(value, int | float)}

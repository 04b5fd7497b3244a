"""All constants of the normaliser, each with the measurement or the reason behind it.

They were chosen on photos simulated from training images, and on real pictures that are used for
nothing else, never on test images. benchmarks/results lists the kinds of photos and the errors of
each kind. A size is a share of the picture's longest side, unless its comment says pixels, which
are pixels of the reduced copy.
"""

import numpy as np

# Longest side in pixels of the reduced copy in which the digit is found, which limits how small a
# digit may be (docs/handwriting.md). Longest side of the digit that is cut out, before it is shrunk
# to 20.
SEARCH_SIDE, DETAIL_SIDE = 160, 80
# Maximum side in pixels of a 28 x 28 digit with an empty border; files of 32, 40, 48 and 64 exist.
MAX_BORDERED_SIDE = 64

# Pen width in MNIST by `pen_width`: the median is 2.4 pixels, and half of the digits are between
# 2.0 and 2.85. A digit that is thinned and thickened again must keep this share of its ink.
PEN_MIN, PEN_MAX, KEPT = 2.0, 2.85, 0.985
# Pen width / longest side of the digit: above 0.2 is unusual, above 0.35 is a blot, not a pen.
WIDEST_PEN, BLOT = 0.2, 0.35

# Paper and polarity. If Otsu's criterion is above this, two tones are ink and paper. It is 0.82 and
# more in drawings and crops of MNIST, and 0.5 to 0.75 in photos under uneven light.
TWO_TONES = 0.8
# Minimum of Otsu's criterion and of the vote in a picture cropped to its digit. Such pictures have
# at least 0.94 and 0.19; pictures with shadows seldom have both.
SHARP_TONES, CLEAR_VOTE = 0.93, 0.17
# A border has two tones if it has more than this share of each.
MIXED = 0.1
# Longest side in pixels of a bitmap, and of the copy in which the width of the pen is measured.
BITMAP_SIDE, COARSE_SIDE = 64, 80
# Grey levels below DARKEST, and channels below this share of the brightest channel (for example
# blue on yellow paper), are noise: their ratios carry no information.
DARKEST, DARK_CHANNEL = np.uint8(5), 0.3
# In a drawing on a screen, this share of the pixels and of the border has exactly one value.
BARE_SCREEN = 0.5
# Radii of the windows that are tried, in pixels of the coarse copy.
RADII = (1, 2, 3, 5, 8, 13)
# The window covers the pen if the energy of narrow structures grows by less than this factor from
# one radius to the next. ALL_OF_PEN is for removing the pen. MOST_OF_PEN is for comparing two
# tones: a wider window would count narrow areas of light beside a shadow, too, and would give the
# wrong polarity for 43 instead of 16 of 2,240 photos and negatives.
ALL_OF_PEN, MOST_OF_PEN = 1.25, 1.5
# In a bitmap: side of a corner, minimum size of a piece, weight of a piece in the vote, and the
# quantile of the brighter tone that is bare paper. A vote of border, picture, corners and pieces is
# wrong for none of 600 simulated crops; a vote of border and picture alone is wrong for 15.
CORNER, SPECK, PIECE_WEIGHT, BARE_TONE = 0.15, 0.004, 0.06, 0.9
# Maximum width of a pen in a bitmap, as a share of the longest side.
PEN_SHARE = 0.3

# Weak marks are all over the picture if their box covers more than ALL_OVER of it. Stronger marks
# are in one place if their box covers less than ONE_PLACE. The weak threshold of the stronger marks
# is this share of their threshold.
ALL_OVER, ONE_PLACE, WEAK_AMONG_LINES = 0.8, 0.6, 0.8
# If less than LEAST_SHARE of the pixels is above LEAST_CONTRAST, there is only paper. Minimum
# strength of ink, and minimum threshold of ink, in units of the paper's grain (docs/handwriting.md,
# "Ink only darkens").
LEAST_SHARE, LEAST_CONTRAST, LEAST_SIGNAL, ABOVE_GRAIN = 0.001, 0.06, 4.0, 3.0

# A thin, pale pen (simulated kinds "faint" and "faint in shadow"): radius of the window in pixels;
# side of the blocks for the mean ratio in pixels; quantile of ink that is the core of a stroke;
# share of it that is the threshold; border to leave out, and smoothing before, in pixels.
PALE_RADIUS, NEARBY, CORE, OF_CORE, BORDER, SMOOTH = 5, 12, 0.9975, 0.6, 4, 0.8
# Ink is pale if its threshold is below PALE, or below PALEST in a picture of two tones. Marks from
# side to side are noise if it is below NOISE. Minimum size of a pale digit in a picture of two
# tones, as a share of the shorter side.
PALE, PALEST, NOISE, LEAST_SIZE = 0.26, 0.1, 0.05, 0.3

# Light as a surface: side of the grid of blocks to which it is fitted, and the degrees tried.
GRID, DEGREES = 20, (2, 4)
# Maximum median residual of a smooth light, in natural logarithms. Under vignettes it is at most
# 0.028 with degree 2 and 0.004 with degree 4. Beside a shadow it is at least 0.01 with degree 4,
# and usually 0.02 to 0.1.
GOOD_FIT = 0.01
# A share ON_SURFACE of the blocks must have a residual below CLOSE; the other blocks have ink. A
# surface that varies less than FLAT is not used, because the closing is enough. CLOSE and FLAT are
# in natural logarithms.
CLOSE, ON_SURFACE, FLAT = 0.05, 0.6, 0.2
# A block has no weight if its residual is more than this many median residuals. Number of steps of
# the fit. Darker grey levels count as this one.
BIWEIGHT, FIT_STEPS, DARKEST_LIGHT = 6.0, 6, 8.0

# Ink by hue (simulated kind "equal light"): minimum range of the sheet's channels, and minimum
# difference of hue between ink and sheet, as shares of the sheet's brightness. Minimum difference
# of ink that is darker, or brighter, than the sheet in a channel, as a share of the sheet's.
COLOURED, HUE, OTHER = 0.25, 0.2, 0.15
# Minimum of Otsu's criterion for ink and sheet by hue, the share of the picture that ink may cover,
# and the grey levels of sheet and ink in the picture that is made from the hue.
TWO_HUES, INK_SHARE, PAPER_LEVEL, INK_LEVEL = 0.75, (0.003, 0.4), 210, 50

# Surroundings (simulated kinds "binding" and "table"). A mark is an edge if it covers more than
# EDGE of a side, and at most IN_MIDDLE of the mark is in the middle of the picture. A row belongs
# to the surroundings if edges cover more than ROW of it.
EDGE, IN_MIDDLE, ROW = 0.25, 0.02, 0.12
# Minimum number of marks across a row that are rings of a binding, how near to the border
# surroundings must begin, and by which share of their median distances between rings may differ.
RINGS, RINGS_START, UNEVEN = 8, 0.12, 0.3
# Maximum gap between rows of a band, maximum depth of a band, and the share of the pixels of a mark
# in the middle that cutting the band may remove.
GAP, DEEPEST, LOSS = 0.04, 0.3, 0.02
# A sheet within the picture (the other generator of docs/handwriting.md): minimum share of its box
# that is sheet, and of the sheet that is not ink; maximum bright share of a side with surroundings;
# width of the sheet's blurred edge, and half the width of lines on it, in pixels.
SOLID, BRIGHT, RIM, RULED = 0.7, 0.25, 3, 2
# Minimum share of dark pixels in a picture of a board. Minimum share of the picture that a sheet
# covers, if the plain method took the sheet for ink, and otherwise (including a board): paper
# beside a bold digit may look like a sheet.
MOSTLY_DARK, INVERTED_SHEET, SHEET = 0.3, 0.08, 0.3

# Printed lines (simulated kinds "ruled", "squared" and "squares"). Number of strips in which a line
# is traced, and the share of its strips, and of its columns, that a line must cover.
STRIPS, COVERED = 16, 0.7
# Slopes tried, up to 4 degrees; maximum distance of a line from a straight one, and half the width
# of the profile across it, in pixels.
SLOPES, BEND, HALF_LINE = np.linspace(-0.07, 0.07, 15), 3, 3
# The quantile along a line that is its strength. Of 300 photos of squared paper, 9 are
# misclassified with 0.7, 11 with the median, and 13 with 0.8.
LINE_QUANTILE = 0.7
# Minimum strength of a line, absolute and in units of the median over the picture. A line above
# MOST_LINE is a black stroke drawn on a screen, because print is paler.
LEAST_LINE, ABOVE_MEDIAN, MOST_LINE = 0.04, 3.0, 0.9
# Minimum number of lines in one direction, and in both, because a single line may be a stroke.
IN_ONE, IN_BOTH = 2, 3
# Maximum share of the rows of a box that its sides have; thicker sides are strokes of a digit.
THIN = 0.17

# Marks of a digit. Maximum gap between parts of a digit, as a share of the longest side of the
# parts found so far.
REACH = 0.25
# Maximum gap above or below for a bar, such as the top stroke of a five, as a share of the height
# of both. Minimum ink of a bar, and of a mark that is no speck, as a share of the largest mark's.
BAR_REACH, BAR_INK, LEAST_INK = 0.3, 0.1, 0.02
# Width of the picture's border, and weight of a mark that touches it; other marks have weight 1.
RING, BORDER_WEIGHT = 0.02, 0.5
# Two marks with a gap are two digits if each has at least TALL of the height and MUCH_INK of the
# ink of the largest mark. Marks side by side are two digits if each has at least TALL of the height
# and BESIDE_INK of the ink, and both together are wider than WIDEST times the height.
TALL, MUCH_INK, BESIDE_INK, WIDEST = 0.7, 0.4, 0.2, 1.25
# Two marks are ones if each is narrower than this share of the height, and the gap between them in
# the middle differs by at most the share BENT from the mean of the gaps above and below.
NARROW, BENT = 0.45, 0.1
# A bitmap that is WIDE times as wide as high has room for two digits. The other one must have at
# least this share of the digit's height.
WIDE, HALF_AS_TALL = 1.5, 0.5
# Dotted paper: maximum side of a dot, minimum number of dots, and maximum factor between the ink of
# a dot and the median.
DOT, LEAST_DOTS, ALIKE = 0.06, 6, 3.0
# Minimum height and width of a digit in a frame, as shares of the frame's, so that a zero with a
# dot is no frame. Maximum number of marks of a digit; broken strokes have fewer.
FRAMED, MAX_MARKS = 0.25, 15

# Constants for the drawing pad of a report (report/page/normalise.js, marks.js).
PAGE = {name: value for name, value in globals().items() if isinstance(value, int | float)}

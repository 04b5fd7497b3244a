// The marks of a drawing that belong to the digit, as in nanograd/pictures/marks.py.

const REACH = 0.25;
const BAR_REACH = 0.3, BAR_INK = 0.1;
const DOT = 0.06, LEAST_DOTS = 6, ALIKE = 3;
const FRAMED = 0.25;
// Weight of a mark at the border, relative to one that is not.
const BORDER_WEIGHT = 0.5;
const MAX_MARKS = 15;

// Connected marks (8 neighbours), numbered from 1 in the order of their first pixel.
function labelMarks(mask, width, height) {
  const labels = new Int32Array(mask.length);
  let count = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    labels[start] = ++count;
    const open = [start];
    while (open.length) {
      const place = open.pop();
      const x = place % width, y = (place - x) / width;
      for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row++) {
        for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column++) {
          const next = row * width + column;
          if (!mask[next] || labels[next]) continue;
          labels[next] = count;
          open.push(next);
        }
      }
    }
  }
  return { labels, count };
}

// For each mark: its ink (0 without a strong pixel), the share at the border, its box.
function measure(ink, labels, count, level) {
  const { width, height, data } = ink;
  const ring = Math.max(1, round(0.02 * Math.min(width, height)));
  const marks = Array.from({ length: count }, () => ({
    mass: 0, border: 0, strong: false, top: height, left: width, bottom: -1, right: -1,
  }));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const place = y * width + x;
      if (!labels[place]) continue;
      const mark = marks[labels[place] - 1], value = data[place];
      mark.mass += value;
      if (x < ring || y < ring || x >= width - ring || y >= height - ring) mark.border += value;
      mark.strong ||= value > Math.fround(level);
      mark.top = Math.min(mark.top, y);
      mark.left = Math.min(mark.left, x);
      mark.bottom = Math.max(mark.bottom, y);
      mark.right = Math.max(mark.right, x);
    }
  }
  return marks.map((mark) => ({
    ...mark, atBorder: mark.border / mark.mass, mass: mark.strong ? mark.mass : 0,
  }));
}

const tallness = (mark) => 1 + mark.bottom - mark.top;
const wideness = (mark) => 1 + mark.right - mark.left;
// Distances of two boxes in pixels; 0 or less where they overlap.
const gapDown = (one, other) => Math.max(one.top - other.bottom, other.top - one.bottom);
const gapAcross = (one, other) => Math.max(one.left - other.right, other.left - one.right);
const gap = (one, other) => Math.max(gapDown(one, other), gapAcross(one, other));

// Whether a mark is a box or a ring around another one.
function isFrame(frame, marks, labels, width, height) {
  const number = marks.indexOf(frame) + 1;
  const within = (mark) =>
    mark.mass > 0 && mark.top > frame.top && mark.left > frame.left &&
    mark.bottom < frame.bottom && mark.right < frame.right &&
    tallness(mark) > FRAMED * tallness(frame) && wideness(mark) > FRAMED * wideness(frame);
  if (!marks.some(within)) return false;
  const side = width + 4; // a margin of 2, and strokes thicker by 1, without gaps at corners
  const outside = new Uint8Array(side * (height + 4)).fill(1);
  labels.forEach((label, place) => {
    if (label !== number) return;
    const centre = (Math.floor(place / width) + 2) * side + (place % width) + 2;
    for (const row of [-side, 0, side]) outside.fill(0, centre + row - 1, centre + row + 2);
  });
  const { labels: around } = labelMarks(outside, side, height + 4);
  return labels.some((label, place) => {
    const there = around[(Math.floor(place / width) + 2) * side + (place % width) + 2];
    return there && there !== around[0] && label && within(marks[label - 1]);
  });
}

// The dots of dotted paper: many, small, alike.
function findDots(marks, side) {
  const small = marks.filter(
    (mark) => mark.mass > 0 && Math.max(tallness(mark), wideness(mark)) <= DOT * side,
  );
  if (small.length < LEAST_DOTS) return [];
  const masses = small.map((mark) => mark.mass).sort((one, other) => one - other);
  const middle = (masses.length - 1) / 2;
  const median = (masses[Math.floor(middle)] + masses[Math.ceil(middle)]) / 2;
  return small.filter((mark) => mark.mass / median > 1 / ALIKE && mark.mass / median < ALIKE);
}

function boxAround(marks) {
  return {
    top: Math.min(...marks.map((each) => each.top)),
    left: Math.min(...marks.map((each) => each.left)),
    bottom: Math.max(...marks.map((each) => each.bottom)),
    right: Math.max(...marks.map((each) => each.right)),
  };
}

function checkOneDigit(marks) {
  const main = marks.reduce((best, each) => (each.mass > best.mass ? each : best));
  const big = marks.filter(
    (each) => tallness(each) > 0.7 * tallness(main) && each.mass > 0.4 * main.mass,
  );
  const apart = big.some((one) => big.some((other) => gap(one, other) > REACH * tallness(main)));
  if (apart) throw new Error("Several digits are side by side: draw one.");
}

// The main mark and all that are close to it, or to one that is; bars straight above or below may
// be further away.
function growFrom(main, allowed) {
  let kept = [main];
  for (;;) {
    const box = boxAround(kept);
    const reach = REACH * (1 + Math.max(box.bottom - box.top, box.right - box.left));
    const isBar = (each) =>
      each.mass > BAR_INK * main.mass && gapAcross(each, box) <= 0 &&
      gapDown(each, box) <= BAR_REACH * tallness(boxAround([each, box]));
    const more = allowed.filter(
      (each) => kept.includes(each) || gap(each, box) <= reach || isBar(each),
    );
    if (more.length === kept.length) return kept;
    kept = more;
  }
}

// 1 for each pixel that belongs to the digit.
function chooseMarks(ink, level) {
  const mask = ink.data.map((value) => (value > Math.fround(level / 2) ? 1 : 0));
  const { labels, count } = labelMarks(mask, ink.width, ink.height);
  const marks = measure(ink, labels, count, level);
  const inner = (mark) => mark.mass * (mark.atBorder > 0 ? BORDER_WEIGHT * (1 - mark.atBorder) : 1);
  const findMain = () =>
    marks.reduce((best, each) => (inner(each) > inner(best) ? each : best), marks[0]);
  const first = findMain();
  if (!first || !inner(first)) throw new Error("The drawing has only specks and a border.");
  for (const mark of marks) {
    const contains =
      mark.top <= first.top && mark.left <= first.left &&
      mark.bottom >= first.bottom && mark.right >= first.right;
    if (contains && mark.mass && isFrame(mark, marks, labels, ink.width, ink.height)) mark.mass = 0;
  }
  const main = findMain();
  const dots = findDots(marks, Math.max(ink.width, ink.height));
  const most = main.atBorder ? Math.max(0.5, main.atBorder) : 0;
  const sizeable = marks.filter(
    (each) =>
      each === main ||
      (each.atBorder <= most && each.mass > 0.02 * main.mass && !dots.includes(each)),
  );
  checkOneDigit(sizeable);
  const kept = new Set(growFrom(main, sizeable));
  if (kept.size > MAX_MARKS) throw new Error("Too many marks: draw one digit.");
  return Float32Array.from(labels, (label) => (label && kept.has(marks[label - 1]) ? 1 : 0));
}

// Choose the marks of a drawing that belong to the digit, as nanograd/pictures/marks.py does.

const { REACH, BAR_REACH, BAR_INK, RING, BORDER_WEIGHT, LEAST_INK, TALL, MUCH_INK } = TUNING;
const { DOT, LEAST_DOTS, ALIKE, FRAMED, MAX_MARKS } = TUNING;

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

// A box without pixels; `widen` makes it contain a pixel.
const noBox = () => ({ top: Infinity, left: Infinity, bottom: -1, right: -1 });

function widen(box, x, y) {
  box.top = Math.min(box.top, y);
  box.left = Math.min(box.left, x);
  box.bottom = Math.max(box.bottom, y);
  box.right = Math.max(box.right, x);
}

// For each mark: its ink (0 without a strong pixel), the share of it at the border, its box.
function measure({ width, height, data }, labels, count, level) {
  const ring = Math.max(1, round(RING * Math.min(width, height)));
  const marks = Array.from({ length: count }, () => ({ mass: 0, border: 0, strong: false, ...noBox() }));
  labels.forEach((label, place) => {
    if (!label) return;
    const x = place % width, y = Math.floor(place / width);
    const mark = marks[label - 1], value = data[place];
    mark.mass += value;
    if (x < ring || y < ring || x >= width - ring || y >= height - ring) mark.border += value;
    mark.strong ||= value > f(level);
    widen(mark, x, y);
  });
  return marks.map(({ mass, border, strong, ...box }) => ({
    ...box, atBorder: border / mass, mass: strong ? mass : 0,
  }));
}

const tallness = (box) => 1 + box.bottom - box.top;
const wideness = (box) => 1 + box.right - box.left;
// Distances of two boxes in pixels; 0 or less if they overlap.
const gapDown = (one, other) => Math.max(one.top - other.bottom, other.top - one.bottom);
const gapAcross = (one, other) => Math.max(one.left - other.right, other.left - one.right);
const gap = (one, other) => Math.max(gapDown(one, other), gapAcross(one, other));
const greatest = (marks, value) =>
  marks.reduce((best, each) => (value(each) > value(best) ? each : best), marks[0]);

// Whether a mark is a box or a ring around another mark.
function isFrame(frame, marks, labels, width, height) {
  const number = marks.indexOf(frame) + 1;
  const within = (mark) =>
    mark.mass > 0 && mark.top > frame.top && mark.left > frame.left &&
    mark.bottom < frame.bottom && mark.right < frame.right &&
    tallness(mark) > FRAMED * tallness(frame) && wideness(mark) > FRAMED * wideness(frame);
  if (!marks.some(within)) return false;
  const side = width + 4; // room for a margin of 2; strokes get thicker by 1, which closes gaps
  const padded = (place) => (Math.floor(place / width) + 2) * side + (place % width) + 2;
  const outside = new Uint8Array(side * (height + 4)).fill(1);
  labels.forEach((label, place) => {
    if (label !== number) return;
    const centre = padded(place);
    for (const row of [-side, 0, side]) outside.fill(0, centre + row - 1, centre + row + 2);
  });
  const { labels: around } = labelMarks(outside, side, height + 4);
  return labels.some((label, place) => {
    const there = around[padded(place)];
    return there && there !== around[0] && label && within(marks[label - 1]);
  });
}

// The dots of dotted paper, which are many, small and alike.
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

function areTwo(marks) {
  const main = greatest(marks, (each) => each.mass);
  const big = marks.filter(
    (each) => tallness(each) > TALL * tallness(main) && each.mass > MUCH_INK * main.mass,
  );
  return big.some((one) => big.some((other) => gap(one, other) > REACH * tallness(main)));
}

// The main mark and all marks that are close to a chosen mark. Bars straight above or below it may
// be further away.
function growFrom(main, allowed) {
  let kept = [main];
  for (;;) {
    const box = noBox();
    for (const each of kept) {
      widen(box, each.left, each.top);
      widen(box, each.right, each.bottom);
    }
    const reach = REACH * Math.max(tallness(box), wideness(box));
    const isBar = (each) =>
      each.mass > BAR_INK * main.mass && gapAcross(each, box) <= 0 &&
      gapDown(each, box) <=
        BAR_REACH * (1 + Math.max(each.bottom, box.bottom) - Math.min(each.top, box.top));
    const more = allowed.filter(
      (each) => kept.includes(each) || gap(each, box) <= reach || isBar(each),
    );
    if (more.length === kept.length) return kept;
    kept = more;
  }
}

// An array with 1 for each pixel that belongs to the digit.
function chooseMarks(ink, level) {
  const { width, height } = ink;
  const mask = ink.data.map((value) => (value > f(level / 2) ? 1 : 0));
  const { labels, count } = labelMarks(mask, width, height);
  const marks = measure(ink, labels, count, level);
  const inner = (mark) => mark.mass * (mark.atBorder > 0 ? BORDER_WEIGHT * (1 - mark.atBorder) : 1);
  const first = greatest(marks, inner);
  if (!first || !inner(first)) throw new Error("The drawing has only specks and a border.");
  for (const mark of marks) {
    const contains =
      mark.top <= first.top && mark.left <= first.left &&
      mark.bottom >= first.bottom && mark.right >= first.right;
    if (contains && mark.mass && isFrame(mark, marks, labels, width, height)) mark.mass = 0;
  }
  const main = greatest(marks, inner);
  const dots = findDots(marks, Math.max(width, height));
  const most = main.atBorder ? Math.max(0.5, main.atBorder) : 0;
  const isSizeable = (each) => each.atBorder <= most && each.mass > LEAST_INK * main.mass;
  const sizeable = marks.filter(
    (each) => each === main || (isSizeable(each) && !dots.includes(each)),
  );
  if (areTwo(sizeable)) throw new Error("Several digits are side by side: draw one.");
  const kept = new Set(growFrom(main, sizeable));
  if (kept.size > MAX_MARKS) throw new Error("Too many marks: draw one digit.");
  return Float32Array.from(labels, (label) => (label && kept.has(marks[label - 1]) ? 1 : 0));
}

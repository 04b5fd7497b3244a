// Convert a drawing to the 28 x 28 form of MNIST by the steps of nanograd/pictures/normalise.py for
// dark ink on white paper. Numbers are rounded to float32 where numpy does so.

const { SEARCH_SIDE, DETAIL_SIDE, PEN_MIN, PEN_MAX, KEPT, LEAST_CONTRAST, LONGEST_SIDE } = TUNING;

// The share of light that the ink absorbs.
function inkOf({ width, height, data }) {
  return { width, height, data: Float32Array.from(data, (value) => 1 - f(value / 255)) };
}

// The threshold that separates values in 0..1 into two classes with the least variance in each.
function otsu(values) {
  const counts = new Float64Array(256);
  for (const value of values) counts[Math.trunc(f(value * 255))] += 1;
  const total = values.length;
  const sum = counts.reduce((all, count, level) => all + count * level, 0);
  let below = 0, sumBelow = 0;
  const between = Array.from(counts, (count, level) => {
    below += count;
    sumBelow += count * level;
    const above = total - below;
    if (!below || !above) return 0;
    const apart = sumBelow / below - (sum - sumBelow) / above;
    return below * above * apart ** 2;
  });
  const most = Math.max(...between) * (1 - 1e-9);
  const best = [...between.keys()].filter((level) => between[level] >= most);
  return (best.reduce((all, level) => all + level, 0) / best.length + 0.5) / 255;
}

// The largest value in the square of side 2 x radius + 1 around each pixel, inside the image.
function runningMax({ width, height, data }, radius) {
  const pass = (values, step, length, lines, stride) => {
    const out = new Float32Array(values.length);
    for (let line = 0; line < lines; line++) {
      for (let place = 0; place < length; place++) {
        let best = -Infinity;
        const end = Math.min(length - 1, place + radius);
        for (let each = Math.max(0, place - radius); each <= end; each++) {
          best = Math.max(best, values[line * stride + each * step]);
        }
        out[line * stride + place * step] = best;
      }
    }
    return out;
  };
  const down = pass(data, width, height, width, 1);
  return { width, height, data: pass(down, 1, width, height, width) };
}

// The box of the pixels above a level; an empty box without such pixels.
function boundsOf({ width, data }, level) {
  const box = noBox();
  data.forEach((value, place) => {
    if (value > level) widen(box, place % width, Math.floor(place / width));
  });
  return box;
}

const scaled = (side, scale) => Math.max(1, round(side * scale));

// The ink of the chosen marks, cut out of the whole drawing, with a longest side of DETAIL_SIDE.
function cutOut(drawing, chosen) {
  const { width, height } = chosen;
  const { top, left, bottom, right } = boundsOf(chosen, 0);
  const box = [
    Math.max(0, left - 2), Math.max(0, top - 2),
    Math.min(width, right + 3), Math.min(height, bottom + 3),
  ];
  const sides = [box[2] - box[0], box[3] - box[1]];
  const size = sides.map((side) => Math.max(1, round((side * DETAIL_SIDE) / Math.max(...sides))));
  const scale = [drawing.width / width, drawing.height / height];
  const large = box.map((each, side) => each * scale[side % 2]);
  const ink = inkOf(resize(drawing, ...size, "bicubic", large));
  const mask = resize(runningMax(chosen, 1), ...size, "bilinear", box);
  return { ...ink, data: ink.data.map((value, each) => value * mask.data[each]) };
}

// The width of a stroke as if it were one bar: area = w l, outline = 2 (w + l).
function penWidth({ width, height, data }) {
  let outline = 0, area = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = data[y * width + x];
      area += here;
      if (x === width - 1 || y === height - 1) continue;
      outline += Math.hypot(f(data[(y + 1) * width + x] - here), f(data[y * width + x + 1] - here));
    }
  }
  const quarter = outline / 4;
  return quarter - Math.sqrt(Math.max(quarter ** 2 - area, 0));
}

function addMargin({ width, height, data }, margin) {
  const wide = width + 2 * margin;
  const out = new Float32Array(wide * (height + 2 * margin));
  for (let y = 0; y < height; y++) {
    out.set(data.subarray(y * width, (y + 1) * width), (y + margin) * wide + margin);
  }
  return { width: wide, height: height + 2 * margin, data: out };
}

// Adjust the pen to MNIST's width. Strokes are thinned only as far as none vanishes; thickening the
// result again shows whether one has vanished.
function adjustPen(detail) {
  const ink = addMargin(detail, 8);
  const scale = DETAIL_SIDE / LONGEST_SIDE;
  const pen = penWidth(ink) / scale;
  if (pen < PEN_MIN) return runningMax(ink, round(((PEN_MIN - pen) / 2) * scale));
  const negative = (image) => ({ ...image, data: image.data.map((value) => -value) });
  const covered = (image) => image.data.reduce((sum, value) => sum + (value > 0.5), 0);
  for (let radius = round(((pen - PEN_MAX) / 2) * scale); radius > 0; radius--) {
    const left = negative(runningMax(negative(ink), radius));
    if (covered(runningMax(left, radius)) > KEPT * covered(ink)) return left;
  }
  return ink;
}

// Crop to the ink, scale its longest side to LONGEST_SIDE, and stretch grey levels to 255.
function shrink(ink) {
  const box = boundsOf(ink, 0.5);
  if (box.right < 0) throw new Error("The strokes are too pale.");
  const width = wideness(box), height = tallness(box);
  const crop = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = (box.top + y) * ink.width + box.left;
    crop.set(ink.data.subarray(row, row + width), y * width);
  }
  const scale = LONGEST_SIDE / Math.max(width, height);
  const small = resize(
    { width, height, data: crop }, scaled(width, scale), scaled(height, scale), "box",
  );
  const factor = f(255 / small.data.reduce((a, b) => Math.max(a, b)));
  return { ...small, data: Uint8Array.from(small.data, (value) => round(f(value * factor))) };
}

// Place an image of at most 20 x 20 in 28 x 28. Both coordinates of its centre of mass are then in
// [13.5, 14.5).
function centre({ width, height, data }) {
  let total = 0, sumX = 0, sumY = 0;
  data.forEach((value, place) => {
    total += value;
    sumX += value * (place % width);
    sumY += value * Math.floor(place / width);
  });
  const begin = (sum, side) =>
    Math.min(Math.max(Math.ceil(13.5 - sum / total), 0), 28 - side);
  const left = begin(sumX, width), top = begin(sumY, height);
  const image = new Uint8Array(784);
  for (let y = 0; y < height; y++) {
    image.set(data.subarray(y * width, (y + 1) * width), (top + y) * 28 + left);
  }
  return image;
}

// Convert a drawing {width, height, data: bytes, 0 black} to 784 bytes, ink 255 on 0. An Error has
// a message for users.
function normalise(drawing) {
  const scale = Math.min(1, SEARCH_SIDE / Math.max(drawing.width, drawing.height));
  const size = [scaled(drawing.width, scale), scaled(drawing.height, scale)];
  const ink = inkOf(resize(drawing, ...size, "box"));
  if (!ink.data.some((value) => value > LEAST_CONTRAST)) throw new Error("Nothing is drawn yet.");
  const level = otsu(ink.data);
  const chosen = { ...ink, data: chooseMarks(ink, level) };
  const cut = cutOut(drawing, chosen);
  const clear = (value) => Math.min(1, Math.max(0, f(f(value / f(level)) - 0.5)));
  const detail = { ...cut, data: cut.data.map(clear) };
  return centre(shrink(adjustPen(detail)));
}

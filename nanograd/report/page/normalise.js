// A drawing to the 28 x 28 form of MNIST: the steps of nanograd/pictures/normalise.py for dark ink on
// white paper. Numbers are rounded where numpy rounds to float32.

const SEARCH_SIDE = 160;
const DETAIL_SIDE = 80;
const PEN_MIN = 2.0, PEN_MAX = 2.85, KEPT = 0.985;
const f = Math.fround;

// The share of light that the ink absorbs.
function inkOf({ width, height, data }) {
  return { width, height, data: Float32Array.from(data, (value) => 1 - f(value / 255)) };
}

// The threshold that separates two classes of values in 0..1 with the least variance within.
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

// The largest value in the square of side 2 x radius + 1 around each, ignoring the outside.
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

// The ink of the chosen marks from the whole drawing, its longest side DETAIL_SIDE.
function cutOut(drawing, chosen) {
  const { width, height } = chosen;
  const place = [...chosen.data.keys()].filter((each) => chosen.data[each]);
  const columns = place.map((each) => each % width);
  const rows = place.map((each) => Math.floor(each / width));
  const least = (values) => values.reduce((a, b) => Math.min(a, b));
  const most = (values) => values.reduce((a, b) => Math.max(a, b));
  const box = [
    Math.max(0, least(columns) - 2), Math.max(0, least(rows) - 2),
    Math.min(width, most(columns) + 3), Math.min(height, most(rows) + 3),
  ];
  const sides = [box[2] - box[0], box[3] - box[1]];
  const longest = Math.max(...sides);
  const [across, down] = sides.map((side) => Math.max(1, round((side * DETAIL_SIDE) / longest)));
  const scale = [drawing.width / width, drawing.height / height];
  const large = box.map((each, side) => each * scale[side % 2]);
  const ink = inkOf(resize(drawing, across, down, "bicubic", large));
  const mask = resize(runningMax(chosen, 1), across, down, "bilinear", box);
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

// Bring the pen to the width of MNIST's.
function adjustPen(detail) {
  const ink = addMargin(detail, 8);
  const scale = DETAIL_SIDE / 20;
  const pen = penWidth(ink) / scale;
  const negative = (image) => ({ ...image, data: image.data.map((value) => -value) });
  if (pen < PEN_MIN) return runningMax(ink, round(((PEN_MIN - pen) / 2) * scale));
  if (pen <= PEN_MAX) return ink;
  const covered = (image) => image.data.reduce((sum, value) => sum + (value > 0.5), 0);
  // As far as no stroke vanishes, which thickening again what is left would show.
  for (let radius = round(((pen - PEN_MAX) / 2) * scale); radius > 0; radius--) {
    const left = negative(runningMax(negative(ink), radius));
    if (covered(runningMax(left, radius)) > KEPT * covered(ink)) return left;
  }
  return ink;
}

// Crop to the ink and scale its longest side to 20, grey levels stretched to 255.
function shrink({ width, height, data }) {
  let left = width, top = height, right = -1, bottom = -1;
  data.forEach((value, place) => {
    if (value <= 0.5) return;
    const x = place % width, y = Math.floor(place / width);
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  });
  if (right < 0) throw new Error("The strokes are too pale.");
  const sides = [right - left + 1, bottom - top + 1];
  const scale = 20 / Math.max(...sides);
  const [across, down] = sides.map((side) => Math.max(1, round(side * scale)));
  const crop = new Float32Array(sides[0] * sides[1]);
  for (let y = 0; y < sides[1]; y++) {
    const row = (top + y) * width + left;
    crop.set(data.subarray(row, row + sides[0]), y * sides[0]);
  }
  const small = resize({ width: sides[0], height: sides[1], data: crop }, across, down, "box");
  const factor = f(255 / small.data.reduce((a, b) => Math.max(a, b)));
  return { ...small, data: Uint8Array.from(small.data, (value) => round(f(value * factor))) };
}

// Place at most 20 x 20 in 28 x 28, the centre of mass in [13.5, 14.5) each way.
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

// Convert a drawing {width, height, data: bytes, 0 black} to 784 bytes, ink 255 on 0. Throws an Error
// with a message for people.
function normalise(drawing) {
  const scale = Math.min(1, SEARCH_SIDE / Math.max(drawing.width, drawing.height));
  const side = (length) => Math.max(1, round(length * scale));
  const ink = inkOf(resize(drawing, side(drawing.width), side(drawing.height), "box"));
  if (!ink.data.some((value) => value > 0.06)) throw new Error("Nothing is drawn yet.");
  const level = otsu(ink.data);
  const chosen = { ...ink, data: chooseMarks(ink, level) };
  const cut = cutOut(drawing, chosen);
  const clear = (value) => Math.min(1, Math.max(0, f(f(value / f(level)) - 0.5)));
  const detail = { ...cut, data: cut.data.map(clear) };
  return centre(shrink(adjustPen(detail)));
}

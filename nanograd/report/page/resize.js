// Pillow's resize, with the same bits: a pixel of the result is a weighted mean of source pixels.
// An image is {width, height, data}, row by row; a box is [left, top, right, bottom].
// Reference: Pillow, src/libImaging/Resample.c.

const f = Math.fround;
const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: (x) => bicubic(Math.abs(x)) },
};
const BITS = 22; // bits in the fraction of a weight, for images of bytes

function bicubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// For each pixel of the result: its first source pixel, and the weights of the source pixels.
function computeTaps(inside, low, high, outside, filter) {
  const scale = f(f(high) - f(low)) / outside;
  const wide = Math.max(scale, 1);
  const support = filter.support * wide;
  return Array.from({ length: outside }, (_, place) => {
    const centre = f(low) + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(inside, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(filter.weight((x - centre + 0.5) * (1 / wide)));
    let total = 0;
    for (const each of weights) total += each;
    return { first, weights: weights.map((each) => (total ? each / total : each)) };
  });
}

// Arithmetic for images of floats, and for images of bytes, whose weights are in fixed point.
const OF_FLOATS = {
  make: (length) => new Float32Array(length),
  weight: (weight) => weight,
  sum: (total) => total,
};
const OF_BYTES = {
  make: (length) => new Uint8ClampedArray(length),
  weight: (weight) => Math.trunc(weight * 2 ** BITS + (weight < 0 ? -0.5 : 0.5)),
  sum: (total) => Math.floor((total + 2 ** (BITS - 1)) / 2 ** BITS),
};

function resizeRows(image, size, low, high, filter, kind) {
  const { width, height, data } = image;
  const out = kind.make(size * height);
  computeTaps(width, low, high, size, filter).forEach(({ first, weights }, x) => {
    const fixed = weights.map(kind.weight);
    for (let y = 0; y < height; y++) {
      let total = 0;
      for (let tap = 0; tap < fixed.length; tap++) total += data[y * width + first + tap] * fixed[tap];
      out[y * size + x] = kind.sum(total);
    }
  });
  return { width: size, height, data: out };
}

function transpose({ width, height, data }, kind) {
  const out = kind.make(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) out[x * height + y] = data[y * width + x];
  }
  return { width: height, height: width, data: out };
}

function resize(image, width, height, name, box = [0, 0, image.width, image.height]) {
  const [left, top, right, bottom] = box;
  const filter = FILTERS[name];
  const kind = image.data instanceof Float32Array ? OF_FLOATS : OF_BYTES;
  const passes = [];
  if (width !== image.width || left !== 0 || right !== image.width) {
    passes.push((each) => resizeRows(each, width, left, right, filter, kind));
  }
  if (height !== image.height || top !== 0 || bottom !== image.height) {
    const down = (each) =>
      transpose(resizeRows(transpose(each, kind), height, top, bottom, filter, kind), kind);
    // As Pillow 13 does, resize the height first if it shrinks by much more than the width.
    const shrunk = image.height - height;
    if (shrunk > 0 && shrunk > 2 * (image.width - width)) passes.unshift(down);
    else passes.push(down);
  }
  return passes.reduce((result, pass) => pass(result), image);
}

// Python's round, which rounds halves to the even number.
function round(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

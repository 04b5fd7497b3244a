// The net: it converts 28 x 28 bytes to ten probabilities, like nanograd/digits/preparation.py,
// nanograd/digits/deskew.py and nanograd/nn/mlp.py.

const { MAX_SLANT, MAX_STRETCH } = TUNING;

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Read JSON in which nanograd/report/training_report.py has packed arrays.
const unpack = (text) =>
  JSON.parse(text, (_, value) =>
    value && value.type ? new globalThis[value.type](fromBase64(value.data).buffer) : value,
  );

const sum = (values) => values.reduce((total, each) => total + each, 0);

function applyLayer({ numbers, steps, biases }, values) {
  return Array.from(biases, (bias, output) => {
    const start = output * values.length;
    let total = 0;
    for (let place = 0; place < values.length; place++) total += values[place] * numbers[start + place];
    return steps[output] * total + bias;
  });
}

function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const total = sum(powers);
  return powers.map((each) => each / total);
}

const logistic = (value) => 1 / (1 + Math.exp(-value));
const ACTIVATIONS = { sigmoid: logistic, tanh: Math.tanh, relu: (value) => Math.max(0, value) };

function scoresOf(net, pixels) {
  const [factor, offset] = net.affine, { activation, loss } = net.architecture;
  const inputs = Float32Array.from(pixels, (value) => f(value * f(factor)) + f(offset));
  const hidden = applyLayer(net.layers[0], inputs).map((value) => ACTIVATIONS[activation](value));
  const outputs = applyLayer(net.layers[1], hidden);
  return loss === "mse" ? outputs.map((value) => logistic(value)) : softmax(outputs);
}

// Ten probabilities and the unfamiliarity of the image, as in nanograd/models/model.py.
function assess({ nets, reference }, image) {
  const pixels = nets.map(({ preparation: { name, width, height } }) =>
    name === "deskewed" ? deskew(image, width, height) : image,
  );
  const all = nets.map((net, place) => scoresOf(net, pixels[place]));
  const scores = Array.from(all[0], (_, digit) => sum(all.map((each) => each[digit])) / all.length);
  const best = scores.indexOf(Math.max(...scores));
  const powers = scores.map((score) => Math.max(score, TUNING.LEAST_SCORE) ** (1 / reference.temperature));
  const total = sum(powers);
  return {
    probabilities: powers.map((each) => each / total),
    unfamiliarity: unfamiliarity(reference, pixels[0], best),
  };
}

// As nanograd/models/reference.py.
function unfamiliarity({ means, directions, scales, weights }, pixels, digit) {
  const brightest = Math.max(1, ...pixels);
  const z = Array.from(pixels, (ink, place) => (ink * 255) / brightest - means[784 * digit + place]);
  const inner = z.filter((_, place) => {
    const row = Math.floor(place / 28), column = place % 28;
    return row > 1 && row < 26 && column > 1 && column < 26;
  });
  const count = weights.length / 10;
  const along = Array.from(weights.subarray(count * digit, count * (digit + 1)), (weight, number) => {
    const start = (count * digit + number) * inner.length;
    return weight * sum(inner.map((value, place) => value * directions[start + place])) ** 2;
  });
  const distance = scales[digit] * sum(z.map((value) => value * value)) + sum(along);
  const fourth = Math.max(distance, TUNING.FAINT / brightest) ** 4;
  return fourth / (1 + fourth);
}

// A digit deskewed and centred.
function deskew(image, width, height) {
  let mass = 0, x1 = 0, y1 = 0, xx = 0, xy = 0, yy = 0;
  image.forEach((ink, place) => {
    const x = place % 28, y = Math.floor(place / 28);
    mass += ink;
    x1 += ink * x;
    y1 += ink * y;
    xx += ink * x * x;
    xy += ink * x * y;
    yy += ink * y * y;
  });
  mass = Math.max(mass, 1);
  const meanX = x1 / mass, meanY = y1 / mass;
  const covariance = xy - x1 * meanY;
  const clip = (value, low, high) => Math.min(high, Math.max(low, value));
  const spread = yy - y1 * meanY;
  const slant = clip(covariance / Math.max(spread, 1), -MAX_SLANT, MAX_SLANT);
  const scale = (squares, to) =>
    to ? clip(Math.sqrt(Math.max(squares, 0) / mass) / to, 1 / MAX_STRETCH, MAX_STRETCH) : 1;
  const wider = scale(xx - x1 * meanX - slant * covariance, width);
  const higher = scale(spread, height);
  return Uint8Array.from(image, (_, place) => {
    const down = (Math.floor(place / 28) - 14) * higher, beside = ((place % 28) - 14) * wider;
    return round(interpolate(image, f(meanX + beside + slant * down), f(meanY + down)));
  });
}

// The interpolated value of an image at a point, 0 outside. Every operation rounds to float32.
function interpolate(image, x, y) {
  const inside = (value) => f(Math.min(28, Math.max(-1, value)) + 1);
  const left = Math.floor(inside(x)), top = Math.floor(inside(y));
  const shareX = f(inside(x) - left), shareY = f(inside(y) - top);
  const pixel = (row, column) =>
    row < 1 || column < 1 || row > 28 || column > 28 ? 0 : image[(row - 1) * 28 + column - 1];
  const mix = (here, there, share) => f(f(f(there - here) * share) + here);
  return mix(
    mix(pixel(top, left), pixel(top, left + 1), shareX),
    mix(pixel(top + 1, left), pixel(top + 1, left + 1), shareX),
    shareY,
  );
}

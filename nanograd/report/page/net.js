// The net: 28 x 28 bytes to ten scores, as nanograd/digits/preparation.py, nanograd/digits/deskew.py
// and nanograd/nn/mlp.py compute them.

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// 16-bit weights with a factor for each unit, 32-bit biases: see nanograd/report/drawing.py.
function unpack(net) {
  const bytes = fromBase64(net.data);
  let start = 0;
  const take = (kind, length) => {
    const part = bytes.slice(start, start + length * kind.BYTES_PER_ELEMENT);
    start += part.length;
    return new kind(part.buffer);
  };
  const layer = (inputs, outputs) => ({
    inputs, outputs,
    factors: take(Float32Array, outputs),
    biases: take(Float32Array, outputs),
    weights: take(Int16Array, inputs * outputs),
  });
  return { ...net, data: null, layers: [layer(784, net.hidden), layer(net.hidden, 10)] };
}

function applyLayer({ inputs, outputs, factors, biases, weights }, values) {
  const sums = new Float64Array(outputs);
  for (let input = 0; input < inputs; input++) {
    const value = values[input];
    if (!value) continue;
    const row = input * outputs;
    for (let output = 0; output < outputs; output++) sums[output] += value * weights[row + output];
  }
  return sums.map((sum, output) => sum * factors[output] + biases[output]);
}

function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const total = powers.reduce((all, each) => all + each, 0);
  return powers.map((each) => each / total);
}

const logistic = (value) => 1 / (1 + Math.exp(-value));
const ACTIVATIONS = { sigmoid: logistic, tanh: Math.tanh, relu: (value) => Math.max(0, value) };

function scoresOf(net, image) {
  const prepared = net.deskewed ? deskew(image, net.width, net.height) : image;
  const inputs = Float32Array.from(prepared, (value) => f(value * f(net.factor)) + f(net.offset));
  const hidden = applyLayer(net.layers[0], inputs).map(ACTIVATIONS[net.activation]);
  const outputs = applyLayer(net.layers[1], hidden);
  return net.loss === "mse" ? outputs.map(logistic) : softmax(outputs);
}

// The mean of the scores of all nets.
function scores(nets, image) {
  const all = nets.map((net) => scoresOf(net, image));
  return Array.from(all[0], (_, digit) => all.reduce((sum, each) => sum + each[digit], 0) / all.length);
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
  const slant = clip(covariance / Math.max(spread, 1), -1, 1);
  const scale = (squares, to) =>
    to ? clip(Math.sqrt(Math.max(squares, 0) / mass) / to, 1 / 1.2, 1.2) : 1;
  const wider = scale(xx - x1 * meanX - slant * covariance, width);
  const higher = scale(spread, height);
  return Uint8Array.from(image, (_, place) => {
    const down = (Math.floor(place / 28) - 14) * higher, beside = ((place % 28) - 14) * wider;
    return round(interpolate(image, f(meanX + beside + slant * down), f(meanY + down)));
  });
}

// The value of an image between its pixels; 0 outside. Rounded to float32 after each operation.
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

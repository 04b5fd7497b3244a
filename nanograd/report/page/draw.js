// The pad: draws strokes, shows the net's input and probabilities, saves labelled drawings.

const byId = (id) => document.getElementById(id);
const PEN = 18; // width in pixels, on a pad of 240 pixels

const pad = byId("pad"), input = byId("input"), status = byId("status"), verdict = byId("verdict");
const percent = (share) => `${(100 * share).toFixed(2)}\u00a0%`;
const ink = pad.getContext("2d", { willReadFrequently: true });
const rows = [...document.querySelectorAll(".probabilities li")];
const model = unpack(byId("model").textContent);
const kept = [];
let strokes = [], drawing = null, scheduled = false;

function paintPad() {
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, pad.width, pad.height);
  Object.assign(ink, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
  for (const points of strokes) {
    ink.beginPath();
    const [[x, y]] = points;
    ink.moveTo(x - 0.01, y); // browsers need not draw a line of length 0
    for (const point of points) ink.lineTo(...point);
    ink.stroke();
  }
}

function padPixels() {
  const { width, height, data } = ink.getImageData(0, 0, pad.width, pad.height);
  return { width, height, data: data.filter((_, place) => place % 4 === 0) };
}

function showInput(image) {
  const surface = input.getContext("2d");
  const picture = surface.createImageData(28, 28);
  picture.data.forEach((_, place, data) => {
    data[place] = place % 4 === 3 ? 255 : 255 - (image ? image[place >> 2] : 0);
  });
  surface.putImageData(picture, 0, 0);
}

function showProbabilities(values) {
  const best = values ? values.indexOf(Math.max(...values)) : -1;
  rows.forEach((row, digit) => {
    const share = values ? values[digit] : 0;
    row.classList.toggle("best", digit === best);
    row.querySelector(".bar span").style.width = `${100 * share}%`;
    row.querySelector(".number").textContent = values ? percent(share) : "-";
  });
  return best;
}

// Normalise and classify the drawing. A dot or blot is no digit, whatever the net says.
function classify() {
  const image = normalise(padPixels());
  const ink = { width: 28, height: 28, data: Float32Array.from(image, (value) => value / 255) };
  const isBlot = penWidth(ink) > TUNING.BLOT * LONGEST_SIDE;
  return { image, isBlot, ...assess(model, image) };
}

function update() {
  scheduled = false;
  paintPad();
  let result = null;
  try {
    if (strokes.length) result = classify();
    status.textContent = result ? "" : "Draw a digit on the white square.";
  } catch (error) {
    status.textContent = error.message;
  }
  showInput(result?.image);
  const best = showProbabilities(result?.probabilities);
  const strange = result?.isBlot || result?.unfamiliarity > TUNING.UNFAMILIAR;
  verdict.textContent = strange ? "?" : result ? best : "\u2013";
  if (result && !drawing) {
    const found = `${best} with ${percent(result.probabilities[best])}`;
    status.textContent = strange
      ? `No digit? It is unlike the training digits. The nearest is ${found}.`
      : `The net predicts ${found}.`;
  }
  for (const each of document.querySelectorAll("[data-needs=drawing]")) each.disabled = !result;
}

function scheduleUpdate() {
  if (!scheduled) requestAnimationFrame(update);
  scheduled = true;
}

// The position of a pointer in pixels of the pad. Python may take a stroke along the border of a
// picture for its surroundings, so strokes keep a distance.
function position(event) {
  const box = pad.getBoundingClientRect();
  const inside = (share, side) => Math.min(Math.max(share * side, PEN), side - PEN);
  return [
    inside((event.clientX - box.left - pad.clientLeft) / pad.clientWidth, pad.width),
    inside((event.clientY - box.top - pad.clientTop) / pad.clientHeight, pad.height),
  ];
}

pad.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button) return;
  pad.setPointerCapture(event.pointerId);
  drawing = [position(event)];
  strokes.push(drawing);
  scheduleUpdate();
});
pad.addEventListener("pointermove", (event) => {
  if (!drawing || !event.isPrimary) return;
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  drawing.push(...(events.length ? events : [event]).map(position));
  scheduleUpdate();
});
for (const name of ["pointerup", "pointercancel"]) {
  pad.addEventListener(name, (event) => {
    if (event.isPrimary) drawing = null;
    scheduleUpdate();
  });
}

function clear() {
  strokes = [];
  scheduleUpdate();
}

function keep(label) {
  // toBlob would be slow: on a busy machine, Chromium called back after more than 5 s.
  kept.push({ label, bytes: fromBase64(pad.toDataURL("image/png").split(",")[1]) });
  clear();
  byId("save").disabled = false;
  byId("save").textContent = `Save ${kept.length} drawing${kept.length > 1 ? "s" : ""}`;
}

function save() {
  const files = kept.map(({ label, bytes }, number) => ({
    name: `${label}/drawing-${String(number + 1).padStart(4, "0")}.png`,
    bytes,
  }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([zip(files)], { type: "application/zip" }));
  link.download = "drawings.zip";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

byId("undo").addEventListener("click", () => {
  strokes.pop();
  scheduleUpdate();
});
byId("clear").addEventListener("click", clear);
byId("save").addEventListener("click", save);
for (const each of document.querySelectorAll("[data-label]")) {
  each.addEventListener("click", () => keep(each.dataset.label));
}
// For tests, and for the console of the browser.
window.nanograd = { classify, padPixels };
update();

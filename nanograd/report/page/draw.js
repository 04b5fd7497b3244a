// The pad: strokes in, what the net sees and its scores out, drawings with labels into one file.

const byId = (id) => document.getElementById(id);
const PEN = 18; // of the 240 pixels of the pad

const pad = byId("pad"), seen = byId("seen"), said = byId("said");
const ink = pad.getContext("2d", { willReadFrequently: true });
const rows = [...document.querySelectorAll(".scores li")];
const nets = JSON.parse(byId("nets").textContent).map(unpack);
const kept = [];
let strokes = [], drawing = null, waiting = false;

function paint() {
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, pad.width, pad.height);
  Object.assign(ink, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
  for (const points of strokes) {
    ink.beginPath();
    ink.moveTo(...points[0]);
    for (const point of points) ink.lineTo(...point);
    ink.stroke();
  }
}

function pixels() {
  const { width, height, data } = ink.getImageData(0, 0, pad.width, pad.height);
  return { width, height, data: data.filter((_, place) => place % 4 === 0) };
}

function showSeen(image) {
  const surface = seen.getContext("2d");
  const picture = surface.createImageData(28, 28);
  picture.data.forEach((_, place, data) => {
    data[place] = place % 4 === 3 ? 255 : 255 - (image ? image[place >> 2] : 0);
  });
  surface.putImageData(picture, 0, 0);
}

function showScores(values) {
  const best = values ? values.indexOf(Math.max(...values)) : -1;
  rows.forEach((row, digit) => {
    const score = values ? values[digit] : 0;
    row.classList.toggle("best", digit === best);
    row.querySelector(".bar span").style.width = `${100 * score}%`;
    row.querySelector(".score").textContent = values ? `${(100 * score).toFixed(2)} %` : "-";
  });
  return best;
}

// What the page makes of the drawing; also for tests and the curious, at the console.
function read() {
  const image = normalise(pixels());
  return { image, scores: scores(nets, image) };
}

function look() {
  waiting = false;
  paint();
  let found = null;
  try {
    found = strokes.length ? read() : null;
    said.textContent = found ? "" : "Draw a digit on the white square.";
  } catch (error) {
    said.textContent = error.message;
  }
  showSeen(found && found.image);
  const best = showScores(found && found.scores);
  if (found && !drawing) said.textContent = `The net reads ${best}.`;
  for (const each of document.querySelectorAll("[data-needs=drawing]")) each.disabled = !found;
}

function soon() {
  if (!waiting) requestAnimationFrame(look);
  waiting = true;
}

function place(event) {
  const box = pad.getBoundingClientRect();
  const at = (value, low, side, length) => ((value - low) / side) * length;
  return [
    at(event.clientX, box.left + pad.clientLeft, pad.clientWidth, pad.width),
    at(event.clientY, box.top + pad.clientTop, pad.clientHeight, pad.height),
  ];
}

pad.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button) return;
  pad.setPointerCapture(event.pointerId);
  drawing = [place(event)];
  strokes.push(drawing);
  soon();
});
pad.addEventListener("pointermove", (event) => {
  if (!drawing || !event.isPrimary) return;
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  drawing.push(...(events.length ? events : [event]).map(place));
  soon();
});
for (const name of ["pointerup", "pointercancel"]) {
  pad.addEventListener(name, (event) => {
    if (event.isPrimary) drawing = null;
    soon();
  });
}

function clear() {
  strokes = [];
  soon();
}

function keep(label) {
  pad.toBlob(async (blob) => {
    kept.push({ label, bytes: new Uint8Array(await blob.arrayBuffer()) });
    clear();
    byId("save").disabled = false;
    byId("save").textContent = `Save ${kept.length} drawing${kept.length > 1 ? "s" : ""}`;
  }, "image/png");
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
  soon();
});
byId("clear").addEventListener("click", clear);
byId("save").addEventListener("click", save);
for (const each of document.querySelectorAll("[data-label]")) {
  each.addEventListener("click", () => keep(each.dataset.label));
}
window.nanograd = { read, normalise, pixels, scores: (image) => scores(nets, image) };
look();

// The page of `nanograd review`: shows a row and sends decisions. The server has the state.

const byId = (id) => document.getElementById(id);
const digits = [...document.querySelectorAll("#digits button")];
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let state = JSON.parse(byId("state").textContent);
let busy = false;
// The address may have a token that is valid only once.
history.replaceState(null, "", `?token=${state.token}`);

function say(text, failed = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("failed", failed);
}

function show() {
  const { row, rows, decided, last, prediction, label, probabilities } = state;
  Object.assign(byId("progress"), { max: rows, value: decided });
  byId("count").textContent = `${decided} of ${rows}`;
  byId("work").hidden = row === null;
  byId("done").hidden = row !== null;
  for (const id of ["confirm", "none"]) byId(id).disabled = row === null;
  byId("undo").disabled = last === null;
  byId("place").textContent = state.place ?? "";
  if (row === null) return;
  byId("picture").src = `data:image/png;base64,${state.image}`;
  const remarks = [
    state.is_unfamiliar ? "unlike the training digits" : "",
    label === null ? "" : `labelled ${label} in the input`,
  ];
  const predicted = `Predicted ${prediction} (${percent(state.confidence)})`;
  byId("about").textContent = [predicted, ...remarks.filter(Boolean)].join("; ");
  digits.forEach((button, digit) => {
    const share = probabilities?.[digit];
    button.classList.toggle("best", digit === prediction);
    button.querySelector(".number").textContent = share === undefined ? "" : percent(share);
    button.querySelector(".bar").hidden = share === undefined;
    button.querySelector(".bar span").style.width = `${100 * (share ?? 0)}%`;
  });
}

// Send a decision or an undo, and show the row that the server answers with.
async function send(body, saved) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    const response = await fetch(location, { method: "POST", body: JSON.stringify(body) });
    if (!response.ok && response.status !== 409) {
      say(`Not saved: ${await response.text()}`, true);
      return;
    }
    state = await response.json();
    show();
    const other = "Another window was faster; this row was decided or undone there.";
    say(response.ok ? saved : other, !response.ok);
    // The next key is for the next row, and not for the button that was used.
    byId(state.row === null ? "done" : "row").focus({ preventScroll: true });
  } catch {
    say("Not saved: nanograd review has ended. Start it again, and open its new address.", true);
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

function decide(label) {
  if (state.row === null) return;
  const saved = label === null ? "Saved: no digit" : `Saved: ${label}`;
  send({ row: state.row, label }, saved);
}

function undo() {
  if (state.last !== null) send({ row: state.last }, "The last decision is undone.");
}

const actions = {
  " ": () => decide(state.prediction), n: () => decide(null), u: undo, Backspace: undo,
  "?": () => byId("help").toggleAttribute("open"),
};
for (let digit = 0; digit < 10; digit++) actions[digit] = () => decide(digit);

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  // The second click of a double click is not meant for the next row.
  if (button && event.detail < 2) actions[button.dataset.key]();
});
document.addEventListener("keydown", (event) => {
  const onButton = event.target.closest("button, summary") && [" ", "Enter"].includes(event.key);
  if (onButton || event.ctrlKey || event.metaKey || event.altKey) return;
  // The upper row of some keyboards has digits with Shift only, and a keypad with NumLock only.
  const physical = event.shiftKey ? null : /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  const action = actions[event.key] ?? actions[event.key.toLowerCase()] ?? actions[physical?.[1]];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
});
show();

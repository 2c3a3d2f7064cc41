// The page: its characters, the query, and what happens after every change.

import { showBars } from "./bars.js";
import { asPicture, isEmpty, makeCell, setDrawing, setFile, setStrokes, showPixels } from "./drawing.js";
import { draw, NAMES } from "./example.js";
import { post } from "./server.js";

const FIRST = 3; // number of characters at the start
const get = (id) => document.getElementById(id);
const cards = []; // the characters: {element, name, cells}
const query = makeCell({ changed, files: ask, cleared: (cell) => replace(cell, []), refused: say });
let bounds; // what GET /networks says
let examples = 0; // how often the example was shown
let pending = false, busy = false; // whether something changed, and whether the server is asked

const network = () => bounds.networks[get("network").value];
const allCells = () => [...cards.flatMap((card) => card.cells), query];
const nameOf = (card) => card.name.value.trim() || card.name.placeholder;

// Characters

function addCard() {
  const element = get("card").content.firstElementChild.cloneNode(true);
  const card = { element, name: element.querySelector(".name"), cells: [] };
  const taken = cards.map((other) => other.name.placeholder);
  card.name.placeholder = [..."ABCDEFGHIJ"].find((letter) => !taken.includes(letter));
  card.name.addEventListener("input", changed);
  element.querySelector(".remove").addEventListener("click", () => {
    cards.splice(cards.indexOf(card), 1);
    element.remove();
    get("add-class").focus();
    changed();
  });
  element.querySelector(".more").addEventListener("click", () => addCell(card).canvas.focus());
  element.addEventListener("drop", (event) => {
    const at = card.cells.find((cell) => cell.element.contains(event.target));
    place(card, at ?? card.cells.find(isEmpty), [...event.dataTransfer.files]);
  });
  cards.push(card);
  addCell(card);
  get("classes").append(element);
  return card;
}

function addCell(card) {
  const cell = makeCell({
    changed,
    files: (cell, files) => place(card, cell, files),
    cleared(cell) {
      if (cell === card.cells[0]) return replace(cell, []);
      card.cells.splice(card.cells.indexOf(cell), 1);
      cell.element.remove();
      card.cells.at(-1).canvas.focus();
      changed();
    },
    refused: say,
  });
  card.cells.push(cell);
  card.element.querySelector(".cells").append(cell.element);
  label();
  return cell;
}

/** Puts files into a cell, if any, and into the empty and new cells after it. */
function place(card, cell, files) {
  for (const file of files) {
    const full = card.cells.length >= bounds.drawings;
    const next = cell ?? card.cells.find(isEmpty) ?? (full ? null : addCell(card));
    if (!next) return say(`A character has at most ${bounds.drawings} drawings.`);
    ask(next, [file]);
    cell = null;
  }
}

function ask(cell, [file]) {
  if (!file) return;
  if (file.size > bounds.largest) {
    say(`“${file.name}” has ${(file.size / 2 ** 20).toFixed(0)} MiB; at most `
      + `${bounds.largest / 2 ** 20} are read.`);
    return;
  }
  setFile(cell, file);
  changed();
}

function replace(cell, strokes) {
  setStrokes(cell, strokes);
  changed();
}

function restart() {
  for (const card of cards.splice(0)) card.element.remove();
  setStrokes(query, []);
}

function reset() {
  restart();
  while (cards.length < FIRST) addCard();
  changed();
}

function showExample() {
  restart();
  for (const name of NAMES) {
    const card = addCard();
    card.name.value = name;
    setStrokes(card.cells[0], draw(name, 0));
  }
  setStrokes(query, draw(NAMES[(examples + 1) % NAMES.length], 2 + examples));
  examples += 1;
  changed();
}

// What the page says

function say(message) {
  get("message").firstElementChild.textContent = message;
  get("message").hidden = !message;
}

/** Names everything for those who do not see it, and shows the buttons that are of use. */
function label() {
  for (const card of cards) {
    const [more, remove] = [".more", ".remove"].map((kind) => card.element.querySelector(kind));
    const name = nameOf(card);
    card.name.ariaLabel = `Name of character ${card.name.placeholder}`;
    more.ariaLabel = more.title = `Another drawing of ${name}`;
    more.hidden = card.cells.length >= bounds.drawings;
    remove.ariaLabel = remove.title = `Remove ${name}`;
    remove.hidden = cards.length <= 2;
    card.cells.forEach((cell, i) => labelCell(cell, `drawing ${i + 1} of ${name}`, i > 0));
  }
  labelCell(query, "the new drawing", false);
  get("add-class").hidden = cards.length >= network().classes;
  document.body.dataset.channels = network().shape[2];
}

function labelCell({ canvas, clear, chooser, element }, name, removable) {
  const empty = element.dataset.empty === "true";
  const how = "Draw with a pointer. Enter chooses a picture file, Delete clears.";
  canvas.ariaLabel = `${name}${empty ? ", empty" : ""}. ${how}`;
  clear.ariaLabel = clear.title = `Clear ${name}`;
  clear.hidden = empty && !removable;
  chooser.ariaLabel = `Picture file for ${name}`;
  chooser.parentElement.title = "Choose a picture file";
  chooser.parentElement.hidden = !empty;
}

function showAnswer(names, steps, probabilities) {
  const last = probabilities.at(-1);
  const best = last.indexOf(Math.max(...last));
  get("answer").replaceChildren("It looks like ", strong(names[best]), `, ${(100 * last[best]).toFixed(0)} %.`);
  showBars(get("bars"), names, steps, probabilities);
  get("bars").hidden = false;
}

function showText(text) {
  get("answer").textContent = text;
  get("time").textContent = "";
  get("bars").hidden = true;
}

function strong(text) {
  const element = document.createElement("strong");
  element.textContent = text;
  return element;
}

// Answers

/** Reads what is new and asks for the probabilities; what changes meanwhile is asked for next. */
async function changed() {
  label();
  pending = true;
  if (busy) return;
  busy = true;
  while (pending) {
    pending = false;
    try {
      await update();
    } catch (error) {
      say(error.message);
      showText("No answer.");
    }
  }
  busy = false;
}

async function update() {
  const start = performance.now();
  const { number, shape, steps } = network(); // another may be chosen before the answer is here
  const unread = allCells().filter((cell) => cell.unread);
  await Promise.all(unread.map((cell) => read(cell, number, shape)));
  get("seen").hidden = !query.drawing;
  if (query.drawing) {
    showPixels(get("seen").firstElementChild, query.drawing, shape);
    get("seen").lastElementChild.textContent = `as the network sees it, ${shape[1]} × ${shape[0]} pixels`;
  }
  const used = cards.filter((card) => card.cells.some((cell) => cell.drawing));
  if (used.length < 2) return showText("Draw at least two characters.");
  if (!query.drawing) return showText("Draw one of them again, here.");
  const names = used.map(nameOf);
  const support = used.map((card) => card.cells.map((cell) => cell.drawing).filter(Boolean));
  const question = JSON.stringify({ support, query: query.drawing });
  const { probabilities } = await post(`classify/${number}`, question);
  showAnswer(names, steps, probabilities);
  get("time").textContent = `Answered in ${(performance.now() - start).toFixed(0)} ms.`;
}

async function read(cell, number, shape) {
  cell.unread = false;
  const { file } = cell;
  const name = encodeURIComponent(file ? file.name : "on this page");
  try {
    const { drawing } = await post(`read/${number}?name=${name}`, asPicture(cell));
    if (!cell.unread && !isEmpty(cell)) setDrawing(cell, drawing, shape);
  } catch (error) {
    say(error.message);
    if (error.offline) cell.unread = true; // for the next change
    else if (file && cell.file === file) replace(cell, []);
  }
}

// The start

bounds = await (await fetch("networks")).json();
bounds.networks.forEach((network, number) => {
  network.number = number;
  get("network").add(new Option(`${network.name}, up to ${network.classes} characters`, number));
});
get("network").addEventListener("change", () => {
  for (const cell of allCells()) cell.unread = !isEmpty(cell);
  changed();
});
get("add-class").addEventListener("click", () => addCard().name.focus());
get("example").addEventListener("click", showExample);
get("reset").addEventListener("click", reset);
get("message").lastElementChild.addEventListener("click", () => say(""));
document.addEventListener("pointerdown", () => say(""), true);
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => event.preventDefault());
}
get("query").append(query.element);
query.chooser.multiple = false;
query.element.addEventListener("drop", (event) => ask(query, [...event.dataTransfer.files]));
reset();

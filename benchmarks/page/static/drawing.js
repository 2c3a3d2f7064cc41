// A cell: a canvas to draw on with a mouse, a pen or a finger, which a picture file may fill instead.

const PEN = 9; // width of a stroke on a canvas of 315 pixels, three times the size of Omniglot's

/**
 * Makes a cell.
 * @param {object} on - `changed(cell)` after every change, `files(cell, files)` when picture files
 *   were chosen, `cleared(cell)` when its button was pressed, and `refused(message)`.
 * @returns {object} The cell. Its `strokes` are lists of points [x, y] from 0 to 1, `file` is the
 *   picture that fills it, `drawing` is what the server has read, and `unread` tells whether that
 *   is older than the picture or the strokes.
 */
export function makeCell(on) {
  const element = document.getElementById("cell").content.firstElementChild.cloneNode(true);
  const [canvas, clear, chooser] = ["canvas", ".clear", "input"].map((kind) => element.querySelector(kind));
  const cell = { element, canvas, clear, chooser, strokes: [], file: null, drawing: null, unread: false };
  let pointer = null; // the one that draws

  function point(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    if (cell.file) {
      on.refused("This one holds a picture from a file. Clear it to draw.");
      return;
    }
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    setStrokes(cell, [...cell.strokes, [point(event)]]);
    on.changed(cell);
  });
  canvas.addEventListener("pointermove", (event) => {
    const stroke = cell.strokes.at(-1); // none after a reset by another finger
    if (event.pointerId !== pointer || !stroke) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    stroke.push(...(passed.length ? passed : [event]).map(point));
    setStrokes(cell, cell.strokes);
    on.changed(cell);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.pointerId === pointer) pointer = null;
    });
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") clear.click();
    else if (event.key === "Enter" || event.key === " ") chooser.click();
    else return;
    event.preventDefault();
  });
  clear.addEventListener("click", () => {
    pointer = null;
    on.cleared(cell);
    if (element.isConnected) canvas.focus(); // the button is hidden now
  });
  chooser.addEventListener("change", () => {
    on.files(cell, [...chooser.files]);
    chooser.value = ""; // so that the same file can be chosen again
  });
  setStrokes(cell, []);
  return cell;
}

/** Tells whether nothing is drawn and no picture was chosen. */
export function isEmpty(cell) {
  return !cell.file && cell.strokes.length === 0;
}

/** Draws strokes, which replace what was in the cell. */
export function setStrokes(cell, strokes) {
  Object.assign(cell, { strokes, file: null, drawing: null, unread: strokes.length > 0 });
  const context = paper(cell);
  context.lineWidth = PEN;
  context.lineCap = context.lineJoin = "round";
  const scale = cell.canvas.width;
  for (const points of strokes) {
    const at = points.map(([x, y]) => [x * scale, y * scale]);
    context.beginPath();
    context.moveTo(...at[0]);
    for (let i = 1; i < at.length - 1; i++) { // curves through the middles of the segments
      context.quadraticCurveTo(...at[i], (at[i][0] + at[i + 1][0]) / 2, (at[i][1] + at[i + 1][1]) / 2);
    }
    context.lineTo(at.at(-1)[0] + 0.01, at.at(-1)[1]); // a line without a length would not be drawn
    context.stroke();
  }
}

/** Fills a cell with a picture file, which is shown when the server has read it. */
export function setFile(cell, file) {
  setStrokes(cell, []);
  Object.assign(cell, { file, unread: true });
  cell.element.dataset.empty = "false";
}

/** The content of a cell as a picture: its file, or the bytes of a PNG. */
export function asPicture(cell) {
  // Chromium's toBlob waits until the page is idle, for seconds on a busy machine.
  return cell.file ?? decode(cell.canvas.toDataURL("image/png").split(",")[1]);
}

/** Stores what the server has read, and shows it where it is a picture from a file. */
export function setDrawing(cell, drawing, shape) {
  cell.drawing = drawing;
  if (!cell.file) return;
  const small = document.createElement("canvas");
  showPixels(small, drawing, shape);
  const context = paper(cell);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, cell.canvas.width, cell.canvas.height);
}

/** Shows pixels in base64, [height, width, channel]: ink on paper, or colours. */
export function showPixels(canvas, drawing, [height, width, channels]) {
  const bytes = decode(drawing);
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = channels === 1 ? 255 - bytes[i] : bytes[channels * i + c];
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function decode(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function paper(cell) {
  const context = cell.canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, cell.canvas.width, cell.canvas.height);
  cell.element.dataset.empty = String(isEmpty(cell));
  return context;
}

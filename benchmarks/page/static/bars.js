// The table of probabilities: a row for each character, a column for each number of inner steps.

/**
 * Shows probabilities as bars.
 * @param {HTMLTableElement} table - The table, whose cells stay the same while its rows do.
 * @param {string[]} names - Names of the characters.
 * @param {number[]} steps - Numbers of inner steps.
 * @param {number[][]} probabilities - Probabilities, [step][character].
 */
export function showBars(table, names, steps, probabilities) {
  const shape = JSON.stringify([names, steps]);
  if (table.dataset.shape !== shape) {
    table.replaceChildren(...makeRows(names, steps));
    table.dataset.shape = shape;
  }
  const last = probabilities.at(-1);
  const best = last.indexOf(Math.max(...last));
  names.forEach((_, row) => {
    const line = table.tBodies[0].rows[row];
    line.classList.toggle("best", row === best);
    steps.forEach((_, column) => {
      const percent = 100 * probabilities[column][row];
      const bar = line.cells[column + 1].firstElementChild;
      bar.style.setProperty("--share", `${percent}%`);
      bar.textContent = percent.toFixed(0);
    });
  });
}

function makeRows(names, steps) {
  const several = steps.length > 1;
  const words = several ? "Probability in % after each inner step on your drawings" : "Probability in %";
  const caption = make("caption", {}, words);
  const heads = steps.map((step) => make("th", { scope: "col" }, several ? step : ""));
  const first = make("th", { scope: "col" }, several ? "steps" : "");
  const body = make("tbody", {}, ...names.map((name) => make(
    "tr", {}, make("th", { scope: "row" }, name), ...steps.map(() => make("td", {}, make("div"))),
  )));
  return [caption, make("thead", {}, make("tr", {}, first, ...heads)), body];
}

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

// Five characters of no alphabet, as strokes through points from 0 to 1, and drawings of them that
// differ a little in place, size, slant and shape.

const CHARACTERS = {
  hook: [[[0.3, 0.2], [0.62, 0.18], [0.68, 0.4], [0.45, 0.52], [0.5, 0.74], [0.78, 0.78]]],
  fork: [
    [[0.24, 0.2], [0.24, 0.44], [0.34, 0.56], [0.5, 0.58], [0.66, 0.56], [0.76, 0.44], [0.76, 0.2]],
    [[0.5, 0.18], [0.5, 0.5], [0.5, 0.86]],
  ],
  anchor: [
    [[0.2, 0.56], [0.28, 0.74], [0.5, 0.82], [0.72, 0.74], [0.8, 0.56]],
    [[0.5, 0.16], [0.5, 0.5], [0.5, 0.82]],
    [[0.34, 0.34], [0.66, 0.34]],
  ],
  ladder: [
    [[0.34, 0.16], [0.34, 0.5], [0.34, 0.84]],
    [[0.68, 0.16], [0.68, 0.5], [0.68, 0.84]],
    [[0.34, 0.36], [0.68, 0.36]],
    [[0.34, 0.62], [0.68, 0.62]],
  ],
  gate: [
    [[0.3, 0.84], [0.28, 0.5], [0.3, 0.22], [0.5, 0.18], [0.72, 0.22], [0.72, 0.5], [0.7, 0.84]],
    [[0.3, 0.48], [0.7, 0.48]],
  ],
};

/** The names of the characters. */
export const NAMES = Object.keys(CHARACTERS);

/** The strokes of one drawing of a character; another seed is another drawing. */
export function draw(name, seed) {
  let state = 1 + seed * NAMES.length + NAMES.indexOf(name);
  const random = () => { // from -1 to 1, by Park and Miller's generator
    state = (state * 48271) % 2147483647;
    return state / 1073741823.5 - 1;
  };
  for (let i = 0; i < 9; i++) random(); // the first numbers of small seeds are alike
  const [turn, grow, left, down] = [0.09 * random(), 1 + 0.1 * random(), 0.04 * random(), 0.04 * random()];
  const place = ([x, y]) => [
    0.5 + left + grow * (x - 0.5 - turn * (y - 0.5)) + 0.012 * random(),
    0.5 + down + grow * (y - 0.5 + turn * (x - 0.5)) + 0.012 * random(),
  ];
  return CHARACTERS[name].map((points) => points.map(place));
}

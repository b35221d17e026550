// The live picture of a sequence's cells. A chunk's field `scope` (made by scope_cpp/serve/picture.py):
//
//   { used, capacity, evicted,       cells
//     n_prompt, n_past,              positions read, and all
//     at: { n_past, evicted },       when what follows was seen: the counts above may be newer
//     bin, kept: [100, 50, ...],     for each `bin` positions: % of the rows of all heads still there
//     pools: { prompt, history, recent } }     rows of a head in each, the mean
//
// Without `kept` only the counts are new: the sequence is gone, its last picture stays.

const LEAST_ROWS = 4;
const GAP = 0.14;
const LEAST_SEEN = 0.12; // of a square, however few keep it
const narrow = matchMedia("(max-width: 860px)"); // where the picture is above the messages: flatter

const find = (id) => document.getElementById(id);
const whole = (number) => Math.round(number).toLocaleString("en");

export class CacheView {
  #shown = null; // the last that has `kept`
  #newest = null; // the last of all
  #curve = []; // [positions, cells] so far

  constructor() {
    narrow.addEventListener("change", () => this.#shown && this.#map(this.#shown));
  }

  clear() {
    this.begin();
    find("summary").textContent = "no answer yet";
    for (const id of ["n-prompt", "n-history", "n-recent", "n-evicted"]) find(id).textContent = "–";
    for (const span of find("gauge").children) span.style.width = "0";
    this.#reveal(false);
  }

  // The answer is written: what came after the last picture is known if nothing was evicted since.
  end() {
    if (!this.#shown || this.#newest.evicted !== this.#shown.at.evicted || this.#shown.bin > 1) return;
    const { kept, pools, at } = this.#shown;
    const n = this.#newest.n_past - at.n_past;
    this.show({
      ...this.#shown,
      ...this.#newest,
      at: this.#newest,
      kept: [...kept, ...Array(n).fill(100)],
      pools: { ...pools, recent: pools.recent + n },
    });
  }

  // A new answer; what is seen of the one before stays until its first picture.
  begin() {
    this.#shown = this.#newest = null;
    this.#curve = [];
  }

  show(told) {
    if (told.kept) this.#shown = told;
    if (!this.#shown || told.n_past === undefined) return;
    this.#newest = told;
    this.#reveal(true);
    this.#counts(told);
    this.#curveTo(told);
    if (!told.kept) return;
    this.#pools(told);
    this.#map(told);
  }

  #reveal(is) {
    for (const figure of document.querySelectorAll("#cache figure")) figure.hidden = !is;
    find("no-picture").hidden = is;
  }

  #counts({ used, capacity, evicted, n_past }) {
    find("summary").textContent = `${whole(used)} of ${whole(capacity)} cells, ${whole(n_past)} positions`;
    find("n-evicted").textContent = whole(evicted);
    find("n-used").textContent = whole(used);
    find("n-past").textContent = whole(n_past);
  }

  #pools({ used, capacity, pools }) {
    for (const [name, cells] of Object.entries(pools)) {
      find(`n-${name}`).textContent = whole(cells);
      find("gauge").querySelector(`.${name}`).style.width = `${(100 * cells) / capacity}%`;
    }
    find("gauge").setAttribute(
      "aria-label",
      `Cells in use: ${whole(used)} of ${whole(capacity)}; prompt ${whole(pools.prompt)}, ` +
        `history ${whole(pools.history)}, recent ${whole(pools.recent)}`,
    );
  }

  // A square for each bin in lines, filled from below by the share that is kept.
  #map({ kept, bin, n_prompt, at, pools }) {
    const firstRecent = at.n_past - pools.recent;
    const columns = narrow.matches ? 64 : 32;
    const drawn = { gone: "", prompt: "", history: "", recent: "" };
    const side = 1 - GAP;
    kept.forEach((share, i) => {
      const x = (i % columns) + GAP / 2;
      const bottom = Math.floor(i / columns) + 1 - GAP / 2;
      const filled = share > 0 ? side * Math.max(LEAST_SEEN, share / 100) : 0;
      const first = i * bin;
      const pool = first < n_prompt ? "prompt" : first < firstRecent ? "history" : "recent";
      if (share < 100) drawn.gone += square(x, bottom - filled, side, side - filled);
      if (share > 0) drawn[pool] += square(x, bottom, side, filled);
    });
    const map = find("map");
    const rows = Math.max(LEAST_ROWS, Math.ceil(kept.length / columns));
    map.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    for (const [name, d] of Object.entries(drawn)) map.querySelector(`.${name}`).setAttribute("d", d);
    map.setAttribute(
      "aria-label",
      `${whole(at.n_past)} positions, of which the first ${whole(n_prompt)} are the prompt; ` +
        `${kept.filter((share) => share === 0).length * bin} are given up in all layers and heads`,
    );
    find("scale").textContent = bin === 1 ? "one in each square" : `${bin} in each square`;
  }

  #curveTo({ used, n_past }) {
    this.#curve.push([n_past, used]);
    if (this.#curve.length > 600) this.#curve = this.#curve.filter((_, i) => i % 2 === 0);
    const at = (n, cells) => `${((100 * n) / n_past).toFixed(2)} ${(99 - (97 * cells) / n_past).toFixed(2)}`;
    const [start] = this.#curve[0];
    const chart = find("chart");
    chart.querySelector(".full").setAttribute("d", `M${at(start, start)}L${at(n_past, n_past)}`);
    chart.querySelector(".used").setAttribute("d", `M${this.#curve.map((point) => at(...point)).join("L")}`);
    chart.setAttribute(
      "aria-label",
      `After ${whole(n_past)} tokens ${whole(used)} cells are in use, in a full cache ${whole(n_past)}`,
    );
  }
}

function square(x, bottom, width, height) {
  return `M${x.toFixed(2)} ${bottom.toFixed(3)}h${width}v${(-height).toFixed(3)}h${-width}z`;
}

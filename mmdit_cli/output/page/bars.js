// Bars of parts. Hover or the arrow keys show a part.

class Bars {
  constructor(holder, plot) {
    this.holder = holder;
    this.plot = plot;
    this.names = [...new Set(plot.rows.flatMap(([, parts]) => parts.map((part) => part.name)))];
    this.full = Math.max(...plot.rows.map(([, parts]) => parts.reduce((sum, part) => sum + part.value, 0)), 1e-300);
    this.svg = element("svg", { tabindex: 0, role: "application", "aria-roledescription": "bars" }, holder);
    this.svg.setAttribute("aria-label", `${plot.title}: ${plot.rows.map(([name]) => name).join(", ")}. The arrow keys move from part to part.`);
    this.at = [0, -1];
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", hideTip);
    this.svg.addEventListener("pointermove", (event) => {
      const found = event.target.dataset?.text;
      found ? showTip(found, event.clientX, event.clientY) : hideTip();
    });
    this.svg.addEventListener("pointerleave", hideTip);
    if (this.names.length > 1) this.legend();
    new ResizeObserver(() => this.draw()).observe(holder);
    this.draw();
  }

  legend() {
    const legend = document.createElement("div");
    legend.className = "legend";
    for (const name of this.names.slice(0, 24)) {
      const entry = document.createElement("span"), sample = element("svg", { viewBox: "0 0 24 12", "aria-hidden": "true" }, entry);
      entry.className = "entry";
      element("rect", { x: 4, width: 14, height: 12, ...this.fill(name) }, sample);
      entry.append(name);
      legend.append(entry);
    }
    this.holder.append(legend);
  }

  fill(name) {
    const number = this.names.indexOf(name);
    return { fill: colour(number), "fill-opacity": [1, 0.65, 0.4][Math.floor(number / 8) % 3] };
  }

  draw() {
    const width = this.holder.clientWidth, high = 26, gap = 34;
    if (!width) return;
    const height = this.plot.rows.length * (high + gap) + 6;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.replaceChildren();
    this.plot.rows.forEach(([name, parts], row) => {
      const top = row * (high + gap) + 18, total = parts.reduce((sum, part) => sum + part.value, 0);
      let x = 0;
      element("text", { x: 0, y: top - 6 }, this.svg, `${name}: ${figure(total, this.plot.unit)}`);
      parts.forEach((part) => {
        const wide = (part.value / this.full) * width;
        const text = `${name}\n${part.name}: ${part.text}, ${figure((100 * part.value) / total, "%")}`;
        const drawn = element("rect", { x, y: top, width: Math.max(0.5, wide - (wide > 3 ? 1 : 0)), height: high, ...this.fill(part.name), class: "part" }, this.svg);
        drawn.dataset.text = text;
        x += wide;
      });
    });
    this.ring = element("rect", { class: "at", visibility: "hidden" }, this.svg);
  }

  key(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [across, along] = moves[event.key], rows = this.plot.rows;
    const row = Math.max(0, Math.min(rows.length - 1, this.at[0] + across)), parts = rows[row][1];
    const place = Math.max(0, Math.min(parts.length - 1, this.at[1] + along));
    this.at = [row, place];
    const before = rows.slice(0, row).reduce((sum, [, each]) => sum + each.length, 0);
    const drawn = this.svg.querySelectorAll(".part")[before + place], box = drawn.getBoundingClientRect();
    for (const key of ["x", "y", "width", "height"]) this.ring.setAttribute(key, drawn.getAttribute(key));
    this.ring.setAttribute("visibility", "visible");
    showTip(drawn.dataset.text, box.left, box.bottom - 8);
    said.textContent = drawn.dataset.text.replaceAll("\n", ", ");
  }
}

for (const each of document.querySelectorAll(".plot")) {
  const plot = JSON.parse(each.querySelector("script").textContent), holder = each.querySelector(".drawing");
  holder.replaceChildren();
  plot.kind === "bars" ? new Bars(holder, plot) : new Curves(holder, plot);
}

// Series over two axes. Hover or the arrow keys show a value; dragging, + and - zoom, 0 shows all again.

class Curves {
  constructor(holder, plot) {
    this.holder = holder;
    this.plot = plot;
    this.off = new Set();
    this.at = null; // the series and the point that the keyboard is at
    this.names = [...new Set(plot.series.filter((each) => !each.quiet).map((each) => each.name))];
    this.tools();
    this.svg = element("svg", { tabindex: 0, role: "application", "aria-roledescription": "plot" }, holder);
    this.svg.setAttribute("aria-label", `${plot.title}: ${plot.y.label} over ${plot.x.label}, of ${this.names.join(", ")}. ` +
      "Left and right move along a curve, up and down to another; plus and minus zoom, 0 shows all.");
    this.legend();
    this.listen();
    this.showAll();
    new ResizeObserver(() => this.draw()).observe(holder);
  }

  tools() {
    const tools = document.createElement("div");
    tools.className = "tools";
    for (const [text, name, act] of [["+", "Zoom in", () => this.zoom(0.5)], ["−", "Zoom out", () => this.zoom(2)], ["all", "Show all", () => this.showAll()]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", `${name}: ${this.plot.title}`);
      button.addEventListener("click", act);
      tools.append(button);
    }
    this.holder.append(tools);
  }

  legend() {
    if (this.names.length < 2) return;
    const legend = document.createElement("div");
    legend.className = "legend";
    for (const name of this.names) {
      const series = this.plot.series.find((each) => each.name === name && !each.quiet), button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const sample = element("svg", { viewBox: "0 0 24 12", "aria-hidden": "true" }, button), style = this.style(series);
      if (series.line) element("path", { d: "M0 6H24", stroke: style.colour, "stroke-width": 2, "stroke-dasharray": style.dash }, sample);
      if (series.marks) mark(style.mark, 12, 6, 4, sample, { fill: style.colour });
      button.append(name);
      button.addEventListener("click", () => {
        this.off.has(name) ? this.off.delete(name) : this.off.add(name);
        button.setAttribute("aria-pressed", String(!this.off.has(name)));
        this.at = null;
        this.draw();
      });
      legend.append(button);
    }
    this.holder.append(legend);
  }

  style(series) {
    const number = Math.max(0, series.colour);
    return { colour: colour(series.colour), dash: DASHES[Math.floor(number / 8) % 4], mark: MARKS[series.colour < 0 ? 3 : number % 4] };
  }

  get shown() {
    return this.plot.series.filter((each) => !this.off.has(each.name));
  }

  showAll() {
    const { x, y, series } = this.plot, points = series.flatMap((each) => each.points);
    const spread = series.flatMap((each) => each.band.flatMap(([, low, high]) => [low, high]));
    this.x = new Scale(...widened(extent(points.map(([value]) => value), x.log), x.log), x.log);
    let range = widened(extent([...points.map(([, value]) => value), ...spread], y.log), y.log);
    if (y.unit === "%") range = [-2, Math.max(102, range[1])];
    this.y = new Scale(...range, y.log);
    this.draw();
  }

  zoom(factor, x = 0.5, y = 0.5) {
    const by = (scale, at, keep) => {
      if (keep) return;
      const middle = scale.low + at * (scale.high - scale.low), half = ((scale.high - scale.low) * factor) / 2;
      [scale.low, scale.high] = [middle - half, middle + half];
    };
    by(this.x, x);
    by(this.y, y);
    this.draw();
  }

  zoomTo([x0, y0], [x1, y1]) {
    const cut = (scale, a, b) => {
      const size = scale.high - scale.low, low = scale.low;
      [scale.low, scale.high] = [low + Math.min(a, b) * size, low + Math.max(a, b) * size];
    };
    cut(this.x, x0, x1);
    cut(this.y, y0, y1);
    this.draw();
  }

  draw() {
    const width = this.holder.clientWidth;
    if (!width) return;
    const height = Math.max(220, Math.min(380, width * 0.6));
    this.box = { left: 58, top: 8, width: width - 70, height: height - 50 };
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.replaceChildren();
    this.axes(height);
    const id = `cut${Curves.count = (Curves.count ?? 0) + 1}`, clip = element("clipPath", { id }, this.svg);
    element("rect", { x: this.box.left, y: this.box.top, width: this.box.width, height: this.box.height }, clip);
    const inside = element("g", { "clip-path": `url(#${id})` }, this.svg);
    for (const quiet of [true, false]) for (const series of this.shown) if (series.quiet === quiet) this.series(series, inside);
    this.ring = element("circle", { r: 7, class: "at", visibility: "hidden" }, this.svg);
    if (this.at) this.point(...this.at);
  }

  axes(height) {
    const { left, top, width, height: tall } = this.box;
    for (const value of this.y.ticks(Math.max(2, Math.floor(tall / 45)))) {
      const y = this.toY(value);
      element("path", { d: `M${left} ${y}h${width}`, class: "grid" }, this.svg);
      element("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, this.svg, figure(value, this.plot.y.unit));
    }
    let free = -Infinity;
    for (const value of this.x.ticks(Math.max(2, Math.floor(width / 80)))) {
      const x = this.toX(value);
      element("path", { d: `M${x} ${top}v${tall}`, class: "grid" }, this.svg);
      if (x < free) continue;
      element("text", { x, y: top + tall + 16, "text-anchor": "middle" }, this.svg, figure(value, this.plot.x.unit));
      free = x + 46;
    }
    element("text", { x: left + width / 2, y: height - 6, "text-anchor": "middle" }, this.svg, this.plot.x.label);
    const side = element("text", { "text-anchor": "middle", transform: `translate(10 ${top + tall / 2}) rotate(-90)` }, this.svg);
    side.textContent = this.plot.y.label;
  }

  toX(value) {
    return this.box.left + this.x.place(value) * this.box.width;
  }

  toY(value) {
    return this.box.top + (1 - this.y.place(value)) * this.box.height;
  }

  series(series, parent) {
    const style = this.style(series), at = ([x, y]) => `${this.toX(x).toFixed(1)} ${this.toY(y).toFixed(1)}`;
    if (series.band.length) {
      const upper = series.band.map(([x, , high]) => at([x, high])), lower = series.band.map(([x, low]) => at([x, low])).reverse();
      element("path", { d: `M${[...upper, ...lower].join("L")}z`, fill: style.colour, "fill-opacity": 0.18 }, parent);
    }
    if (series.line) {
      const attributes = { fill: "none", stroke: style.colour, "stroke-width": series.quiet ? 0.8 : 2, "stroke-opacity": series.quiet ? 0.45 : 1, "stroke-dasharray": style.dash };
      element("path", { d: `M${series.points.map(at).join("L")}`, ...attributes, class: "curve" }, parent);
    }
    if (series.marks)
      series.points.forEach(([x, y], index) => {
        const size = series.sizes.length ? 4 + 12 * Math.sqrt(series.sizes[index]) : 4;
        mark(style.mark, this.toX(x), this.toY(y), size, parent, { fill: style.colour, "fill-opacity": series.sizes.length ? 0.75 : 1, class: "mark" });
      });
  }

  text(series, index) {
    const [x, y] = series.points[index];
    const lines = [series.texts[index] ?? series.name];
    const interval = series.band.length ? series.band[index] : null;
    const range = interval ? ` (${figure(interval[1], this.plot.y.unit)} to ${figure(interval[2], this.plot.y.unit)})` : "";
    lines.push(`${this.plot.y.label} ${figure(y, this.plot.y.unit)}${range}`, `${this.plot.x.label} ${figure(x, this.plot.x.unit)}`);
    return lines.join("\n");
  }

  point(series, index, speak = false) {
    const [x, y] = series.points[index], place = [this.toX(x), this.toY(y)];
    this.ring.setAttribute("cx", place[0]);
    this.ring.setAttribute("cy", place[1]);
    this.ring.setAttribute("visibility", "visible");
    if (!speak) return;
    const box = this.svg.getBoundingClientRect(), text = this.text(series, index);
    showTip(text, box.left + place[0], box.top + place[1]);
    said.textContent = text.replaceAll("\n", ", ");
  }

  nearest(x, y) {
    let best = null, least = 40 * 40;
    for (const series of this.shown)
      if (!series.quiet)
        series.points.forEach((point, index) => {
          const distance = (this.toX(point[0]) - x) ** 2 + (this.toY(point[1]) - y) ** 2;
          if (distance < least) [best, least] = [[series, index], distance];
        });
    return best;
  }

  listen() {
    let start = null, frame = null;
    const inSvg = (event) => {
      const box = this.svg.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const share = ([x, y]) => [(x - this.box.left) / this.box.width, 1 - (y - this.box.top) / this.box.height].map((each) => Math.max(0, Math.min(1, each)));
    this.svg.addEventListener("pointermove", (event) => {
      const place = inSvg(event);
      if (start && event.pointerType === "mouse") {
        frame ??= element("rect", { class: "zoomed" }, this.svg);
        const [x, y] = [Math.min(start[0], place[0]), Math.min(start[1], place[1])];
        for (const [key, value] of Object.entries({ x, y, width: Math.abs(place[0] - start[0]), height: Math.abs(place[1] - start[1]) })) frame.setAttribute(key, value);
        return hideTip();
      }
      const found = this.nearest(...place);
      this.ring.setAttribute("visibility", "hidden");
      if (!found) return hideTip();
      this.point(...found);
      showTip(this.text(...found), event.clientX, event.clientY);
    });
    this.svg.addEventListener("pointerdown", (event) => (start = inSvg(event)));
    this.svg.addEventListener("pointerup", (event) => {
      const end = inSvg(event);
      if (start && frame && Math.abs(end[0] - start[0]) > 8 && Math.abs(end[1] - start[1]) > 8) this.zoomTo(share(start), share(end));
      frame?.remove();
      start = frame = null;
    });
    this.svg.addEventListener("pointerleave", () => {
      hideTip();
      frame?.remove();
      start = frame = null;
      if (!this.at) this.ring.setAttribute("visibility", "hidden");
    });
    this.svg.addEventListener("dblclick", () => this.showAll());
    this.svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, ...share(inSvg(event)));
    }, { passive: false });
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => {
      this.at = null;
      this.ring.setAttribute("visibility", "hidden");
      hideTip();
    });
  }

  key(event) {
    const zooms = { "+": 0.5, "=": 0.5, "-": 2 }, moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key in zooms) this.zoom(zooms[event.key]);
    else if (event.key === "0") this.showAll();
    else if (event.key === "Escape") hideTip();
    else if (event.key in moves) this.move(...moves[event.key]);
    else return;
    event.preventDefault();
  }

  move(across, along) {
    const all = this.shown.filter((each) => !each.quiet && each.points.length);
    if (!all.length) return;
    const [series, index] = this.at ?? [all[0], -along];
    const next = all[(all.indexOf(series) + across + all.length) % all.length];
    const place = next === series ? index + along : Math.min(index, next.points.length - 1);
    this.at = [next, Math.max(0, Math.min(next.points.length - 1, place))];
    this.point(...this.at, true);
  }
}


// What plots are drawn with: SVG in the page's colours, figures with units, scales, marks, the tip that shows a value.

const SVG = "http://www.w3.org/2000/svg";
const MARKS = ["circle", "square", "triangle", "diamond"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
const tip = document.getElementById("tip"), said = document.getElementById("said");

function element(name, attributes = {}, parent = null, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function colour(number) {
  return number < 0 ? "var(--ink)" : `var(--s${number % 8})`;
}

function figure(value, unit) { // three digits and an SI unit
  if (value === 0) return unit === "%" ? "0 %" : "0";
  if (unit === "%") return `${+value.toPrecision(3)} %`;
  const size = Math.abs(value);
  if (!unit && size < 1 && size >= 1e-4) return String(+value.toPrecision(3));
  const [scale, prefix] = PREFIXES.find(([least]) => size >= least * 0.9995) ?? PREFIXES[PREFIXES.length - 1];
  return `${+(value / scale).toPrecision(3)}${unit || prefix ? " " : ""}${prefix}${unit}`;
}

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 4)) + "px";
  tip.style.top = (y + box.height + 20 > innerHeight ? y - box.height - 8 : y + 14) + "px";
}

function hideTip() {
  tip.hidden = true;
}

addEventListener("scroll", hideTip, { passive: true });

// -------------------------------------------------------------------------------------------------------------- axes

class Scale {
  constructor(low, high, log) {
    this.log = log && low > 0;
    if (low === high) [low, high] = this.log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
    this.low = this.of(low);
    this.high = this.of(high);
  }
  of(value) {
    return this.log ? Math.log10(Math.max(value, 1e-300)) : value;
  }
  back(place) {
    const at = this.low + place * (this.high - this.low);
    return this.log ? 10 ** at : at;
  }
  place(value) {
    return (this.of(value) - this.low) / (this.high - this.low);
  }
  ticks(count) {
    const decades = this.high - this.low;
    if (this.log && decades >= 1) {
      const every = Math.ceil(decades / count), steps = decades > count / 2 ? [1] : decades > count / 3 ? [1, 3] : [1, 2, 5], found = [];
      for (let power = Math.floor(this.low); power <= this.high; power += every)
        for (const step of steps) found.push(step * 10 ** power);
      return found.filter((value) => this.of(value) >= this.low - 1e-9 && this.of(value) <= this.high + 1e-9);
    }
    const [from, to] = [this.back(0), this.back(1)], rough = (to - from) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough), found = [];
    for (let value = Math.ceil(from / step) * step; value <= to + step * 1e-9; value += step) found.push(+value.toPrecision(12));
    return found;
  }
}

function extent(values, log) {
  const usable = values.filter((value) => Number.isFinite(value) && !(log && value <= 0));
  if (!usable.length) return [0, 1];
  return [usable.reduce((a, b) => Math.min(a, b)), usable.reduce((a, b) => Math.max(a, b))];
}

function widened([low, high], log, share = 0.04) {
  if (log && low > 0) {
    const factor = (high / low) ** share || 1;
    return [low / factor, high * factor];
  }
  return [low - (high - low) * share, high + (high - low) * share];
}

function mark(kind, x, y, r, parent, attributes) {
  const path = {
    circle: `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
    square: `M${x - r * 0.9} ${y - r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}z`,
    triangle: `M${x} ${y - r * 1.15}l${r * 1.1} ${r * 1.9}h${-r * 2.2}z`,
    diamond: `M${x} ${y - r * 1.25}l${r * 1.25} ${r * 1.25}l${-r * 1.25} ${r * 1.25}l${-r * 1.25} ${-r * 1.25}z`,
  }[kind];
  return element("path", { d: path, ...attributes }, parent);
}


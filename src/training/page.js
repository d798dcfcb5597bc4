'use strict';
// What every page shares: elements, how numbers are written, charts that are read together, the two
// themes. A page has a button #theme and a function draw(), which fills `charts` anew.
const charts = [];
const byId = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'class') made.className = value; else if (name.startsWith('on')) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- how numbers are written
function compact(value, digits = 3) {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e18, 'E'], [1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']])
    if (size >= unit) return trim((value / unit).toPrecision(digits)) + ' ' + name;
  return trim(value.toPrecision(digits));
}
function trim(text) { return text.includes('e') ? text : text.includes('.') ? text.replace(/\.?0+$/, '') : text; }
function grouped(value) { return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u202f'); }
function plain(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return trimExponent(value.toExponential(3));
  return trim(value.toPrecision(size >= 1e4 ? 6 : size < 0.01 ? 3 : 5));
}
function trimExponent(text) { const [a, b] = text.split('e'); return trim(a) + 'e' + b.replace('+', ''); }
function bytes(value) { return value >= 1e9 ? trim((value / 1e9).toPrecision(3)) + ' GB' : trim((value / 1e6).toPrecision(3)) + ' MB'; }
function duration(seconds) {
  if (Math.abs(seconds) < 1) return trim(seconds.toPrecision(2)) + ' s';
  const s = Math.round(seconds), parts = [[Math.floor(s / 86400), 'd'], [Math.floor(s / 3600) % 24, 'h'], [Math.floor(s / 60) % 60, 'min'], [s % 60, 's']];
  const first = parts.findIndex(([n]) => n > 0);
  return first < 0 ? '0 s' : parts.slice(first, first + 2).filter(([n], i) => i === 0 || n > 0).map(([n, u]) => n + ' ' + u).join(' ');
}
const isCount = (key) => ['step', 'steps', 'parameters', 'cores', 'threads', 'epoch', 'seed'].includes(key) || /_(steps|step)$/.test(key);
function format(key, value) {
  if (value === null || value === undefined) return '–';
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value !== 'number') return typeof value === 'object' ? JSON.stringify(value) : String(value);
  if (/(^|_)bytes$/.test(key)) return bytes(value);
  if (/(^|_)seconds$/.test(key) && !/per_second/.test(key)) return duration(value);
  if (/accuracy$/.test(key) && value >= 0 && value <= 1) return trim((100 * value).toPrecision(4)) + ' %';
  if (key === 'learning_rate' && value !== 0 && Math.abs(value) < 0.1) return trimExponent(value.toExponential(3));
  if (isCount(key)) return value >= 1e7 ? compact(value) : grouped(value);
  if (/(^|_)(tokens|flops|examples)(_per_second)?$/.test(key)) return compact(value);
  return plain(value);
}
const named = {flops: 'FLOPs', flops_per_second: 'FLOPs per second', mse: 'MSE', mae: 'MAE', libtorch: 'libtorch', mkl: 'MKL', onednn: 'oneDNN', openmp: 'OpenMP'};
function title(key) {
  if (named[key]) return named[key];
  const text = key.replace(/_bytes$/, '').replace(/[_.]/g, ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// ---- charts
const axisNames = {step: 'steps', tokens: 'tokens', seconds: 'time', flops: 'FLOPs'};
function axisTick(key, value) {
  if (key === 'seconds') return duration(value);
  return key === 'step' && Math.abs(value) < 1e5 ? grouped(value) : compact(value);
}
function axisStep(axis, most, count) {  // times are read in minutes and hours, not in tens
  if (axis !== 'seconds' || most < 60) return undefined;
  const steps = [10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  return steps.find((step) => most / step <= count) || 86400 * Math.ceil(most / 86400 / count);
}
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const grid = () => ({color: colour('grid'), borderColor: colour('line'), tickColor: colour('line')});
const still = {animation: false, responsive: true, maintainAspectRatio: false, parsing: false, normalized: true};
const tooltipStyle = () => ({backgroundColor: colour('card'), titleColor: colour('soft'), bodyColor: colour('ink'), borderColor: colour('line'),
  borderWidth: 1, padding: 9, titleFont: {weight: 'normal'}, boxWidth: 10, boxHeight: 10, boxPadding: 4, usePointStyle: true});
function axisTitle(axis, value) {  // what a tooltip says of its place
  if (axis === 'step') return 'step ' + grouped(value);
  return axisTick(axis, value) + (axis === 'seconds' ? '' : ' ' + axisNames[axis]);
}
function emptyCharts() {
  while (charts.length) charts.pop().destroy();
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
}
// A plot with its heading; `keys` and `tools` stand beside the heading.
function chartCard(name, config, {wide, id, keys = [], tools = [], label} = {}) {
  const canvas = element('canvas', {role: 'img', 'aria-label': label || name});
  const top = element('div', {class: 'top'}, element('h2', {}, name), element('div', {class: 'keys'}, ...keys), ...tools);
  const card = element('article', {class: wide ? 'chart wide' : 'chart', 'data-key': id || name}, top, element('div', {class: 'canvas'}, canvas));
  byId('charts').append(card);
  charts.push(new Chart(canvas, config));
  return card;
}
const key = (colour, name) => element('span', {style: '--colour:' + colour}, name);
// Every curve's point nearest to the pointer, though the curves have points at different places.
Chart.Interaction.modes.each = (chart, event) => {
  const x = chart.scales.x.getValueForPixel(event.x);
  const found = [];
  chart.data.datasets.forEach((set, datasetIndex) => {
    if (!set.data.length || !chart.isDatasetVisible(datasetIndex)) return;
    let low = 0, high = set.data.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (set.data[middle].x < x) low = middle + 1; else high = middle; }
    const index = low > 0 && x - set.data[low - 1].x < set.data[low].x - x ? low - 1 : low;
    found.push({element: chart.getDatasetMeta(datasetIndex).data[index], datasetIndex, index});
  });
  return found;
};
let marked = null;  // the x under the pointer, shown in every chart
const crosshair = {
  id: 'crosshair',
  afterEvent(chart, {event}) {
    const area = chart.chartArea;
    const inside = event.type !== 'mouseout' && event.x >= area.left && event.x <= area.right;
    const x = inside ? chart.scales.x.getValueForPixel(event.x) : null;
    if (x === marked) return;
    marked = x;
    requestAnimationFrame(() => charts.forEach((other) => other.draw()));
  },
  beforeDatasetsDraw(chart) {
    if (marked === null) return;
    const {ctx, chartArea: area, scales} = chart, at = scales.x.getPixelForValue(marked);
    if (at < area.left || at > area.right) return;
    ctx.save();
    ctx.strokeStyle = colour('mark'); ctx.setLineDash([3, 3]);
    ctx.beginPath(); ctx.moveTo(at, area.top); ctx.lineTo(at, area.bottom); ctx.stroke();
    ctx.restore();
  },
};
function pressed(name, on, action, kind) {
  return element('button', {type: 'button', class: kind || '', 'aria-pressed': String(on), onclick: action}, name);
}
function choice(id, names, chosen, choose) {  // buttons of which one is pressed
  return element('div', {class: 'choice', id}, ...Object.entries(names).map(([key, name]) => pressed(name, key === chosen, () => choose(key))));
}
// ---- words and themes
function showFigures(list) {  // [name, value, note]
  byId('figures').replaceChildren(...list.map(([name, value, note]) => element('div', {class: 'figure'},
    element('div', {class: 'name'}, name), element('div', {class: 'value'}, value), element('div', {class: 'note'}, note || ''))));
  byId('figures').hidden = !list.length;
}
function table(object) {  // what is inside tables gets dotted names
  const body = element('table', {}), walk = (part, prefix) => {
    for (const [key, value] of Object.entries(part)) {
      if (value && typeof value === 'object' && !Array.isArray(value)) walk(value, prefix + key + '.');
      else body.append(element('tr', {}, element('td', {}, title(prefix + key)), element('td', {}, format(key, value))));
    }
  };
  walk(object, '');
  return body;
}
const stored = (() => { try { return localStorage.getItem('formwork-theme'); } catch { return null; } })();
const dark = matchMedia('(prefers-color-scheme: dark)');
function theme(name) {
  document.documentElement.dataset.theme = name;
  byId('theme').textContent = name === 'dark' ? 'light' : 'dark';
  byId('theme').setAttribute('aria-label', 'switch to ' + byId('theme').textContent);
  if (charts.length) draw();
}
byId('theme').onclick = () => {
  const name = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  try { localStorage.setItem('formwork-theme', name); } catch { /* a page on disk may have no storage */ }
  theme(name);
};
dark.addEventListener('change', () => theme(dark.matches ? 'dark' : 'light'));

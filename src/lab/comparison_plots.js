// The plots of a comparison: curves, quality against cost, probes. Joined to comparison.js, which has the
// summary, the settings and how results are written.

// ---- curves
const visible = () => variants.filter((v) => !settings.hidden.has(v.name));
const hasCurve = (v, kind) => v[kind] && v[kind].mean && v[kind].mean.some(known);
function curveSets(kind, scale) {
  const sets = [], flat = {pointRadius: 0, tension: 0, spanGaps: true, clip: 4};
  for (const v of visible().filter((one) => hasCurve(one, kind))) {
    const c = v[kind], at = c[settings.axis] || [];
    const line = (list) => at.map((x, i) => ({x, y: known(list[i]) ? list[i] * scale : null})).filter((p) => known(p.x) && known(p.y));
    const ends = {...flat, borderWidth: 0, pointHoverRadius: 0, band: true, order: 2, variant: v.name};
    if (c.low && c.high) {
      sets.push({...ends, label: v.name, data: line(c.low), fill: false});
      sets.push({...ends, label: v.name, data: line(c.high), fill: '-1', backgroundColor: veil(paint(v))});
    }
    const data = line(c.mean);
    sets.push({...flat, label: v.name, variant: v.name, data, order: 1, borderColor: paint(v), backgroundColor: paint(v), borderWidth: 2,
      borderDash: v.baseline ? [] : v.dash, pointHoverRadius: 4, pointRadius: data.length < 13 ? 2.5 : 0, fill: false});
  }
  return sets;
}
Chart.Interaction.modes.lines = (chart, event, ...rest) =>
  Chart.Interaction.modes.each(chart, event, ...rest).filter(({datasetIndex}) => !chart.data.datasets[datasetIndex].band);
const byHeight = (a, b) => b.parsed.y - a.parsed.y;
function lineOptions(x, y, tooltip) {
  return {...still, interaction: {mode: 'lines', intersect: false},
    scales: {x: {type: 'linear', grid: grid(), ...x, ticks: {color: colour('soft'), includeBounds: false, maxRotation: 0, autoSkipPadding: 18, ...x.ticks}, title: {display: true, color: colour('soft'), ...x.title}},
      y: {type: 'linear', grid: grid(), grace: '4%', ...y, ticks: {color: colour('soft'), maxTicksLimit: 8, ...y.ticks}, title: {display: true, color: colour('soft'), ...y.title}}},
    plugins: {legend: {display: false}, filler: {propagate: true}, tooltip: {...tooltipStyle(), ...tooltip}}};
}
function drawCurves() {
  const kinds = Object.entries({'training loss': 'curve', 'validation loss': 'validation_curve', [partName('metric')]: 'metric_curve'}).filter(([, kind]) => variants.some((v) => hasCurve(v, kind)));
  if (!kinds.length) { byId('charts').append(element('div', {class: 'chart wide empty'}, 'No curve was written yet.')); return; }
  if (!kinds.some(([, kind]) => kind === settings.curve)) settings.curve = kinds[0][1];
  const kind = settings.curve, part = kind === 'metric_curve' ? 'metric' : 'loss', percent = isShare(part), sets = curveSets(kind, percent ? 100 : 1);
  const axes = ['step', 'tokens', 'seconds'].filter((axis) => variants.some((v) => hasCurve(v, kind) && v[kind][axis] && v[kind][axis].some(known)));
  if (!axes.includes(settings.axis)) settings.axis = axes[0];
  const end = Math.max(1e-9, ...sets.flatMap((set) => set.data.length ? [set.data[set.data.length - 1].x] : []));
  const change = (name) => (value) => { settings[name] = value; marked = null; draw(); };
  // Room above and below the curves, but not where no value can be.
  const heights = sets.flatMap((set) => set.data.map((p) => p.y)).filter(known), low = Math.min(...heights), high = Math.max(...heights), air = 0.04 * (high - low);
  const bounds = settings.log ? {} : {...(low >= 0 && low < air && {min: 0}), ...(percent && high > 100 - air && {max: 100})};
  const options = lineOptions(
    {min: 0, max: end, ticks: {stepSize: axisStep(settings.axis, end, innerWidth < 760 ? 4 : 9), maxTicksLimit: 11, callback: (v) => axisTick(settings.axis, v)}, title: {text: settings.axis === 'seconds' ? 'time of training' : axisNames[settings.axis]}},
    {type: settings.log ? 'logarithmic' : 'linear', ...bounds, ticks: {callback: (v) => plain(v) + (percent ? ' %' : '')}, title: {text: partName(part)}},
    {itemSort: byHeight, callbacks: {
      title: (items) => items.length ? axisTitle(settings.axis, items[0].parsed.x) : '',
      label: (item) => ' ' + item.dataset.label + '  ' + item.parsed.y.toPrecision(4) + (percent ? ' %' : '')}});
  chartCard(capital(kinds.find(([, one]) => one === kind)[0]), {type: 'line', data: {datasets: sets}, options, plugins: [crosshair]}, {wide: true, id: 'curves', keys: [element('i', {}, 'line: mean over seeds; band: least to greatest seed')], label: partName(part) + ' against ' + axisNames[settings.axis], tools: [
    ...(kinds.length > 1 ? [choice('kind', Object.fromEntries(kinds.map(([name, key]) => [key, name])), kind, change('curve'))] : []),
    choice('axis', Object.fromEntries(axes.map((axis) => [axis, axisNames[axis]])), settings.axis, change('axis')),
    pressed('log', settings.log, () => change('log')(!settings.log), 'small')]});
}

// ---- quality against cost
const meanOf = (v, key) => {
  const list = v.runs.filter((run) => run.status === 'done').map((run) => run[key]).filter(known);
  return list.length ? list.reduce((a, b) => a + b) / list.length : null;
};
const costs = {
  flops_per_token: ['FLOPs a token', (v) => v.flops_per_token, (n) => compact(n)],
  seconds: ['time of training', (v) => meanOf(v, 'seconds'), duration],
  parameters: ['parameters', (v) => v.parameters, (n) => compact(n)],
  memory: ['peak memory', (v) => v.peak_memory_bytes, bytes],
  latency: ['latency at batch 1', (v) => latency(v, 'batch_1'), milliseconds],
};
// The points that no other beats on both: from the cheapest on, each better than all before it.
function paretoFront(points, higher) {
  const front = [];
  for (const p of [...points].sort((a, b) => a.x - b.x || (higher ? b.y - a.y : a.y - b.y)))
    if (!front.length || (higher ? p.y > front[front.length - 1].y : p.y < front[front.length - 1].y)) front.push(p);
  return front;
}
const whiskers = {  // the deviation over seeds, and the names
  id: 'whiskers',
  afterDatasetsDraw(chart) {
    const {ctx, scales, chartArea: area} = chart, taken = [];
    ctx.save();
    ctx.font = '12px ' + Chart.defaults.font.family;
    const sets = chart.data.datasets.filter((set) => set.variant);
    for (const set of sets) {
      const p = set.data[0], x = scales.x.getPixelForValue(p.x), y = scales.y.getPixelForValue(p.y);
      taken.push([x - 6, y - 6, x + 6, y + 6]);
      if (!p.deviation) continue;
      ctx.strokeStyle = set.backgroundColor; ctx.lineWidth = 1.4;
      const top = scales.y.getPixelForValue(p.y + p.deviation), bottom = scales.y.getPixelForValue(p.y - p.deviation);
      taken.push([x - 4, top, x + 4, bottom]);
      ctx.beginPath();
      ctx.moveTo(x, top); ctx.lineTo(x, bottom);
      for (const end of [top, bottom]) { ctx.moveTo(x - 4, end); ctx.lineTo(x + 4, end); }
      ctx.stroke();
    }
    for (const set of sets) {
      const p = set.data[0], x = scales.x.getPixelForValue(p.x), y = scales.y.getPixelForValue(p.y);
      const text = set.variant.length > 22 ? set.variant.slice(0, 21) + '…' : set.variant, width = ctx.measureText(text).width;
      // The first of these places that covers nothing: right, left, above, below, and farther.
      const places = [[9, -7], [-9 - width, -7], [9, 15], [-9 - width, 15], [10, 4], [-10 - width, 4], [10, 18], [-10 - width, 18], [10, 32], [-10 - width, 32], [10, -24], [-10 - width, -24]];
      const box = ([dx, dy]) => [x + dx - 1, y + dy - 11, x + dx + width + 1, y + dy + 3];
      const free = (b) => b[0] >= area.left && b[2] <= area.right && b[1] >= area.top && b[3] <= area.bottom && !taken.some((t) => b[0] < t[2] && b[2] > t[0] && b[1] < t[3] && b[3] > t[1]);
      const place = places.find((one) => free(box(one))) || places[0];
      taken.push(box(place));
      ctx.strokeStyle = colour('card'); ctx.lineWidth = 4; ctx.lineJoin = 'round';
      ctx.strokeText(text, x + place[0], y + place[1]);  // readable over lines
      ctx.fillStyle = colour('ink');
      ctx.fillText(text, x + place[0], y + place[1]);
    }
    ctx.restore();
  },
};
function drawCost() {
  const part = variants.some((v) => has(v, 'metric')) ? settings.quality : 'loss';
  const able = Object.keys(costs).filter((key) => variants.some((v) => known(costs[key][1](v)) && has(v, part)));
  if (!able.length) return;
  if (!able.includes(settings.cost)) settings.cost = able.find((key) => {  // one in which they differ
    const values = variants.filter((v) => has(v, part)).map(costs[key][1]).filter(known);
    return Math.max(...values) > 1.01 * Math.min(...values);
  }) || able[0];
  const [costName, cost, written] = costs[settings.cost], scale = isShare(part) ? 100 : 1, higher = higherIsBetter(part);
  const points = visible().filter((v) => v.status === 'done' && has(v, part) && known(cost(v))).map((v) => (
    {x: cost(v), y: v[part].mean * scale, deviation: known(v[part].deviation) ? v[part].deviation * scale : 0, v}));
  const front = paretoFront(points, higher);
  const sets = points.map((p) => ({type: 'scatter', label: p.v.name, variant: p.v.name, data: [p], backgroundColor: paint(p.v), borderColor: paint(p.v), pointRadius: 5.5, pointHoverRadius: 7, order: 1}));
  if (front.length) sets.push({type: 'line', label: 'Pareto front', data: front, stepped: 'before', borderColor: colour('mark'), borderDash: [5, 4], borderWidth: 1.6, pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0, order: 2, fill: false});
  const xs = points.map((p) => p.x), least = Math.min(...xs), most = Math.max(...xs), room = (most - least) * 0.14 || most * 0.1 || 1;
  const ys = points.flatMap((p) => [p.y - p.deviation, p.y + p.deviation]), low = Math.min(...ys), high = Math.max(...ys), air = (high - low) * 0.14 || Math.abs(high) * 0.05 || 1;
  const options = lineOptions(
    {min: least - room, max: most + room, ticks: {maxTicksLimit: 6, callback: (v) => written(v)}, title: {text: costName + ' (less is cheaper)'}},
    {min: low - air, max: high + air, grace: 0, ticks: {includeBounds: false, callback: (v) => plain(v) + (scale === 100 ? ' %' : '')}, title: {text: partName(part) + (higher ? ' (higher is better)' : ' (lower is better)')}},
    {filter: (item) => Boolean(item.dataset.variant), callbacks: {
      title: () => '', label: (item) => ' ' + item.dataset.label + '  ' + spread(part, item.raw.v[part]) + ' at ' + written(item.raw.x)}});
  options.interaction = {mode: 'nearest', intersect: true};
  const pick = element('select', {id: 'cost', 'aria-label': 'cost', onchange: () => { settings.cost = pick.value; draw(); }},
    ...able.map((key) => element('option', {value: key, ...(key === settings.cost ? {selected: ''} : {})}, costs[key][0])));
  chartCard('Quality against cost', {type: 'scatter', data: {datasets: sets}, options, plugins: [whiskers]}, {id: 'cost', wide: probeNames().length % 2 === 0, keys: [key(colour('mark'), 'Pareto front')],
    label: partName(part) + ' against ' + costName, tools: [
      ...(variants.some((v) => has(v, 'metric')) ? [choice('quality', {metric: partName('metric'), loss: 'loss'}, part, (value) => { settings.quality = value; draw(); })] : []), pick]});
}

// ---- probes: a value for every layer
const probeNames = () => [...new Set(variants.flatMap((v) => Object.keys(v.probes || {})))];
function drawProbes() {
  for (const name of probeNames()) {
    const steps = [...new Set(variants.flatMap((v) => v.probes && v.probes[name] ? v.probes[name].step : []))].sort((a, b) => a - b);
    if (!steps.length) continue;
    if (!steps.includes(settings.probeStep[name])) settings.probeStep[name] = steps[steps.length - 1];
    const sets = () => visible().filter((v) => v.probes && v.probes[name]).map((v) => {
      const index = v.probes[name].step.indexOf(settings.probeStep[name]);
      return {label: v.name, variant: v.name, borderColor: paint(v), backgroundColor: paint(v), borderWidth: 2, pointRadius: 3, pointHoverRadius: 5, tension: 0, borderDash: v.dash,
        data: index < 0 ? [] : (v.probes[name].layers[index] || []).map((y, x) => ({x, y})).filter((p) => known(p.y))};
    });
    const options = lineOptions({ticks: {stepSize: 1, precision: 0, maxTicksLimit: 13, includeBounds: true}, title: {text: 'layer'}}, {ticks: {callback: (v) => plain(v)}, title: {text: title(name).toLowerCase()}},
      {itemSort: byHeight, callbacks: {title: (items) => items.length ? 'layer ' + items[0].parsed.x : '', label: (item) => ' ' + item.dataset.label + '  ' + item.parsed.y.toPrecision(4)}});
    const word = element('span', {class: 'soft', style: 'font-size: 13px'}, 'step ' + grouped(settings.probeStep[name]));
    const range = element('input', {type: 'range', min: 0, max: steps.length - 1, step: 1, value: steps.indexOf(settings.probeStep[name]), 'aria-label': 'step of ' + title(name)});
    chartCard(title(name), {type: 'line', data: {datasets: sets()}, options, plugins: []}, {id: 'probe-' + name, label: title(name) + ' by layer', tools: steps.length > 1 ? [range, word] : [word]});
    const chart = charts[charts.length - 1];
    range.oninput = () => {
      settings.probeStep[name] = steps[range.value];
      word.textContent = 'step ' + grouped(steps[range.value]);
      chart.data.datasets = sets();
      chart.update();
    };
  }
}
function draw() {
  emptyCharts();
  byId('charts').replaceChildren();
  drawCurves();
  drawCost();
  drawProbes();
}
function drawBar() {
  const toggle = (v) => { settings.hidden.has(v.name) ? settings.hidden.delete(v.name) : settings.hidden.add(v.name); drawBar(); draw(); };
  const shown = variants.filter((v) => hasCurve(v, 'curve') || hasCurve(v, 'validation_curve') || hasCurve(v, 'metric_curve') || has(v, 'metric') || v.probes);
  byId('bar').replaceChildren(element('div', {class: 'group'}, element('div', {class: 'chips', role: 'group', 'aria-label': 'variants that are drawn'},
    ...shown.map((v) => element('button', {type: 'button', class: 'chip', title: v.name, 'aria-pressed': String(!settings.hidden.has(v.name)), onclick: () => toggle(v)}, ...label(v).map((part) => { part.classList.remove('label'); return part; }))))));
  byId('bar').hidden = !shown.length;
}

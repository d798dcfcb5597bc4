// The plot of a method's cost, and the field that filters the index.
const data = JSON.parse(byId('data').textContent);
const settings = {};
const time = (v) => v >= 1000 ? duration(v / 1000) : trim(v.toPrecision(3)) + ' ms';
function draw() {
  const cost = data && data.cost;
  if (!cost) return;
  emptyCharts();
  byId('charts').replaceChildren();
  const line = (label, list, paint, dash) => ({label, data: cost.sizes.map((x, i) => ({x, y: list[i]})), borderColor: paint, backgroundColor: paint, borderWidth: 2, borderDash: dash, pointRadius: 3.5, pointHoverRadius: 5});
  const sets = [line(data.name, cost.method, colour('blue'), [])];
  if (data.name !== cost.baseline) sets.push(line(cost.baseline + ' (the default)', cost.standard, colour('mark'), [5, 4]));
  const axis = (name, more) => ({grid: grid(), ...more, ticks: {color: colour('soft'), ...more.ticks}, title: {display: true, text: name, color: colour('soft')}});
  chartCard('Cost on this machine', {type: 'line', data: {datasets: sets}, options: {...still, interaction: {mode: 'each', intersect: false},
    scales: {x: axis(cost.size, {type: 'logarithmic', min: cost.sizes[0] / 1.2, max: cost.sizes[cost.sizes.length - 1] * 1.1, afterBuildTicks: (scale) => { scale.ticks = cost.sizes.map((value) => ({value})); }, ticks: {callback: (v) => grouped(v)}}),
      y: axis('time', {min: 0, ticks: {maxTicksLimit: 6, callback: time}})},
    plugins: {legend: {display: false}, tooltip: {...tooltipStyle(), itemSort: (a, b) => b.parsed.y - a.parsed.y, callbacks: {
      title: (items) => items.length ? grouped(items[0].parsed.x) + ' ' + cost.size : '', label: (item) => ' ' + item.dataset.label + '  ' + time(item.parsed.y)}}}}},
  {wide: true, id: 'cost', label: 'time of ' + cost.what, keys: sets.map((set) => key(set.borderColor, set.label))});
}
const find = byId('find');
if (find) find.oninput = () => {
  const word = find.value.trim().toLowerCase();
  for (const row of document.querySelectorAll('.index tbody tr')) row.hidden = !row.textContent.toLowerCase().includes(word);
  for (const card of document.querySelectorAll('.card.index')) card.hidden = ![...card.querySelectorAll('tbody tr')].some((row) => !row.hidden);
};
theme(stored || (dark.matches ? 'dark' : 'light'));
draw();

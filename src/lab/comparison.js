// The page of a comparison: what `compare` found, drawn from its summary.
let summary = JSON.parse(byId('data').textContent), variants = [], baseline = null;
const settings = {axis: 'step', curve: 'validation_curve', log: false, cost: null, quality: 'metric', sort: null, down: false, hidden: new Set(), probeStep: {}};
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);
const has = (v, part) => Boolean(v && v[part] && known(v[part].mean));
const listed = (list) => list.length < 2 ? list.join('') : list.slice(0, -1).join(', ') + ' and ' + list[list.length - 1];

// ---- how results are written
const metricName = () => (summary.metric && summary.metric.name) || 'metric';
const isShare = (part) => part === 'metric' && /accuracy$/.test(metricName());
const higherIsBetter = (part) => part === 'metric' && Boolean(summary.metric && summary.metric.higher_is_better);
const partName = (part) => part === 'loss' ? 'loss' : title(metricName()).replace(/^[A-Z](?![A-Z])/, (c) => c.toLowerCase());
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const minus = (text) => text.replace('-', '\u2212');
// Decimals of a column, so that they line up: two digits of the middle deviation.
function digits(part) {
  const scale = isShare(part) ? 100 : 1, fallback = scale === 100 ? 2 : 4;
  const deviations = variants.map((v) => v[part] && v[part].deviation * scale).filter((d) => d > 0).sort((a, b) => a - b);
  return deviations.length ? Math.min(5, Math.max(0, 1 - Math.floor(Math.log10(deviations[deviations.length >> 1])))) : fallback;
}
function spread(part, found) {
  if (!found || !known(found.mean)) return null;
  const scale = isShare(part) ? 100 : 1, places = digits(part);
  return minus((found.mean * scale).toFixed(places)) + (known(found.deviation) ? ' ± ' + (found.deviation * scale).toFixed(places) : '') + (scale === 100 ? ' %' : '');
}
function amount(part, value) {  // a difference without its sign
  const scaled = Math.abs(value) * (isShare(part) ? 100 : 1);
  return (scaled >= 100 ? grouped(scaled) : scaled && scaled < 1e-4 ? trimExponent(scaled.toExponential(1)) : scaled.toPrecision(2)) + (isShare(part) ? ' points' : '');
}
const whole = (text) => text.replace(/ /g, '\u00a0');  // never broken over two lines
const chance = (p) => whole(p < 0.001 ? 'p < 0.001' : 'p = ' + trim(p.toPrecision(2)));
// Whether a difference was told from chance: 1 better, -1 worse, 0 neither.
function told(variant, part) {
  const found = variant.against_baseline && variant.against_baseline[part];
  return found ? {better: 1, worse: -1}[found.verdict] || 0 : 0;
}
const tone = (sign) => sign > 0 ? 'good' : sign < 0 ? 'bad' : '';
const paint = (variant) => colour('v' + variant.colour);
const veil = (hex) => hex + '2b';
function milliseconds(value) { return known(value) ? (value >= 1000 ? duration(value / 1000) : trim(value.toPrecision(3)) + ' ms') : '–'; }

// ---- the table
const two = (above, below, kind) => below ? [above, element('div', {class: 'note ' + (kind || '')}, below)] : [above];
function meanColumn(part) {
  return {key: part, name: capital(partName(part)), low: !higherIsBetter(part), value: (v) => v[part] && v[part].mean,
    cell: (v) => two(spread(part, v[part]) || '–', has(v, part) && doneRuns(v) < v.runs.length ? doneRuns(v) + ' of ' + v.runs.length + ' seeds' : '')};
}
function differenceColumn(part) {
  return {key: part + '_difference', name: capital(partName(part)) + ' against ' + (baseline ? baseline.name : 'baseline'), low: !higherIsBetter(part),
    value: (v) => v.against_baseline && v.against_baseline[part] ? v.against_baseline[part].difference : v === baseline ? 0 : null,
    cell(v) {
      if (v === baseline) return [element('span', {class: 'soft'}, 'baseline')];
      const found = v.against_baseline && v.against_baseline[part];
      if (!found || !known(found.difference)) return found && found.verdict ? [element('div', {class: 'note'}, found.verdict)] : ['–'];
      const sign = found.difference < 0 ? '\u2212' : found.difference > 0 ? '+' : '', kind = tone(told(v, part));
      const words = whole(found.verdict || '') + (known(found.p) ? ', ' + chance(found.p) : '');
      return [...two(element('span', {class: kind}, sign + amount(part, found.difference)), words, kind),
        ...(!kind && found.smallest_detectable > 0 ? [element('div', {class: 'note'}, whole('detects ' + amount(part, found.smallest_detectable)))] : [])];
    }};
}
function plainColumn(key, name, written, low) {
  return {key, name, low, value: (v) => v[key], cell: (v) => [known(v[key]) ? written(v[key]) : '–']};
}
const over = (v, key, join) => known(v[key]) ? v[key] : v.runs.map((run) => run[key]).filter(known).reduce((all, one) => all === null ? one : join(all, one), null);
const spikes = (v) => over(v, 'spikes', (a, b) => a + b), gradient = (v) => over(v, 'largest_gradient_norm', Math.max);
const latency = (v, key) => v.latency_ms && v.latency_ms[key];
const toBaseline = (v, key) => v.to_baseline_loss && v.to_baseline_loss[key];
function columns() {
  return [
    {key: 'name', name: 'Variant', value: (v) => v.name, low: true, cell: nameCell},
    meanColumn('metric'), differenceColumn('metric'), meanColumn('loss'), differenceColumn('loss'),
    plainColumn('parameters', 'Parameters', (n) => compact(n), true),
    plainColumn('flops_per_token', 'FLOPs/token', (n) => compact(n), true),
    plainColumn('tokens_per_second', 'Tokens/s', (n) => compact(n), false),
    plainColumn('peak_memory_bytes', 'Peak memory', bytes, true),
    {key: 'latency', name: 'Latency', low: true, value: (v) => latency(v, 'batch_1'),
      cell: (v) => known(latency(v, 'batch_1')) ? two(milliseconds(latency(v, 'batch_1')), known(latency(v, 'training_batch')) ? whole('batch ' + milliseconds(latency(v, 'training_batch'))) : '') : ['–']},
    {key: 'to_baseline', name: 'To the baseline’s loss', low: true, value: (v) => toBaseline(v, 'seconds'),
      cell: (v) => known(toBaseline(v, 'seconds')) ? two(duration(toBaseline(v, 'seconds')), known(toBaseline(v, 'tokens')) ? whole(compact(toBaseline(v, 'tokens')) + ' tokens') : '')
        : [v.status === 'done' ? element('span', {class: 'soft'}, 'not reached') : '–']},
    {key: 'stability', name: 'Loss spikes', low: true, value: spikes,
      cell: (v) => two(known(spikes(v)) ? String(spikes(v)) : '–', known(gradient(v)) ? whole('‖g‖ ≤ ' + (gradient(v) >= 1e4 ? compact(gradient(v)) : gradient(v).toPrecision(gradient(v) < 100 ? 2 : 3))) : '', gradient(v) > 1e3 ? 'bad' : '')},
  ];
}
const statusWords = {failed: 'failed', diverged: 'diverged', running: 'running', missing: 'not yet run'};
const isBad = (v) => v.status === 'failed' || v.status === 'diverged';
const doneRuns = (v) => v.runs.filter((run) => run.status === 'done').length;
function label(v) {
  return [element('span', {class: 'dot', style: '--colour: var(--v' + v.colour + ')'}), element('span', {class: 'label'}, v.name)];
}
function nameCell(v) {
  const tag = v.baseline ? 'baseline' : statusWords[v.status];
  return [...label(v), ...(tag ? [element('span', {class: 'tag' + (isBad(v) ? ' bad' : '')}, tag)] : [])];
}
function sentence(v) {
  if (v.failure) return v.failure;
  if (v.status === 'running') return doneRuns(v) + ' of ' + v.runs.length + ' runs are done';
  return v.status === 'missing' ? 'no run has begun' : statusWords[v.status] || 'no result';
}
function drawTable() {
  const all = columns(), chosen = all.find((c) => c.key === settings.sort);
  const shown = [...variants];
  if (chosen) shown.sort((a, b) => {
    const x = chosen.value(a), y = chosen.value(b);
    if (!known(x) || !known(y)) return known(y) - known(x);
    return (x < y ? -1 : x > y ? 1 : 0) * (settings.down ? -1 : 1);
  });
  const choose = (key, down) => { settings.sort = key; settings.down = down; drawTable(); };
  const press = (c) => choose(c.key, settings.sort === c.key ? !settings.down : !c.low);  // the best first
  const head = element('tr', {}, ...all.map((c) => element('th', {scope: 'col', ...(c === chosen ? {'aria-sort': settings.down ? 'descending' : 'ascending'} : {})},
    element('button', {type: 'button', onclick: () => press(c)}, c.name))));
  const best = new Map(all.slice(1).map((c) => {
    const values = variants.filter((v) => v.status === 'done').map(c.value).filter(known);
    return [c, values.length > 1 && !/difference|stability/.test(c.key) ? Math[c.low ? 'min' : 'max'](...values) : null];
  }));
  const rows = shown.map((v) => {
    const row = element('tr', {'data-variant': v.name}), merged = !has(v, 'metric') && !has(v, 'loss');
    for (const c of all) {
      if (merged && /^(metric|loss)/.test(c.key)) {
        if (c.key === 'metric') row.append(element('td', {class: 'why' + (isBad(v) ? ' bad' : ''), colspan: 4}, sentence(v)));
        continue;
      }
      const cell = c.cell(v), nothing = cell[0] === '–';
      if (c.key === 'name' && !merged && v.failure) cell.push(element('div', {class: 'note bad'}, v.failure));
      row.append(element('td', {'data-name': c.name, class: (/^(metric|loss)/.test(c.key) ? 'half ' : '') + (/difference/.test(c.key) ? 'delta ' : '') + (nothing ? 'nothing soft' : best.get(c) !== null && c.value(v) === best.get(c) && v.status === 'done' ? 'best' : '')}, ...cell));
    }
    return row;
  });
  byId('sheet').replaceChildren(element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows)));
  const pick = element('select', {'aria-label': 'sort by', onchange: () => press(all.find((c) => c.key === pick.value))},
    element('option', {value: ''}, 'the recipe’s order'), ...all.map((c) => element('option', {value: c.key, ...(c === chosen ? {selected: ''} : {})}, c.name)));
  pick.onchange = () => pick.value ? choose(pick.value, !all.find((c) => c.key === pick.value).low) : choose(null, false);
  byId('sorting').replaceChildren('Sorted by', pick, ...(chosen ? [element('button', {type: 'button', 'aria-label': 'turn round', onclick: () => press(chosen)}, settings.down ? '↓' : '↑')] : []));
}

// ---- words
function findings() {
  const lines = [], say = (v, ...parts) => lines.push(element('li', v ? {style: '--colour: var(--v' + v.colour + ')'} : {}, ...parts));
  const part = variants.some((v) => has(v, 'metric')) ? 'metric' : 'loss', strong = (v) => element('b', {}, v.name);
  const done = variants.filter((v) => v.status === 'done' && has(v, part));
  if (!done.length) { say(null, 'No variant has a result yet.'); return lines; }
  if (has(baseline, part)) say(baseline, strong(baseline), ' (the baseline): ', partName(part) + ' ' + spread(part, baseline[part]) + '.');
  for (const v of done.filter((one) => one !== baseline && told(one, part)).sort((a, b) => told(b, part) - told(a, part))) {
    const found = v.against_baseline[part], kind = tone(told(v, part));
    say(v, strong(v), ': ' + partName(part) + ' ' + spread(part, v[part]) + ', ', element('span', {class: kind}, amount(part, found.difference) + (found.difference > 0 ? ' higher' : ' lower')),
      known(found.p) ? ' (' + chance(found.p) + ').' : '.');
  }
  const same = done.filter((v) => v !== baseline && !told(v, part) && v.against_baseline && v.against_baseline[part]);
  const seen = same.map((v) => v.against_baseline[part].smallest_detectable).filter((size) => size > 0);
  if (same.length) say(null, 'No difference seen for ', listed(same.map((v) => v.name)), seen.length ? '; ' + doneRuns(same[0]) + ' seeds could have shown ' + amount(part, Math.max(...seen)) + ' or more.' : '.');
  for (const [status, words] of [['diverged', 'diverged'], ['failed', 'could not be trained']]) {
    const those = variants.filter((v) => v.status === status);
    if (those.length) lines.push(element('li', {style: '--colour: var(--bad)'}, listed(those.map((v) => v.name)), ' ' + words + '; the table says why.'));
  }
  return lines;
}
function figures() {
  const runs = variants.flatMap((v) => v.runs), ended = runs.filter((run) => !['running', 'missing'].includes(run.status)).length, list = [];
  const units = {steps: ' steps', tokens: ' tokens', seconds: '', flops: ' FLOPs'}, budget = summary.budget;
  if (known(budget)) list.push(['Held equal', (summary.equal === 'seconds' ? duration(budget) : summary.equal === 'steps' ? grouped(budget) : compact(budget)) + (units[summary.equal] ?? ''), 'a run']);
  list.push(['Variants', String(variants.length), (summary.seeds || []).length + ' seeds each']);
  list.push(['Runs that ended', ended + ' of ' + runs.length, '']);
  const time = runs.map((run) => run.seconds).filter(known);
  if (time.length) list.push(['Time of training', duration(time.reduce((a, b) => a + b)), 'all runs together']);
  const fastest = variants.filter((v) => v.status === 'done' && known(v.tokens_per_second)).sort((a, b) => b.tokens_per_second - a.tokens_per_second)[0];
  if (fastest) list.push(['Fastest', fastest.name.length > 18 ? fastest.name.slice(0, 17) + '…' : fastest.name, compact(fastest.tokens_per_second) + ' tokens/s' + (baseline && baseline.tokens_per_second && fastest !== baseline ? ', ' + trim((fastest.tokens_per_second / baseline.tokens_per_second).toPrecision(3)) + ' × ' + baseline.name : '')]);
  return list;
}
const part = (name, content, open) => element('details', open ? {open: ''} : {}, element('summary', {}, name), content);
const written = (value) => value && typeof value === 'object' ? JSON.stringify(value) : typeof value === 'string' ? '"' + value + '"' : String(value);
function changes() {  // as the recipe sets them; in the resolved recipes, where more follows from that
  const arrow = (d) => element('div', {}, element('code', {}, d.key + ': ' + (known(d.baseline) ? written(d.baseline) : '–') + ' → ' + (known(d.variant) ? written(d.variant) : '–')));
  const rows = variants.map((v) => {
    const set = Object.entries(v.set || {}), more = (v.recipe_difference || []).filter((d) => !set.some(([name]) => name === d.key));
    return element('tr', {}, element('td', {}, ...label(v)), element('td', {},
      ...(set.length ? set.map(([name, value]) => element('div', {}, element('code', {}, name + ' = ' + written(value)))) : [element('span', {class: 'soft'}, 'the recipe as it is')]),
      ...(more.length ? [element('details', {class: 'inner'}, element('summary', {}, 'and what follows from it'), ...more.map(arrow))] : [])));
  });
  return part('What differs', element('table', {}, ...rows), true);
}
function runTable() {
  const head = ['Variant', 'Seed', 'Status', capital(partName('metric')), 'Loss', 'Time', 'Tokens', 'Spikes', 'Largest gradient', 'Folder'];
  const rows = variants.flatMap((v) => v.runs.map((run) => element('tr', {}, ...[element('span', {}, ...label(v)), known(run.seed) ? String(run.seed) : '–',
    element('span', {class: run.failure ? 'bad' : ''}, run.failure ? statusWords[run.status] + ': ' + run.failure : statusWords[run.status] || run.status),
    known(run.metric) ? format(metricName(), run.metric) : '–', known(run.loss) ? run.loss.toPrecision(5) : '–', known(run.seconds) ? duration(run.seconds) : '–',
    known(run.tokens) ? compact(run.tokens) : '–', known(run.spikes) ? String(run.spikes) : '–', known(run.largest_gradient_norm) ? plain(Number(run.largest_gradient_norm.toPrecision(3))) : '–',
    element('code', {}, run.folder || '–')].map((cell) => element('td', {}, cell)))));
  return part('Every run', element('div', {class: 'scroll'}, element('table', {}, element('thead', {}, element('tr', {}, ...head.map((name) => element('th', {scope: 'col'}, name)))), element('tbody', {}, ...rows))));
}
function again() {
  const copy = element('button', {type: 'button', class: 'small'}, 'copy');
  copy.onclick = () => navigator.clipboard ? navigator.clipboard.writeText(summary.command).then(() => { copy.textContent = 'copied'; }) : null;
  return part('To repeat it', element('div', {class: 'command'}, element('pre', {}, summary.command || ''), ...(navigator.clipboard ? [copy] : [])), true);
}
function show(next) {
  summary = next;
  variants = (summary.variants || []).map((v) => ({...v, name: String(v.name), runs: v.runs || [], status: v.status || 'missing'}));
  baseline = variants.find((v) => v.baseline) || null;
  let count = 0;  // the baseline is grey; colours begin again, dashed, after nine
  for (const v of variants) {
    v.colour = v.baseline ? 0 : 1 + count % 9;
    v.dash = v.baseline || count < 9 ? [] : [6, 3];
    if (!v.baseline) ++count;
  }
  const recipe = String(summary.recipe || 'Comparison').split('/').pop().replace(/\.toml$/, '');
  byId('title').textContent = recipe + ': ' + variants.length + ' variants compared';
  document.title = byId('title').textContent;
  byId('when').textContent = (summary.date || '').slice(0, 16).replace('T', ' ');
  byId('lead').replaceChildren(...findings());
  showFigures(figures());
  drawTable();
  byId('explain').textContent = '± is the standard deviation over seeds. Differences are paired by seed; p is the chance of one this large where there is none. ' +
    'Beside differences that were not seen stands the smallest that this many seeds would have detected four times in five. ‖g‖ is the largest gradient norm. Latency is of one forward pass: one item, and the training batch. The best of a column stands in bold.' +
    (known(summary.jobs) && known(summary.threads_per_job) ? ' Speeds were measured with ' + summary.jobs + (summary.jobs === 1 ? ' run' : ' runs') + ' at a time, ' + summary.threads_per_job + (summary.threads_per_job === 1 ? ' thread' : ' threads') + ' each.' : '');
  drawBar();
  draw();
  byId('changes').replaceChildren(changes());
  byId('runs').replaceChildren(runTable());
  byId('about').replaceChildren(element('div', {}, again(), ...(summary.baseline_recipe ? [part('The baseline’s recipe', element('pre', {}, summary.baseline_recipe.trim()))] : [])), ...(summary.machine && Object.keys(summary.machine).length ? [part('Machine and versions', table(summary.machine), true)] : []));
  byId('foot').textContent = 'Written by Formwork' + (summary.machine && summary.machine.formwork ? ' ' + summary.machine.formwork : '') + '.';
}
theme(stored || (dark.matches ? 'dark' : 'light'));
show(summary);

// Served by `compare --watch`, the page asks for its own next version and keeps what was chosen.
if (['127.0.0.1', 'localhost'].includes(location.hostname)) {
  const unfinished = () => known(summary.complete) ? !summary.complete : variants.some((v) => v.runs.some((run) => ['running', 'missing'].includes(run.status)) || ['running', 'missing'].includes(v.status));
  const state = byId('foot').appendChild(element('span', {id: 'live'}));
  const ask = async () => {
    try {
      const text = new DOMParser().parseFromString(await (await fetch(location.href, {cache: 'no-store'})).text(), 'text/html').getElementById('data').textContent;
      if (text !== byId('data').textContent) {
        byId('data').textContent = text;
        show(JSON.parse(text));
      }
      state.textContent = unfinished() ? ' It follows the comparison that runs.' : '';
    } catch { state.textContent = ' The comparison no longer answers; this is what it showed last.'; }
    byId('foot').append(state);
    if (unfinished()) setTimeout(ask, 2000);
  };
  setTimeout(ask, 1000);
}

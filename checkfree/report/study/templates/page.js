// What moves in the page: it picks traces by the reader's choices and hands them to plotly.
// ``data`` in the page: ``curves``, ``gaps``, ``ledger``, ``frontier`` (traces with ``keys``),
// ``panels`` (the timeline), ``layouts`` by plot, ``axes`` and ``spends`` (titles), ``labels`` and
// ``start`` (the first choices).
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const state = {...data.start, hidden: new Set()};
const byId = (id) => document.getElementById(id);
const narrow = () => window.innerWidth < 700;
const coarse = window.matchMedia('(pointer: coarse)').matches;
const config = {
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: '',
  displayModeBar: coarse ? true : 'hover',
  modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d', 'sendChartToCloud'],
  toImageButtonOptions: {scale: 2}, showTips: false,
};

function finite(values) { return values.filter((v) => v !== null && Number.isFinite(v)); }

function show(id, traces, layout) {
  const box = byId(id), empty = byId(id + '-empty');
  empty.hidden = traces.length > 0;
  box.hidden = traces.length === 0;
  if (!traces.length) return;
  box.style.height = `${layout.height}px`;  // what plotly measures when the window changes
  layout.hoverlabel = {...layout.hoverlabel, namelength: narrow() ? 22 : -1};
  // A finger that scrolls the page must not zoom; the bar above the plot has a button for it.
  layout.dragmode = coarse ? false : 'zoom';
  Plotly.react(box, traces, layout, config);
}

const extremes = (values) => values.reduce(
  ([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);

// The last two thirds, where strategies differ and the first fall no longer hides it.
function late(traces) {
  const [first, last] = extremes(finite(traces.flatMap((t) => t.x)));
  return [first + (last - first) / 3, last + (last - first) / 60];
}

// Means and single runs decide what is in view, wide bands only by a quarter more.
function range(traces, cut) {
  const lines = traces.filter((t) => t.keys.part !== 'band');
  const within = (t) => finite(t.y.filter((_, i) => t.x[i] !== null && t.x[i] >= cut));
  let ys = lines.flatMap(within);
  if (!ys.length) ys = finite(lines.flatMap((t) => t.y));
  if (!ys.length) return undefined;
  let [low, high] = extremes(ys);
  const span = high - low || Math.abs(high) / 10 || 1;
  const bands = traces.filter((t) => t.keys.part === 'band').flatMap(within);
  if (bands.length) {
    const [bottom, top] = extremes(bands);
    low = Math.max(Math.min(low, bottom), low - span / 4);
    high = Math.min(Math.max(high, top), high + span / 4);
  }
  return [low - 0.04 * span, high + 0.04 * span];
}

function pick(traces, keys) {
  return traces.filter((t) => !state.hidden.has(t.keys.label)
    && Object.entries(keys).every(([key, value]) => t.keys[key] === value));
}

function drawCurves() {
  const keys = {rate: state.rate, axis: state.axis, kind: state.kind};
  const all = pick(data.curves, keys);
  // A strategy whose seeds have no common stretch has no mean: then its seeds are the curve.
  const averaged = new Set(all.filter((t) => t.keys.part === 'mean').map((t) => t.keys.label));
  const traces = all.filter((t) => t.keys.part !== 'seed' || state.seeds
    || !averaged.has(t.keys.label));
  const layout = structuredClone(data.layouts.curves);
  layout.xaxis.title.text = data.axes[state.axis];
  layout.yaxis.title.text = `${state.kind} loss (nats per token)`;
  const within = state.near ? late(traces) : undefined;
  layout.xaxis.range = within;
  layout.yaxis.range = range(traces, within ? within[0] : -Infinity);
  layout.height = narrow() ? 380 : 480;
  layout.hovermode = state.axis === 'iterations' && !narrow() ? 'x unified' : 'closest';
  layout.uirevision = [state.rate, state.axis, state.kind, state.near].join();
  show('curves', traces, layout);
  const missing = data.labels.filter((label) => !state.hidden.has(label)
    && data.curves.some((t) => t.keys.label === label && t.keys.rate === state.rate)
    && !all.some((t) => t.keys.label === label));
  byId('curves-missing').textContent = missing.length
    ? `Not known on this axis: ${missing.map((l) => data.names[l]).join(', ')}.` : '';
}

function drawGaps() {
  const traces = pick(data.gaps, {rate: state.rate});
  const layout = structuredClone(data.layouts.gaps);
  layout.yaxis.range = range(traces, -Infinity);
  layout.hovermode = narrow() ? 'closest' : 'x unified';
  layout.uirevision = state.rate;
  show('gaps', traces, layout);
}

function drawTimeline() {
  const panel = data.panels.find((p) => p.keys.rate === state.rate && p.keys.seed === state.seed);
  show('timeline', panel ? panel.traces : [], panel ? structuredClone(panel.layout) : {});
}

function drawLedger() {
  const traces = data.ledger.filter((t) => t.keys.rate === state.rate
    && t.keys.measure === state.measure);
  const layout = structuredClone(data.layouts.ledger);
  layout.xaxis.title.text = state.measure === 'seconds'
    ? 'simulated hours of a whole run' : 'GiB sent in a whole run';
  const bars = traces.length ? traces[0].y.length : 0;
  layout.height = 90 + (narrow() ? 56 : 44) * bars;
  if (narrow()) {  // names above the bars, where they take no width from them
    layout.margin.l = 4;
    layout.yaxis.showticklabels = false;
    layout.bargap = 0.55;
    layout.annotations = traces.length ? traces[0].y.map((name) => ({
      x: 0, y: name, xref: 'paper', yref: 'y', xanchor: 'left', yanchor: 'bottom', yshift: 11,
      text: name.replaceAll('<br>', ' '), showarrow: false, font: {size: 12},
    })) : [];
  }
  layout.uirevision = [state.rate, state.measure].join();
  show('ledger', traces, layout);
}

function drawFrontier() {
  const traces = pick(data.frontier, {rate: state.rate, spend: state.spend});
  const layout = structuredClone(data.layouts.frontier);
  layout.xaxis.title.text = data.spends[state.spend];
  layout.uirevision = [state.rate, state.spend].join();
  show('frontier', traces, layout);
}

const plots = {
  curves: drawCurves, gaps: drawGaps, timeline: drawTimeline, ledger: drawLedger,
  frontier: drawFrontier,
};
function draw() {
  for (const [id, one] of Object.entries(plots)) if (byId(id)) one();
}

function press() {
  for (const button of document.querySelectorAll('[data-key] button')) {
    const chosen = String(state[button.parentElement.dataset.key]) === button.dataset.value;
    button.setAttribute('aria-pressed', chosen);
  }
  for (const button of document.querySelectorAll('[data-flag]')) {
    button.setAttribute('aria-pressed', state[button.dataset.flag]);
  }
  for (const button of document.querySelectorAll('[data-label]')) {
    button.setAttribute('aria-pressed', !state.hidden.has(button.dataset.label));
  }
}

document.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  const {key} = button.parentElement.dataset, {value, flag, label} = button.dataset;
  if (key) state[key] = typeof state[key] === 'number' ? Number(value) : value;
  else if (flag) state[flag] = !state[flag];
  else if (label !== undefined && !state.hidden.delete(label)) state.hidden.add(label);
  else if (label === undefined) return;
  press();
  draw();
});

let wasNarrow = narrow();
window.addEventListener('resize', () => {
  if (narrow() !== wasNarrow) { wasNarrow = narrow(); draw(); }
});
const drawn = () => [...document.querySelectorAll('.js-plotly-plot')];
window.addEventListener('beforeprint', () => {
  for (const details of document.querySelectorAll('details')) details.open = true;
  for (const plot of drawn()) Plotly.relayout(plot, {width: 680});
});
window.addEventListener('afterprint', () => {
  for (const plot of drawn()) Plotly.relayout(plot, {width: null, autosize: true});
});
press();
draw();
document.documentElement.dataset.drawn = 'yes';

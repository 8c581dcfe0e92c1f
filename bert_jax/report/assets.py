"""The style sheet and the script of the report page. Both are part of the page."""

# Colours c0 to c6 after Okabe and Ito (2008), "Color Universal Design", shifted for contrast with either page.
CSS = """
:root { color-scheme: light; --page: #fdfdfc; --ink: #1d2126; --soft: #5f6770; --rule: #e3e4e2; --well: #f4f4f1;
  --grid: #ececea; --heat: 0,98,168; --warn: #8f5300; --c0: #0067ad; --c1: #b83c00; --c2: #007d5a; --c3: #b95f94;
  --c4: #cc9400; --c5: #3d9bd0; --c6: #30363d; --rest: #a9aeb4; --train: #8d949c }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --page: #15181c; --ink: #e4e6e8; --soft: #9aa2ab; --rule: #30353b; --well: #1d2126;
    --grid: #262b31; --heat: 86,170,233; --warn: #e0a04c; --c0: #4a9fe8; --c1: #ea6a2c; --c2: #2db88d; --c3: #dd94bd;
    --c4: #ecc04e; --c5: #9fd6f7; --c6: #f4f4f4; --rest: #5b636c; --train: #7d858e }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0 auto; max-width: 1180px; padding: 40px 28px 64px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 6px; font-weight: 650 }
h2 { font-size: 23px; letter-spacing: -.01em; margin: 60px 0 0; padding-top: 18px; border-top: 2px solid var(--ink);
  font-weight: 650 }
h3 { font-size: 17px; margin: 38px 0 8px; font-weight: 650 }
p { margin: 0 0 10px; max-width: 72ch }
.lead,.hint,footer { color: var(--soft) }
.hint { font-size: 14px }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; margin-top: 14px; font-size: 15px }
a { color: var(--c0); text-decoration: none }
a:hover { text-decoration: underline }
aside { margin: 22px 0 0; padding: 2px 0 2px 16px; border-left: 3px solid var(--warn); font-size: 15px }
aside b { color: var(--warn) }
aside ul { margin: 4px 0; padding-left: 18px }
footer { margin-top: 64px; font-size: 13px; border-top: 1px solid var(--rule); padding-top: 12px }
.scroll { overflow-x: auto; margin: 0 0 8px }
table { border-collapse: separate; border-spacing: 0; font-size: 15px; line-height: 1.35 }
th,td { text-align: left; vertical-align: top; padding: 7px 22px 7px 0; border-bottom: 1px solid var(--rule);
  overflow-wrap: normal }
thead th { font-weight: 500; font-size: 13px; color: var(--soft); vertical-align: bottom;
  border-bottom: 1px solid var(--soft); white-space: nowrap }
thead th small { display: block; font-size: 12px; opacity: .85 }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--page); min-width: 9ch; max-width: 34ch;
  overflow-wrap: break-word }
td.n,th.n { text-align: right }
td.n { white-space: nowrap }
td.best { font-weight: 650 }
td small { font-size: 1em; font-weight: 400; color: var(--soft) }
td.long { min-width: 26ch; max-width: 60ch; overflow-wrap: anywhere }
tr:last-child>* { border-bottom-color: var(--soft) }
tr.sum>* { color: var(--soft) }
tr.hot>* { background: var(--well) }
.chip { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 9px; vertical-align: middle;
  background: var(--k) }
.c0 { --k: var(--c0) }
.c1 { --k: var(--c1) }
.c2 { --k: var(--c2) }
.c3 { --k: var(--c3) }
.c4 { --k: var(--c4) }
.c5 { --k: var(--c5) }
.c6 { --k: var(--c6) }
.rest { --k: var(--rest) }
.train { --k: var(--train) }
.strip { display: block; width: 120px; height: 16px; margin: 3px 0 0 auto }
.inline .strip { float: left; margin: 2px 16px 0 0 }
.strip path { fill: none; stroke: var(--k) }
.strip .base { stroke: var(--rule) }
.strip .dots { stroke-width: 6; stroke-linecap: round; opacity: .55 }
.strip .mean { stroke-width: 2 }
.charts { display: grid; grid-template-columns: repeat(auto-fill,minmax(min(100%,430px),1fr)); gap: 30px 34px;
  margin-top: 14px }
figure { margin: 0; break-inside: avoid; min-width: 0 }
figcaption { font-size: 14px; color: var(--soft); margin-bottom: 10px }
figcaption b { color: var(--ink); font-weight: 600 }
.plot { position: relative; height: 190px; margin: 0 calc(var(--names) + 22px) 24px 46px; font-size: 12px;
  line-height: 15px; touch-action: pan-y }
.plot>svg { display: block; width: 100%; height: 100%; overflow: visible }
.plot path { fill: none; stroke: var(--k); vector-effect: non-scaling-stroke }
.plot .grid { stroke: var(--grid); stroke-width: 1 }
.plot .line { stroke-width: 2; stroke-linejoin: round }
.rest .line,.train .line { stroke-width: 1.25 }
.plot .dots { stroke-width: 5.5; stroke-linecap: round }
.plot .band { fill: var(--k); stroke: none; opacity: .15 }
.plot .cross { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3 }
.plot i,.plot em { position: absolute; font-style: normal; color: var(--soft); white-space: nowrap }
.y i { right: calc(100% + 8px); transform: translateY(-50%) }
.x i { top: calc(100% + 6px); transform: translateX(-50%) }
.x em { left: calc(100% + 22px); top: calc(100% + 6px) }
.names span { position: absolute; left: calc(100% + 9px); width: calc(var(--names) + 14px); transform: translateY(-50%);
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.names span::before { content: ""; display: inline-block; width: 7px; height: 7px; border-radius: 50%;
  margin-right: 5px; background: var(--k) }
.tip { position: absolute; pointer-events: none; z-index: 2; padding: 3px 9px; border-radius: 5px;
  background: var(--ink); color: var(--page); white-space: nowrap; font-size: 13px; line-height: 18px;
  max-width: 80vw; overflow: hidden; text-overflow: ellipsis;
  transform: translate(-50%,calc(-100% - 10px)) }
.pick [data-v]:not(.hot) { opacity: .16 }
.pick tr[data-v]:not(.hot) { opacity: 1 }
.pick g.rest.hot { --k: var(--ink) }
.heat { font-size: 13px }
.heat td { text-align: right; min-width: 46px; padding: 5px 8px; border: 1px solid var(--page);
  background: rgba(var(--heat),var(--a)); print-color-adjust: exact; -webkit-print-color-adjust: exact }
.heat th { padding: 5px 10px 5px 0; border: 0; max-width: 22ch }
.heat thead th { padding: 4px 8px; text-align: right; white-space: normal }
.heat.tall thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; vertical-align: top;
  padding: 8px 4px }
.heat td.diagonal { font-weight: 650 }
.cards { display: grid; grid-template-columns: repeat(auto-fill,minmax(min(100%,430px),1fr)); gap: 14px }
.card { background: var(--well); border-radius: 8px; padding: 12px 16px; font-size: 15px; break-inside: avoid;
  min-width: 0 }
.card p { margin: 0 0 8px; max-height: 12em; overflow: auto }
.card dl { display: grid; grid-template-columns: max-content minmax(0,1fr); gap: 2px 14px; margin: 0; font-size: 14px }
.card dt { color: var(--soft) }
.card dd { margin: 0 }
.card ruby { margin-right: .28em }
.card rt { color: var(--c0); font-size: 11px }
.wrong { color: var(--c1); font-weight: 600 }
.bar { display: grid; grid-template-columns: minmax(0,11ch) 1fr 5ch; gap: 0 8px; align-items: center; font-size: 13px }
.bar s { height: 7px; border-radius: 2px; background: rgba(var(--heat),.7); width: calc(100%*var(--p)); min-width: 1px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
.bar u { text-decoration: none; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
details { margin-top: 10px }
details>summary { cursor: pointer; padding: 5px 0; font-weight: 500; width: fit-content }
details.fold { border-top: 1px solid var(--rule); margin-top: 26px; padding-top: 8px }
details.fold+details.fold { margin-top: 6px }
.lines { background: var(--well); border-radius: 8px; padding: 12px 16px; margin: 0; overflow-x: auto;
  white-space: pre-wrap; font: 14px/1.65 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace }
code { font: .88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace }
@media (max-width: 640px) {
  body { padding: 24px 16px 48px; font-size: 15px }
  h1 { font-size: 25px }
  h2 { font-size: 21px; margin-top: 46px }
  table { font-size: 14px }
  th,td { padding-right: 16px }
  .strip { width: 96px }
  tbody th { min-width: 13ch; max-width: 42vw }
  .inline .strip { float: none; margin: 3px 0 0 auto }
  .plot { margin-left: 42px; margin-right: calc(min(var(--names),15ch) + 18px); font-size: 11px }
  .names span { width: calc(min(var(--names),15ch) + 12px) }
}
@media print {
  :root { --page: #fff }
  body { max-width: none; padding: 0; font-size: 11pt }
  nav,.hint.screen { display: none }
  h2,h3,summary { break-after: avoid }
  .scroll { overflow: visible }
  tr { break-inside: avoid }
  tbody th { position: static }
  th,td { padding-top: 4px; padding-bottom: 4px }
  .charts { grid-template-columns: 1fr 1fr }
  .card p { max-height: none }
}
"""

# A pointer over a chart shows name and value of the nearest line. A pointer over a line or a table row highlights its
# variant in the whole section. Values are computed from the drawn path, so the page contains each curve only once.
SCRIPT = """
function pick(section, v) {
  section.classList.toggle('pick', v !== null);
  for (const e of section.querySelectorAll('[data-v]')) e.classList.toggle('hot', e.dataset.v === v);
}
for (const section of document.querySelectorAll('section')) {
  for (const e of section.querySelectorAll('tr[data-v],.names [data-v]')) {
    e.onpointerenter = () => pick(section, e.dataset.v);
    e.onpointerleave = () => pick(section, null);
  }
}
for (const plot of document.querySelectorAll('.plot')) {
  const [steps, low, high, logarithmic] = plot.dataset.axes.split(' ').map(Number);
  const tip = plot.querySelector('.tip'), cross = plot.querySelector('.cross'), svg = plot.querySelector('svg');
  const several = plot.closest('section').querySelectorAll('tr[data-v]').length > 1;
  const lines = [...plot.querySelectorAll('g')].map(g => ({
    v: g.dataset.v, name: g.dataset.name,
    points: g.querySelector('.line').getAttribute('d').slice(1).split('L').map(p => p.split(' ').map(Number)),
  }));
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect();
    let best = null;
    for (const line of lines) for (const [x, y] of line.points) {
      const dx = x / 1000 * box.width + box.x - event.clientX, dy = y / 1000 * box.height + box.y - event.clientY;
      const d = dx * dx + dy * dy / 4;
      if (!best || d < best.d) best = {d, x, y, line};
    }
    const share = 1 - best.y / 1000;
    const value = logarithmic ? low * (high / low) ** share : low + share * (high - low);
    const step = Math.round(best.x / 1000 * steps).toLocaleString('en');
    tip.textContent = `${Number(value.toPrecision(4))} at step ${step}: ${best.line.name}`;
    tip.hidden = false;
    const half = tip.offsetWidth / 2, at = best.x / 1000 * box.width;
    tip.style.left = Math.min(Math.max(at, half - 40), innerWidth - box.x - half - 8) + 'px';
    tip.style.top = best.y / 10 + '%';
    cross.setAttribute('d', `M${best.x} 0V1000`);
    if (several && best.line.v) pick(plot.closest('section'), best.line.v);
  };
  svg.onpointerleave = () => {
    tip.hidden = true;
    cross.setAttribute('d', '');
    pick(plot.closest('section'), null);
  };
}
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(d => d.open = true));
"""

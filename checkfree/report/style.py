"""How the page looks: one column, quiet lines, numbers that stand under each other."""

STYLE = """
:root { --ink: #1a1a1a; --soft: #5f6368; --line: #e3e3e0; --ground: #f7f7f5; --accent: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; color: var(--ink); background: #fff; overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 8px;
  text-wrap: balance; }
h2 { font-size: 21px; line-height: 1.3; letter-spacing: -.01em; margin: 56px 0 6px;
  padding-top: 18px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 28px 0 6px; }
p { margin: 6px 0 12px; max-width: 74ch; }
p.lead { font-size: 17px; color: var(--soft); margin-bottom: 18px; }
p.note, .missing { color: var(--soft); font-size: 14px; }
.missing:empty { display: none; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px; margin: 18px 0 8px; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
ul.notes { margin: 14px 0; padding: 12px 16px 12px 34px; background: var(--ground);
  border-left: 3px solid #e69f00; font-size: 14.5px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--ground); padding: 14px 16px; overflow-x: auto; border-radius: 6px;
  margin: 8px 0; }
pre mark { background: #ffe9b8; color: inherit; font-weight: 600; padding: 1px 0; }

.box { overflow-x: auto; margin: 14px -2px; border-bottom: 1px solid var(--line); }
.box:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 8px 8px; vertical-align: top; white-space: nowrap;
  border-top: 1px solid var(--line); }
th { font-weight: 600; }
thead th { border-top: 0; border-bottom: 1px solid #bbb; color: var(--soft); font-size: 12.5px;
  line-height: 1.35; vertical-align: bottom; white-space: normal; min-width: 58px; }
th:first-child, td.text, th.text { text-align: left; }
tbody th { position: sticky; left: 0; background: #fff; z-index: 1; white-space: normal;
  min-width: 142px; max-width: 250px; font-weight: 600; line-height: 1.35; padding-left: 2px; }
thead th:first-child { position: sticky; left: 0; background: #fff; z-index: 2; padding-left: 2px; }
td.text { white-space: normal; min-width: 150px; max-width: 420px; }
td code { overflow-wrap: anywhere; white-space: normal; }
tr.end td { text-align: left; border-top: 0; padding: 0 2px 12px; white-space: normal; }
tr.end div { position: sticky; left: 2px; font-size: 13px; color: var(--soft);
  width: min(88ch, 100vw - 60px); }
tr.rate th { position: static; background: none; padding: 18px 2px 6px; border-top: 0;
  color: var(--soft); font-size: 12.5px; font-weight: 600; white-space: nowrap; max-width: none; }
tr.rate span { position: sticky; left: 2px; }
td small, th small { display: block; color: var(--soft); font-weight: 400; font-size: 12px;
  line-height: 1.4; }
.bad { color: #a33b00; font-weight: 600; }
svg.swatch { width: 30px; height: 10px; margin-right: 7px; vertical-align: middle;
  overflow: visible; }

.tile { width: 16px; height: 12px; margin-right: 6px; display: inline-block;
  box-shadow: 0 0 0 1px #0001; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin: 14px 0 8px;
  font-size: 14px; }
.controls .what { color: var(--soft); margin-right: 7px; }
.choice { display: inline-flex; border: 1px solid #c9c9c6; border-radius: 6px; overflow: hidden; }
.group { display: inline-flex; align-items: center; flex-wrap: wrap; gap: 4px 0; max-width: 100%; }
button { font: inherit; color: inherit; cursor: pointer; background: #fff; border: 0;
  padding: 5px 11px;
  min-height: 32px; }
button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.choice button + button { border-left: 1px solid #dcdcd9; }
button:hover { background: var(--ground); }
.choice button[aria-pressed=true], .toggle[aria-pressed=true] { background: var(--ink);
  color: #fff; }
.toggle { border: 1px solid #c9c9c6; border-radius: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 6px; margin: 4px -8px 6px; font-size: 13.5px; }
.legend button, .legend span { padding: 3px 8px; border-radius: 6px; text-align: left;
  display: inline-flex; align-items: center; min-height: 30px; }
.legend button[aria-pressed=false] { color: #767676; text-decoration: line-through; }
.legend button[aria-pressed=false] svg { opacity: .25; }
.plot { width: 100%; min-height: 200px; }
.plot[hidden] { display: none; }
.empty { color: var(--soft); background: var(--ground); padding: 28px 16px; border-radius: 6px;
  max-width: none; text-align: center; }
details { margin: 8px 0; border-top: 1px solid var(--line); padding-top: 8px; }
summary { cursor: pointer; font-weight: 600; font-size: 14.5px; }
footer { margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 13px; }

@media (max-width: 700px) {
  main { padding: 24px 16px 56px; }
  h1 { font-size: 25px; }
  h2 { font-size: 19px; margin-top: 44px; }
  th, td { padding: 8px 9px; }
  tbody th { min-width: 128px; max-width: 150px; font-size: 13px;
   box-shadow: 1px 0 0 var(--line); }
  tr.rate th { box-shadow: none; }
  th .swatch { display: block; margin-bottom: 5px; }
  .choice { flex-wrap: wrap; }
  .choice button { padding: 5px 9px; }
}
@media print {
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  nav, .controls, .modebar-container { display: none !important; }
  .box { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: 3px 4px; min-width: 0 !important; white-space: normal; }
  .plot, tr, h2, h3 { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  a { color: inherit; text-decoration: none; }
  pre { white-space: pre-wrap; }
  .legend button[aria-pressed=false] { display: none; }
}
"""

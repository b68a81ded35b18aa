"""The style sheet of pages and drawings: one column of text, tables as in print, light, dark and on paper."""

LIGHT = {
    "paper": "#fff", "ink": "#1b1f24", "muted": "#5a6470", "rule": "#d5dae0", "strong": "#1b1f24", "tint": "#f4f6f8",
    "accent": "#1f5582", "tuned": "#0f7358", "untrained": "#97600a", "control": "#69727d",
    "band": "rgba(105, 114, 125, .15)",
}  # fmt: skip
"""Colours by their role on a light ground."""

DARK = {
    "paper": "#14171a", "ink": "#e3e6ea", "muted": "#9aa4af", "rule": "#353c44", "strong": "#aab3bd", "tint": "#1c2126",
    "accent": "#7db4e3", "tuned": "#5fcaa4", "untrained": "#e0ae5c", "control": "#a3acb6",
    "band": "rgba(163, 172, 182, .16)",
}  # fmt: skip
"""The same roles on a dark ground."""

SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())


_ROOT = f"""
:root {{
  color-scheme: light dark;
  {_variables(LIGHT)}
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, Charter, "Liberation Serif", Georgia, serif;
  --sans: {SANS};
}}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {_variables(DARK)} }}
}}
"""

DRAWING = """svg text { fill: var(--ink); font-size: 13px; }
svg .tick, svg .axis { fill: var(--muted); font-size: 12px; text-anchor: middle; font-variant-numeric: tabular-nums; }
svg .side { fill: var(--muted); font-size: 12px; text-anchor: end; font-variant-numeric: tabular-nums; }
svg .value { text-anchor: end; font-weight: 600; font-variant-numeric: tabular-nums; }
svg .aside { fill: var(--muted); font-size: 11.5px; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .zero, svg .base { stroke: var(--strong); stroke-width: 1; }
svg .band { fill: var(--band); } svg .range { fill: var(--accent); fill-opacity: .14; }
svg .range.tuned { fill: var(--tuned); }
svg .reference { stroke: var(--control); stroke-width: 1.3; stroke-dasharray: 4 3; }
svg .dot { fill-opacity: .55; }
svg .dot.pretrained { fill: var(--accent); } svg .dot.random { fill: var(--untrained); }
svg .dot.control { fill: var(--control); }
svg .bar { fill: none; stroke-width: 1.6; }
svg .mean { stroke-width: 2; stroke: var(--paper); }
svg .bar.pretrained { stroke: var(--accent); } svg .mean.pretrained { fill: var(--accent); }
svg .bar.random { stroke: var(--untrained); }
svg .mean.random { fill: var(--paper); stroke: var(--untrained); stroke-width: 2.4; }
svg .dot.tuned { fill: var(--tuned); }
svg .bar.tuned { stroke: var(--tuned); } svg .mean.pretrained.tuned { fill: var(--tuned); }
svg .mean.random.tuned { stroke: var(--tuned); }
svg .bar.control { stroke: var(--control); } svg .mean.control { fill: var(--control); }
svg .course { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-linejoin: round; }
svg .course.train { stroke: var(--control); stroke-width: 1.3; stroke-dasharray: 5 2.5; }
svg .point { fill: var(--accent); } svg .point.train { fill: var(--control); }
svg .kept { fill: var(--accent); stroke: var(--paper); stroke-width: 1.6; }
"""
"""Rules of what is drawn, on the page and in files of their own."""

STYLE = (
    _ROOT
    + """* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 var(--serif);
  overflow-wrap: break-word; }
main, header.top, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem; }
header.top { padding-top: 3.5rem; }
h1 { font-size: 2.05rem; line-height: 1.18; font-weight: 600; letter-spacing: -.012em; margin: 0 0 .6rem;
  text-wrap: balance; }
h2 { font-size: 1.42rem; line-height: 1.28; font-weight: 600; margin: 0 0 .9rem; text-wrap: balance; }
h3 { font: 600 .9rem/1.4 var(--sans); margin: 2rem 0 .4rem; }
p { margin: 0 0 .8rem; max-width: 43rem; }
a { color: var(--accent); text-decoration-thickness: .06em; text-underline-offset: .18em; }
a:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
.stamp, .eyebrow, .aside-note { font: .86rem/1.5 var(--sans); color: var(--muted); }
.stamp { max-width: none; overflow-wrap: anywhere; }
.eyebrow { margin: 0 0 .25rem; }
.eyebrow b { color: var(--ink); font-weight: 600; }
section { border-top: 1px solid var(--rule); margin-top: 3rem; padding-top: 1.9rem; }
.facts { display: flex; flex-wrap: wrap; gap: .7rem 2.2rem; margin: 0 0 1.2rem; font-family: var(--sans); }
.facts div { display: flex; flex-direction: column-reverse; }
.facts dt { font-size: .8rem; color: var(--muted); }
.facts dd { margin: 0; font-size: 1.22rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.reading { border-left: 3px solid var(--accent); padding-left: 1rem; margin: 0 0 1.1rem; }
.reading p { font-size: 1.13rem; }
.reading p:last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; margin: 1.2rem 0 .4rem; }
table { border-collapse: collapse; font: .88rem/1.4 var(--sans); font-variant-numeric: tabular-nums lining-nums;
  border-top: 2px solid var(--strong); border-bottom: 2px solid var(--strong); min-width: min(100%, 24rem); }
table.wide { width: 100%; }
caption { text-align: left; padding: 0 0 .45rem; color: var(--muted); font-size: .86rem; }
thead th { border-bottom: 1px solid var(--strong); vertical-align: bottom; font-weight: 600; }
th, td { padding: .42rem .6rem; text-align: left; vertical-align: baseline; font-weight: 400; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.number { text-align: right; }
td.number { white-space: nowrap; }
thead small { display: block; font-size: .9em; font-weight: 400; color: var(--muted); }
tr.quiet > * { color: var(--muted); background: var(--tint); }
sup { line-height: 0; font-size: .75em; margin-left: .1em; }
.footnotes { list-style: none; margin: 0 0 .6rem; padding: 0; font: .82rem/1.45 var(--sans); color: var(--muted); }
details { margin: .4rem 0 .6rem; }
summary { cursor: pointer; font: .88rem/1.5 var(--sans); color: var(--accent); }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.4rem 2.4rem;
  margin: 1.8rem 0 0; }
figure { margin: 0; max-width: 32rem; break-inside: avoid; }
figcaption { font: .82rem/1.45 var(--sans); color: var(--muted); margin-bottom: .7rem; }
figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; overflow: hidden; font-family: var(--sans); }
"""
    + DRAWING
    + """.methods { display: grid; grid-template-columns: minmax(7rem, 10rem) 1fr; gap: .6rem 1.6rem; margin: 0;
  font-size: .98rem; max-width: 52rem; }
.methods dt { font: 600 .88rem/1.75 var(--sans); }
.methods dd { margin: 0; }
footer { padding-top: 2.2rem; padding-bottom: 3rem; font: .82rem/1.5 var(--sans); color: var(--muted); }
@media (max-width: 40rem) {
  body { font-size: 1rem; }
  main, header.top, footer { padding-left: 1.1rem; padding-right: 1.1rem; }
  header.top { padding-top: 2rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.22rem; }
  .reading p { font-size: 1.05rem; }
  .facts { gap: .6rem 1.5rem; }
  .methods { grid-template-columns: 1fr; gap: .1rem; }
  .methods dd { margin-bottom: .7rem; }
}
@media screen and (max-width: 40rem) {
  .wide, .wide caption, .wide tbody, .wide tr { display: block; }
  .wide thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .wide tr { padding: .55rem .6rem; }
  .wide tbody tr + tr { border-top: 1px solid var(--rule); }
  .wide tr.quiet { background: var(--tint); }
  .wide { border-top: 0; }
  .wide tbody { border-top: 2px solid var(--strong); }
  .wide tbody tr > * { display: flex; justify-content: space-between; gap: .9rem; padding: .1rem 0; text-align: right;
    border: 0 !important; background: none; }
  .wide tbody th { font-weight: 600; text-align: left; padding-bottom: .25rem; }
  .wide td::before { content: attr(data-label); color: var(--muted); text-align: left; white-space: normal; }
  .wide td[data-detail]::before { content: attr(data-label) ", " attr(data-detail); }
  .wide tbody tr > *, .wide span { min-width: 0; overflow-wrap: anywhere; }
  .wide td.number span { flex: none; }
  .wide td:has(> span:empty) { display: none; }
}
@media print {
  @page { margin: 18mm 16mm; }
  body { font-size: 10pt; }
  main, header.top, footer { max-width: none; padding: 0; }
  h1 { font-size: 18pt; } h2 { font-size: 13pt; }
  h2, h3, caption, .eyebrow { break-after: avoid; }
  section { margin-top: 8mm; padding-top: 5mm; }
  tr, .scroll, .reading, .facts, .methods dd { break-inside: avoid; }
  table { font-size: 8.2pt; } .reading p { font-size: 10.5pt; }
  .scroll { overflow: visible; }
  .figures { grid-template-columns: 1fr 1fr; }
  a { color: inherit; text-decoration: none; }
  svg, tr.quiet > * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
"""Of the page."""


def drawing_style() -> str:
    """The rules of a drawing that is a file of its own: colours written out, for programs that know no variables."""
    dark = _written_out(DARK)
    return f"{_written_out(LIGHT)}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _written_out(colours: dict[str, str]) -> str:
    rules = f"svg {{ font-family: {SANS}; }}\nsvg .paper {{ fill: var(--paper); }}\n{DRAWING}"
    for role, colour in colours.items():
        rules = rules.replace(f"var(--{role})", colour)
    return rules

"""Style and script of the page that `report_html` writes: strings, so that they travel with the package."""

STYLE = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2563eb; --bad: #b45309; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1rem; margin-bottom: 1.2rem; }
header h2 { margin-top: 1rem; }
.hint { opacity: .75; max-width: 60rem; }
article, section { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 0 0 1rem; }
.columns { display: grid; grid-template-columns: 3fr 2fr; gap: 1.2rem; }
.waveform { width: 100%; height: 72px; display: block; background: var(--soft); border-radius: 4px; cursor: pointer; }
.waveform path { stroke: var(--accent); stroke-width: 1; }
.waveform .unheard { opacity: .35; }
.waveform line { stroke: currentColor; stroke-width: 1.5; vector-effect: non-scaling-stroke; visibility: hidden; }
audio { width: 100%; margin-top: .5rem; }
.caption { margin: .7rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: 0; }
dl div { min-width: 0; }
dt { font-size: .75rem; opacity: .65; }
dd { margin: 0; overflow-wrap: anywhere; }
.lyrics { margin: 0; padding: .7rem; max-height: 22rem; overflow: auto; background: var(--soft); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }
.lyrics a { cursor: pointer; }
.lyrics a:hover { text-decoration: underline; }
.lyrics i { opacity: .55; font-style: normal; font-size: .8rem;
  margin-right: .5rem; font-variant-numeric: tabular-nums; }
.problem { color: var(--bad); }
.missing { opacity: .6; font-style: italic; }
.skipped { border-color: var(--bad); }
@media (max-width: 45rem) { .columns { grid-template-columns: 1fr; } }
@media (prefers-color-scheme: dark) { :root { --accent: #60a5fa; --bad: #fbbf24; } }
"""

SCRIPT = """\
for (const article of document.querySelectorAll("article")) {
  const audio = article.querySelector("audio"), waveform = article.querySelector(".waveform");
  if (!audio || !waveform) continue;
  const heard = Number(waveform.dataset.heard), needle = waveform.querySelector("line");
  const width = waveform.viewBox.baseVal.width;
  const play = (seconds) => {
    if (!(seconds < audio.duration)) return;
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    audio.currentTime = seconds;
    audio.play();
  };
  waveform.addEventListener("click", (event) => {
    const box = waveform.getBoundingClientRect();
    play(((event.clientX - box.left) / box.width / heard) * audio.duration);
  });
  for (const line of article.querySelectorAll("a[data-seconds]")) {
    line.addEventListener("click", () => play(Number(line.dataset.seconds)));
  }
  audio.addEventListener("timeupdate", () => {
    needle.style.visibility = "visible";
    const x = (audio.currentTime / audio.duration) * heard * width;
    needle.setAttribute("x1", x);
    needle.setAttribute("x2", x);
  });
}
"""

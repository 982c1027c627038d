"use strict";
// Looks at the status every two seconds and keeps the last five minutes. By TCP
// the token comes after `#` in the address, which browsers send to nobody, or
// from the form.

const EVERY_MS = 2000;
const KEPT = 150;
const byId = (id) => document.getElementById(id);

let token = location.hash.slice(1) || sessionStorage.getItem("token") || "";
if (location.hash) {
  history.replaceState(null, "", location.pathname);
}
if (token) {
  sessionStorage.setItem("token", token);
}

const series = { calls: [], p99: [], memory: [], failed: [] };
let before = null;
let mayAct = false;

async function ask(method, path) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { method, headers, cache: "no-store" });
  if (answer.status === 401) {
    byId("login").hidden = false;
    byId("main").hidden = true;
    throw new Error("the token lacks or is wrong");
  }
  mayAct = answer.headers.get("menagerie-right") === "act";
  const body = await answer.json();
  if (!answer.ok) {
    throw new Error(body.detail || body.title);
  }
  return body;
}

function note(text) {
  byId("note").textContent = text;
  byId("note").hidden = !text;
}

function make(tag, text, className) {
  const element = document.createElement(tag);
  element.textContent = text ?? "";
  if (className) {
    element.className = className;
  }
  return element;
}

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    td.append(cell instanceof Node ? cell : String(cell ?? "–"));
    tr.append(td);
  }
  return tr;
}

function act(label, path) {
  if (!mayAct) {
    return "";
  }
  const button = make("button", label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await ask("POST", path);
      note("");
    } catch (error) {
      note(`${label}: ${error.message}`);
    }
    look();
  });
  return button;
}

const mebibytes = (bytes) => (bytes == null ? null : `${(bytes / 1048576).toFixed(1)} MiB`);
const micros = (us) => {
  if (us == null) return null;
  return us < 1000 ? `${us.toFixed(1)} µs` : `${(us / 1000).toFixed(1)} ms`;
};
const rate = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));
const moment = (ms) => new Date(ms).toLocaleString();

function chart(title, values, show) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const last = values.at(-1) ?? 0;
  caption.append(make("span", title), make("strong", show(last)));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${show(last)}`);
  const line = document.createElementNS(svg.namespaceURI, "polyline");
  const top = Math.max(...values, 1e-9) * 1.05;
  const from = KEPT - values.length;
  const point = (value, at) => `${from + at},${(100 - (value / top) * 98).toFixed(2)}`;
  line.setAttribute("points", values.map(point).join(" "));
  svg.append(line);
  figure.append(caption, svg);
  return figure;
}

function keep(name, value) {
  series[name].push(value);
  if (series[name].length > KEPT) {
    series[name].shift();
  }
}

function measure(status) {
  const now = performance.now();
  const seconds = before ? (now - before.at) / 1000 : 0;
  const counts = new Map();
  const rates = new Map();
  let [calls, failed] = [0, 0];
  for (const bundle of status.bundles) {
    const { name, calls: c } = bundle;
    // The first of its name is the one that runs; the others are broken.
    if (counts.has(name)) continue;
    counts.set(name, c);
    const old = before?.counts.get(name);
    // After an unload and a load the counts begin anew.
    const done = Math.max(0, c.ok + c.failed - (old ? old.ok + old.failed : 0));
    rates.set(bundle, old && seconds ? done / seconds : 0);
    calls += rates.get(bundle);
    failed += old && seconds ? Math.max(0, c.failed - old.failed) / seconds : 0;
  }
  if (before) {
    keep("calls", calls);
    keep("failed", failed);
    keep("p99", Math.max(0, ...status.bundles.map((b) => b.calls.p99_us ?? 0)));
    keep("memory", status.workers.reduce((sum, w) => sum + (w.rss_bytes ?? 0), 0));
  }
  before = { at: now, counts };
  return rates;
}

function show(status, crashes) {
  const rates = measure(status);
  const minutes = Math.floor(status.uptime_ms / 60000);
  byId("about").textContent =
    `version ${status.version}, process ${status.pid}, up ${minutes} min`;
  byId("charts").replaceChildren(
    chart("calls/s", series.calls, rate),
    chart("failed/s", series.failed, rate),
    chart("slowest p99", series.p99, micros),
    chart("memory of all workers", series.memory, mebibytes),
  );
  byId("workers").replaceChildren(...status.workers.map((w) => row([
    w.name,
    make("span", w.problem ? `${w.state}: ${w.problem}` : w.state, w.state),
    w.pid,
    w.runtime,
    mebibytes(w.rss_bytes),
    w.cpu_seconds == null ? null : `${w.cpu_seconds.toFixed(1)} s`,
    w.restarts,
    w.last_crash ? `${moment(w.last_crash.time_ms)} ${w.last_crash.cause}` : null,
    act("restart", `/v1/workers/${encodeURIComponent(w.name)}/restart`),
  ])));
  byId("bundles").replaceChildren(...status.bundles.map((b) => row([
    b.name,
    make("span", b.problem ? `${b.state}: ${b.problem}` : b.state, b.state),
    b.contracts.map((c) => `${c.name}@${c.version.split(".")[0]}`).join(", "),
    b.generation,
    rates.has(b) ? rate(rates.get(b)) : null,
    b.calls.failed,
    b.calls.in_flight,
    micros(b.calls.p50_us),
    micros(b.calls.p99_us),
    act("reload", `/v1/bundles/${encodeURIComponent(b.name)}/reload`),
  ])));
  const latest = crashes.slice(-10).reverse().map((crash) => {
    const item = make("li", `${moment(crash.time_ms)} ${crash.worker}: ${crash.cause}`);
    const running = crash.running.map((c) => {
      const of = c.contract ? `${c.bundle}/${c.contract}` : c.bundle;
      return `running: ${of} ${c.function}`;
    });
    const lines = [...running, ...crash.stderr.slice(-5)];
    if (lines.length) {
      item.append(make("pre", lines.join("\n")));
    }
    return item;
  });
  byId("crashes").replaceChildren(...(latest.length ? latest : [make("li", "none")]));
  byId("login").hidden = true;
  byId("main").hidden = false;
}

let timer = 0;
async function look() {
  clearTimeout(timer);
  try {
    show(...await Promise.all([ask("GET", "/v1/status"), ask("GET", "/v1/crashes")]));
    document.body.dataset.ready = "yes";
  } catch (error) {
    byId("about").textContent = error.message;
  }
  timer = setTimeout(look, EVERY_MS);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem("token", token);
  look();
});
look();

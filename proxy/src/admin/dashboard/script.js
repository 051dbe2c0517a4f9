// The dashboard. Whatever it is told becomes text: nodes are made here, and data only ever reaches
// `textContent`, attributes with a fixed meaning, and lengths.
"use strict";

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- text and elements

/** An element: `el("b", { text: name, title: name }, child, …)`. */
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets a text only where it differs, so that selections and screen readers are left in peace. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tone(element, name) {
  if (name) element.dataset.tone = name;
  else delete element.dataset.tone;
}

/** Makes the children of `parent` those of `items`; an item keeps its element for as long as it stays. */
function keyed(parent, items, key, make, update = () => {}) {
  const old = new Map([...parent.children].map((child) => [child.key, child]));
  items.forEach((item, place) => {
    const id = String(key(item));
    let child = old.get(id);
    if (child) old.delete(id);
    else {
      child = make(item);
      child.key = id;
    }
    update(child, item);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  old.forEach((child) => child.remove());
}

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const count = (number) => (number < 100_000 ? whole : compact).format(number);
const words = (name) => String(name).replaceAll("_", " ");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

function perSecond(rate) {
  if (rate === undefined || rate === null) return "–";
  if (rate >= 9.95) return count(Math.round(rate));
  return rate === 0 ? "0" : rate.toFixed(1);
}

function millis(value) {
  if (value === undefined || value === null) return "–";
  if (value >= 100) return whole.format(Math.round(value));
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function percent(share) {
  if (share === undefined || share === null) return "–";
  // A hundred per cent is said of everything only.
  const shown = share === 1 ? "100" : (Math.floor(share * 1000) / 10).toFixed(1);
  return `${shown}\u202f%`;
}

async function ask(path, options) {
  const response = await fetch(path, { headers: { accept: "application/json" }, ...options });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? `${response.status} ${response.statusText}`);
  return body;
}

/** Runs `work` one at a time; what is asked for meanwhile runs once, afterwards. */
function single(work) {
  let running = false;
  let again = false;
  return async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    do {
      again = false;
      await work().catch(() => {}); // The badge tells when the router is away.
    } while (again);
    running = false;
  };
}

function later(work, delay = 150) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, delay);
  };
}

function pager(nav, page, go) {
  nav.hidden = page.pages < 2;
  if (nav.hidden) return;
  if (!nav.children.length) {
    nav.append(el("button", { type: "button", text: "Previous" }), el("span"), el("button", { type: "button", text: "Next" }));
  }
  const [previous, where, next] = nav.children;
  say(where, `Page ${count(page.page + 1)} of ${count(page.pages)}`);
  previous.disabled = page.page === 0;
  next.disabled = page.page + 1 === page.pages;
  previous.onclick = () => go(page.page - 1);
  next.onclick = () => go(page.page + 1);
}

const query = (search, page) => `?${new URLSearchParams({ search, page })}`;

// ---------------------------------------------------------------- theme

const themes = ["system", "light", "dark"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say($("theme").lastChild, theme);
}

/** Storage may be forbidden; the choice then lasts as long as the page. */
function remembered(value) {
  try {
    if (value === undefined) return localStorage.getItem("theme");
    localStorage.setItem("theme", value);
  } catch {
    return null;
  }
}

let theme = themes.includes(remembered()) ? remembered() : "system";
setTheme(theme);
$("theme").onclick = () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  remembered(theme);
  setTheme(theme);
};

// ---------------------------------------------------------------- head and figures

function showHead(pulse) {
  const { known_nodes: known, usable_nodes: usable } = pulse;
  const [text, mood] = pulse.draining
    ? ["stopping", "warn"]
    : known > 0 && usable === known
      ? [`healthy · ${plural(known, "node")}`, "good"]
      : usable > 0
        ? [`${usable} of ${plural(known, "node")} usable`, "warn"]
        : pulse.fallback
          ? ["through the fallback", "warn"]
          : ["no node can be used", "bad"];
  say($("health"), text);
  tone($("health"), mood);
  say($("epoch"), pulse.epoch ?? "unknown");
  say($("leader"), pulse.leader ?? "unknown");
  say($("age"), pulse.age === null ? "never" : pulse.age < 10 ? "just now" : `${Math.round(pulse.age)} s ago`);
  say($("routing"), pulse.routing ?? "unknown");
  $("problems").hidden = pulse.problems.length === 0;
  keyed($("problems"), pulse.problems, (problem) => problem, (problem) => el("li", { text: problem }));
}

const traces = { rate: [], p50: [] };

function spark(name, value) {
  const values = traces[name];
  values.push(value ?? 0);
  if (values.length > 60) values.shift();
  const top = Math.max(...values, 1e-9) * 1.15;
  const step = 120 / 59;
  const start = 60 - values.length;
  const points = values.map((value, i) => `${((start + i) * step).toFixed(1)},${(28 - (value / top) * 26).toFixed(1)}`);
  const [area, line] = $(`${name}-spark`).children;
  line.setAttribute("d", `M${points.join("L")}`);
  area.setAttribute("d", `M${(start * step).toFixed(1)},28L${points.join("L")}L120,28Z`);
}

/** The share of requests without an internal hop: its name, its value, and of what it is a share. */
function hopShare({ total, recent }) {
  const allTime = total.known_hops ? total.without_hop / total.known_hops : null;
  const note = recent?.without_hop == null
    ? allTime === null ? "no request yet" : `of ${count(total.known_hops)} requests since the start`
    : `of the last seconds · ${percent(allTime)} of ${count(total.known_hops)} in all`;
  return ["Without an internal hop", recent?.without_hop ?? allTime, note];
}

/** The share of internal RPCs that routing would save, in the same form. */
function savedShare({ requests, unrouted_rpcs: unrouted, routed_rpcs: routed }) {
  const seen = `${plural(requests, "request")} observed`;
  if (!(unrouted > 0)) return ["Routing would save", null, requests ? `${seen}, none with internal RPCs` : "no request observed yet"];
  const share = Math.max(1 - routed / unrouted, 0);
  return ["Routing would save", share, `of ${count(Math.round(unrouted))} internal RPCs · ${seen}`];
}

function showFigures(pulse) {
  const { total, recent } = pulse;
  const [title, share, note] = pulse.observed ? savedShare(pulse.observed) : hopShare(pulse);
  say($("share-title"), title);
  say($("share"), percent(share));
  say($("share-note"), note);
  $("share-bar").style.setProperty("--share", share ?? 0);

  say($("rate"), perSecond(recent?.rate));
  say($("rate-note"), `${count(total.requests)} since the start`);
  say($("p50"), millis(recent?.p50));
  say($("p99"), recent?.p99 == null ? "no answer in the last seconds" : `99 % within ${millis(recent.p99)} ms`);
  if (recent) {
    spark("rate", recent.rate);
    spark("p50", recent.p50);
  }

  say($("failed"), count(total.failed));
  tone($("failed"), recent?.failed_rate > 0 ? "bad" : null);
  say($("repeats"), count(total.repeats));
  tone($("repeats"), recent?.repeats_rate > 0 ? "warn" : null);
  say($("ejections"), count(pulse.ejections));
  say($("hedges"), count(pulse.hedges));
}

// ---------------------------------------------------------------- nodes

const conditions = { usable: "good", ejected: "warn", unreachable: "bad" };
const nodesView = { search: "", page: 0 };

function nodeRow() {
  const row = el("tr");
  row.append(
    el("th", { scope: "row" }),
    el("td", {}, el("span", { class: "badge" })),
    el("td", { class: "n rate" }, el("span"), el("i", { "aria-hidden": "true" })),
    el("td", { class: "n" }),
    el("td", { class: "n" }),
    el("td", { class: "n" }),
    el("td"),
    el("td", { class: "mono" }),
  );
  return row;
}

function fillNodes(rows) {
  const fastest = Math.max(...rows.map((node) => node.rate ?? 0), 1e-9);
  keyed($("nodes"), rows, (node) => node.peer_id ?? node.address, nodeRow, (row, node) => {
    const [name, state, rate, p50, p99, inFlight, version, address] = row.children;
    const label = node.name + (node.leader ? "★" : "");
    if (name.textContent !== label) {
      name.replaceChildren(node.name);
      if (node.leader) name.append(el("span", { class: "star", text: "★", role: "img", "aria-label": "leads consensus", title: "leads consensus" }));
    }
    name.title = node.peer_id ? `${node.name}, peer ${node.peer_id}` : node.name;
    say(state.firstChild, node.state);
    tone(state.firstChild, conditions[node.state] ?? "idle");
    state.title = node.problem ?? "";
    say(rate.firstChild, perSecond(node.rate));
    rate.lastChild.style.setProperty("--share", (node.rate ?? 0) / fastest);
    say(p50, millis(node.p50));
    say(p99, millis(node.p99));
    say(inFlight, count(node.in_flight));
    say(version, node.version ?? "–");
    say(address, node.address);
  });
}

/** Few nodes come with the pulse. Of many, it carries the busiest; a search or a page is asked for. */
const askNodes = single(async () => {
  const page = await ask(`topology/nodes${query(nodesView.search, nodesView.page)}`);
  nodesView.page = page.page;
  say($("nodes-count"), nodesView.search ? `${count(page.total)} found` : count(page.total));
  fillNodes(page.rows);
  pager($("nodes-pager"), page, (to) => {
    nodesView.page = to;
    askNodes();
  });
});

function showNodes(pulse) {
  const isWhole = pulse.nodes.length === pulse.known_nodes;
  if (nodesView.search || nodesView.page || !isWhole) {
    askNodes();
    return;
  }
  $("nodes-pager").hidden = true;
  say($("nodes-count"), count(pulse.known_nodes));
  fillNodes(pulse.nodes);
}

$("nodes-search").oninput = later(() => {
  nodesView.search = $("nodes-search").value.trim();
  nodesView.page = 0;
  askNodes();
});

// ---------------------------------------------------------------- reasons

const reasons = {
  direct_read: "Nodes that hold the shards of the points asked for, each asked for those of its own",
  readable_replica: "A node with a readable replica of every shard asked for",
  most_replicas: "The node with readable replicas of the most shards asked for",
  route_affinity: "The node with the replicas that the client's route affinity selects",
  replica_holder: "A holder of the shards written, the same one for every router",
  shard_leader: "The node that leads the shards written",
  split: "Several nodes, each with the points of its own shards",
  consensus_leader: "The consensus leader",
  any_node: "Any node: all are equally good for this operation",
  stable_node: "The node that node-local requests go to",
  pinned_node: "The node that the client names",
  snapshot_holder: "The node that keeps the snapshot asked for",
  shard_holder: "A node that holds the shard asked for",
  all_nodes: "All nodes, whose answers make one",
  unknown_operation: "Any node: the operation is not known to the router",
  unknown_collection: "Any node: the collection is not known",
  unknown_shard_key: "Any node: no shard has the key asked for",
  not_understood: "Any node: the body is not what the path asks for, or does not tell the collection",
  no_replica: "Any node: none that can be used holds a replica",
  unidentified_node: "An address that does not say who it is, because no peer is known",
  fallback: "The ClusterIP Service, because no node can be used",
  not_routed: "The ClusterIP Service, or any node without one: the configuration leaves such requests unrouted",
  none: "There was nobody to send it to",
};
const doubtful = new Set(["unknown_operation", "unknown_collection", "unknown_shard_key", "not_understood", "no_replica", "unidentified_node", "fallback"]);

const meaning = (reason) => (Object.hasOwn(reasons, reason) ? reasons[reason] : words(reason));

function showReasons(pulse) {
  const all = pulse.total.requests || 1;
  if (!pulse.reasons.length) {
    keyed($("reasons"), [0], () => "empty", () => el("li", { class: "empty", text: "No request yet." }));
    return;
  }
  keyed(
    $("reasons"),
    pulse.reasons,
    (row) => row.reason,
    (row) => el("li", { title: meaning(row.reason) }, el("span", { text: words(row.reason) }), el("b"), el("span", { class: "note" }), el("i", { "aria-hidden": "true" })),
    (item, row) => {
      const [, total, rate, bar] = item.children;
      say(total, count(row.total));
      say(rate, `${perSecond(row.rate)} /s`);
      bar.style.setProperty("--share", Math.min(row.total / all, 1));
      tone(bar, row.reason === "none" ? "bad" : doubtful.has(row.reason) ? "warn" : null);
    },
  );
}

// ---------------------------------------------------------------- collections

const list = { search: "", page: 0, rows: [] };
const chosen = { name: null, page: 0 };

const askCollections = single(async () => {
  const page = await ask(`topology/collections${query(list.search, list.page)}`);
  list.page = page.page;
  list.rows = page.rows;
  say($("collections-count"), list.search ? `${count(page.total)} found` : count(page.total));
  keyed(
    $("collections"),
    page.rows,
    (row) => row.name,
    (row) => {
      const button = el("button", { type: "button", title: row.name }, el("b", { text: row.name }), el("span", { class: "note" }));
      button.onclick = () => choose(row.name);
      return el("li", {}, button);
    },
    (item, row) => {
      const button = item.firstChild;
      const note = button.lastChild;
      const trouble = row.unreadable ? `${plural(row.unreadable, "replica")} not readable` : row.resharding ? "resharding" : row.transfers ? plural(row.transfers, "transfer") : "";
      say(note, trouble || `${plural(row.shards, "shard")} · ${plural(row.replicas, "replica")}`);
      note.classList.toggle("alert", row.unreadable > 0);
      if (row.name === chosen.name) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    },
  );
  pager($("collections-pager"), page, (to) => {
    list.page = to;
    askCollections();
  });
  if (chosen.name === null && page.rows.length) choose(page.rows[0].name, false);
  if (!page.rows.length && chosen.name === null) {
    say($("detail-empty"), list.search ? "Nothing found. Enter opens the collection of exactly this name." : "A collection appears here with its first request.");
  }
});

function choose(name, isLasting = true) {
  chosen.name = name;
  chosen.page = 0;
  if (isLasting) history.replaceState(null, "", `#collection=${encodeURIComponent(name)}`);
  askCollections();
  askDetail();
}

const states = {
  Active: "good", ActiveRead: "good", ReshardingScaleDown: "good",
  Partial: "warn", PartialSnapshot: "warn", Recovery: "warn", ManualRecovery: "warn",
  Initializing: "calm", Resharding: "calm", Listener: "idle", Dead: "bad",
};
const stateTone = (state) => (Object.hasOwn(states, state) ? states[state] : "idle");

const askDetail = single(async () => {
  const { name } = chosen;
  if (name === null) return;
  let found;
  try {
    found = await ask(`topology/collections/${encodeURIComponent(name)}${query("", chosen.page)}`);
  } catch (error) {
    $("detail-body").hidden = true;
    $("detail-empty").hidden = false;
    say($("detail-empty"), `${name}: ${error.message}`);
    return;
  }
  if (name === chosen.name) showDetail(found);
});

function showDetail(found) {
  $("detail-body").hidden = false;
  $("detail-empty").hidden = true;
  say($("detail-name"), found.name);
  say($("detail-note"), [
    plural(found.shards.total, "shard"),
    `epoch ${found.epoch}`,
    found.aliases.length ? `alias ${found.aliases.join(", ")}` : null,
    found.resharding === null ? null : `resharding shard ${found.resharding}`,
    found.transfers ? plural(found.transfers, "transfer") : null,
  ].filter(Boolean).join(" · "));

  const grid = $("grid").parentElement;
  grid.classList.toggle("many", found.nodes.length > 6);
  grid.style.setProperty("--columns", found.nodes.length);
  $("grid-head").replaceChildren(
    el("th", { scope: "col", text: "Shard" }),
    ...found.nodes.map((node) => el("th", {
      scope: "col", text: node.name, title: `${node.name}, peer ${node.peer_id}${node.reachable ? "" : ", unreachable"}`, "data-tone": node.reachable ? null : "bad",
    })),
  );
  const seen = new Set();
  keyed(
    $("grid"),
    found.shards.rows,
    (shard) => shard.id,
    () => el("tr"),
    (row, shard) => {
      const held = new Map(shard.replicas.map((replica) => [replica.peer_id, replica.state]));
      const name = el("th", { scope: "row", text: String(shard.id) });
      if (shard.key !== null) name.append(el("span", { class: "note", text: shard.key, title: `shard key ${shard.key}` }));
      row.replaceChildren(name, ...found.nodes.map((node) => {
        const state = held.get(node.peer_id);
        if (state === undefined) return el("td", {}, el("span", { class: "visually-hidden", text: "no replica" }));
        seen.add(state);
        const where = `shard ${shard.id} on ${node.name}${node.reachable ? "" : ", unreachable"}`;
        const cell = el("td", { "data-tone": stateTone(state), "data-lost": node.reachable ? null : "", title: `${where}: ${state}` });
        const isShort = grid.classList.contains("many");
        cell.append(isShort ? el("span", { class: "visually-hidden", text: state }) : state);
        if (shard.leader === node.peer_id) {
          cell.append(el("span", { class: "star", text: "★", role: "img", "aria-label": "leads", title: "leads writes of this shard" }));
        }
        return cell;
      }));
    },
  );
  pager($("shards-pager"), found.shards, (to) => {
    chosen.page = to;
    askDetail();
  });
  $("legend").replaceChildren(
    ...[...seen].sort().map((state) => el("li", {}, el("i", { "data-tone": stateTone(state), "aria-hidden": "true" }), state)),
    ...(found.nodes.every((node) => node.reachable) ? [] : [el("li", {}, el("i", { "data-lost": "", "aria-hidden": "true" }), "on a node that does not answer")]),
    el("li", {}, el("span", { class: "star", text: "★", "aria-hidden": "true" }), "leads writes"),
  );
}

$("collections-search").oninput = later(() => {
  list.search = $("collections-search").value.trim();
  list.page = 0;
  askCollections();
});
$("collections-form").onsubmit = (event) => {
  event.preventDefault();
  const wanted = $("collections-search").value.trim();
  if (!wanted) return;
  const lower = wanted.toLowerCase();
  const fitting = list.rows.filter((row) => row.name.toLowerCase().includes(lower));
  choose(fitting.length === 1 ? fitting[0].name : wanted);
};

/** Arrow keys move through the list. */
$("collections").onkeydown = (event) => {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!step) return;
  event.preventDefault();
  document.activeElement.closest("li")?.[step]?.firstChild.focus();
};

// ---------------------------------------------------------------- explain

$("method").onchange = () => {
  const isGrpc = $("method").value === "gRPC";
  say($("path-label"), isGrpc ? "RPC" : "Path");
  if (isGrpc && $("path").value.startsWith("/collections")) $("path").value = "Points/Query";
  else if (!isGrpc && !$("path").value.startsWith("/")) $("path").value = "/collections/books/points/query";
};

/** The question as text: the body stays as it was written, since numbers may be longer than here. */
function question() {
  const [method, path, body] = [$("method").value, $("path").value.trim(), $("body").value.trim()];
  if (body) {
    try {
      JSON.parse(body);
    } catch (error) {
      throw new Error(`the body is not JSON: ${error.message}`);
    }
  }
  const head = method === "gRPC" ? { grpc: path } : { method, path };
  return `${JSON.stringify(head).slice(0, -1)},"body":${body || "null"}}`;
}

$("explain").onsubmit = async (event) => {
  event.preventDefault();
  try {
    showAnswer(await ask("explain", { method: "POST", body: question() }));
  } catch (error) {
    $("answer").replaceChildren(el("p", { class: "error", text: error.message }));
  }
};
$("body").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("explain").requestSubmit();
};

const rpcs = (number) => (number === null || number === undefined ? "internal RPCs unknown" : number === 0 ? "no internal hop" : plural(number, "internal RPC"));

function showAnswer(answer) {
  const verdict = answer.reason === null
    ? el("p", { class: "verdict error", text: "There is nobody to send it to." })
    : el("p", { class: "verdict" }, el("b", { text: words(answer.reason) }), ` — ${meaning(answer.reason)}.`);
  const facts = [
    ["Class", words(answer.class)],
    ["Collection", answer.resolved ? `${answer.collection}, which is ${answer.resolved}` : answer.collection],
    ["Shards", answer.shards?.join(", ")],
    ["In all", rpcs(answer.internal_rpcs)],
    ["Epoch", answer.epoch],
  ].filter(([, value]) => value);
  const parts = answer.parts.map((part) => el(
    "li", {},
    el("b", { text: `→ ${part.node}` }),
    el("span", { class: "note", text: [part.points === undefined ? null : plural(part.points, "point"), rpcs(part.internal_rpcs)].filter(Boolean).join(" · ") }),
  ));
  const goes = new Set(answer.parts.map((part) => part.node));
  const mark = answer.parts.length > 1 ? "gets a part" : "chosen";
  const candidates = answer.candidates.length ? el(
    "table", {},
    el("caption", { class: "visually-hidden", text: "What each node would need for the whole request" }),
    el("thead", {}, el("tr", {}, ...["Candidate, as a whole", "Internal RPCs", ""].map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...answer.candidates.slice(0, 20).map((candidate) => el(
      "tr", {},
      el("th", { scope: "row", text: candidate.node }),
      el("td", { text: String(candidate.internal_rpcs) }),
      el("td", { class: "note", text: !candidate.usable ? "cannot be used now" : goes.has(candidate.node) ? mark : "" }),
    ))),
  ) : null;
  $("answer").replaceChildren(...[
    verdict,
    el("dl", { class: "facts-line" }, ...facts.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value })))),
    el("ul", { class: "parts", "aria-label": "Where it goes" }, ...parts),
    candidates,
  ].filter(Boolean));
}

// ---------------------------------------------------------------- events

const kinds = {
  node_joined: "good", node_back: "good", node_left: "idle", node_unreachable: "bad", node_ejected: "bad",
  node_moved: "calm", node_version: "calm", consensus_leader: "warn", shard_leader: "warn",
  replica_state: "calm", replicas_moved: "calm", resharding: "calm", reloaded: "idle",
  reload_failed: "bad",
};
const groups = { node: /^node_/, leader: /_leader$/, replica: /^replica|^resharding/, router: /^reload/ };
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
let events = [];

function fillEvents() {
  const group = groups[$("events-filter").value];
  const shown = group ? events.filter((event) => group.test(event.kind)) : events;
  if (!shown.length) {
    keyed($("events"), [0], () => "empty", () => el("li", { class: "empty", "data-tone": "idle", text: "Nothing has happened yet." }));
    return;
  }
  keyed($("events"), shown, (event) => event.id, (event) => {
    const at = new Date(event.at);
    return el(
      "li", { "data-tone": Object.hasOwn(kinds, event.kind) ? kinds[event.kind] : "idle" },
      el("p", {}, el("b", { text: event.subject }), ` ${event.text}`),
      el("time", { datetime: at.toISOString(), text: clock.format(at), title: day.format(at) }),
      el("p", { class: "note", text: event.cause }),
    );
  });
}

const askEvents = single(async () => {
  events = (await ask("events/recent")).events;
  fillEvents();
});
$("events-filter").onchange = fillEvents;

// ---------------------------------------------------------------- live

const known = { revision: null, events: null };
let source = null;

function show(pulse) {
  showHead(pulse);
  showFigures(pulse);
  showNodes(pulse);
  showReasons(pulse);
  if (pulse.revision !== known.revision) {
    known.revision = pulse.revision;
    askCollections();
    askDetail();
  }
  if (pulse.events !== known.events) {
    known.events = pulse.events;
    askEvents();
  }
}

/** A page that nobody looks at holds no place among those that watch. */
function connect() {
  source?.close();
  source = null;
  if (document.hidden) return;
  source = new EventSource("events");
  source.addEventListener("pulse", (event) => show(JSON.parse(event.data)));
  source.onerror = () => {
    say($("health"), "no connection to the router");
    tone($("health"), "bad");
    known.revision = known.events = null;
    // A refusal ends the stream for good; a lost connection is taken up again by the browser.
    if (source?.readyState === EventSource.CLOSED) setTimeout(connect, 5_000);
  };
}

document.addEventListener("visibilitychange", connect);
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, textarea, select");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("collections-search").focus();
    $("collections-search").select();
  }
  if (event.key === "Escape" && isTyping) event.target.blur();
});

const linked = new URLSearchParams(location.hash.slice(1)).get("collection");
if (linked) chosen.name = linked;
connect();

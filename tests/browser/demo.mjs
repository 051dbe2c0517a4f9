// The demo as a child process: its addresses, its nodes, and traffic through its proxy.

import { spawn } from "node:child_process";
import http from "node:http";
import { createInterface } from "node:readline";

/** Starts the demo and waits until it has walked its tour. */
export async function start(program) {
  const child = spawn(program, [], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout });
  const waiting = [];
  let said = "";
  lines.on("line", (line) => {
    said += `${line}\n`;
    for (const waiter of waiting.splice(0)) waiter.look();
  });
  child.on("exit", () => waiting.splice(0).forEach((waiter) => waiter.give_up()));

  /** What the demo says next that fits. */
  const hear = (pattern) => new Promise((resolve, reject) => {
    const waiter = {
      look() {
        const found = said.match(pattern);
        if (!found) return void waiting.push(waiter);
        said = said.slice(found.index + found[0].length);
        resolve(found);
      },
      give_up: () => reject(new Error(`the demo ended before it said ${pattern}:\n${said}`)),
    };
    waiter.look();
  });
  const [, rest] = await hear(/curl (http:\S+)\/collections\n/);
  const [, dashboard] = await hear(/Dashboard: +(http:\S+)\n/);
  return {
    rest,
    dashboard,
    /** `kill`, `restart` or `move` of a node. */
    async tell(verb, node) {
      child.stdin.write(`${verb} ${node}\n`);
      const [, outcome] = await hear(new RegExp(`^${verb} ${node}: (.*)$`, "m"));
      if (outcome !== "done") throw new Error(`${verb} ${node}: ${outcome}`);
    },
    stop() {
      child.kill("SIGINT");
      return new Promise((resolve) => (child.exitCode === null ? child.once("exit", resolve) : resolve()));
    },
  };
}

/** A mix of writes and reads until it is stopped. */
export function traffic(rest, perSecond = 120) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
  const send = (method, path, body) => new Promise((resolve) => {
    const request = http.request(rest + path, { method, agent, headers: { "content-type": "application/json" } }, (response) => {
      response.resume().on("end", resolve);
    });
    request.on("error", resolve).end(body && JSON.stringify(body));
  });
  const point = (id) => ({ id, vector: [id % 7, 1, 2, 3] });
  const get = (collection, id) => send("GET", `/collections/${collection}/points/${id % 300}`);
  const upsert = (collection, ids) => send("PUT", `/collections/${collection}/points?wait=true`, { points: ids.map(point) });
  const query = (collection) => send("POST", `/collections/${collection}/points/query`, { query: [1, 0, 0, 0], limit: 3 });
  const many = (id) => Array.from({ length: 24 }, (_, i) => (id + i) % 300);
  const kinds = [
    (id) => upsert("books", [id % 300]),
    () => query("covers"),
    (id) => get("covers", id),
    (id) => upsert("books", [id % 300]),
    (id) => send("POST", "/collections/covers/points", { ids: [id % 300] }),
    (id) => (id % 4 ? get("covers", id) : query("books")),
    (id) => upsert("books", id % 6 ? [id % 300] : many(id)),
    () => query("covers"),
    (id) => (id % 3 ? get("orders", id) : upsert("orders", [id % 300])),
    (id) => (id % 9 ? upsert("covers", [id % 300]) : send("GET", "/collections")),
  ];
  let sent = 0;
  const timer = setInterval(() => {
    for (let i = 0; i < perSecond / 20; i++, sent++) kinds[sent % kinds.length](sent * 7);
  }, 50);
  return () => {
    clearInterval(timer);
    agent.destroy();
  };
}

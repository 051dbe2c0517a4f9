// The answers of a router that sees a huge cluster in which every name is an attempt at injection.

export const HOSTILE = `<img src=x onerror="hit=1"><script>hit='1'</script>`;

const NODES = 1_000;
const COLLECTIONS = 10_000;
const SIZE = 50;

const node = (i) => ({
  name: `${HOSTILE}-${i}`, peer_id: String(10n ** 18n + BigInt(i)), address: `10.0.${i >> 8}.${i & 255}`,
  version: "1.18.3", state: i ? "usable" : HOSTILE, leader: i === 1, in_flight: i, rate: i * 1.5, p50: 1, p99: 9, problem: HOSTILE,
});
const slice = (length, page, make) => Array.from({ length: Math.min(SIZE, length - page * SIZE) }, (_, i) => make(page * SIZE + i));
const pageOf = (length, page, make) => ({ total: length, page, pages: Math.ceil(length / SIZE), rows: slice(length, page, make) });

const pulse = {
  epoch: HOSTILE, age: 1, draining: false, leader: HOSTILE, revision: 1, events: 1, known_nodes: NODES, usable_nodes: 999,
  fallback: false, routing: HOSTILE, observed: { requests: 5_000_000_000, unrouted_rpcs: 6_666_666_666.7, routed_rpcs: 1.5 }, in_flight: 1, ejections: 2,
  total: { requests: 5_000_000_000, failed: 1, repeats: 1, known_hops: 1, without_hop: 1 },
  recent: { rate: 51_234.5, failed_rate: 1, repeats_rate: 1, without_hop: 0.99999, p50: 1, p99: 2 },
  reasons: [{ reason: HOSTILE, total: 5, rate: 1 }, { reason: "__proto__", total: 5, rate: 1 }],
  nodes: slice(NODES, 0, node), problems: [HOSTILE],
};
const events = [{ id: 1, at: Date.now(), kind: HOSTILE, subject: HOSTILE, text: HOSTILE, cause: HOSTILE }, {
  id: 2, at: Date.now(), kind: "reload_failed", subject: "configuration", text: "cannot work", cause: HOSTILE,
}];
const collection = (i) => ({ name: `${HOSTILE}-${i}`, shards: 64, replicas: 128, unreadable: i % 2, transfers: 0, resharding: false });
const detail = {
  name: `${HOSTILE}-0`, aliases: [HOSTILE], epoch: HOSTILE, transfers: 0, resharding: null,
  nodes: [0, 1, 2].map((i) => ({ peer_id: String(i), name: HOSTILE, reachable: false })),
  shards: pageOf(64, 0, (id) => ({ id, key: HOSTILE, leader: "0", replicas: [{ peer_id: "0", state: HOSTILE }, { peer_id: "1", state: "constructor" }] })),
};
const answer = {
  protocol: "rest", class: HOSTILE, collection: HOSTILE, resolved: HOSTILE, epoch: HOSTILE, shards: [HOSTILE], reason: HOSTILE,
  parts: [{ node: HOSTILE, peer_id: 1, internal_rpcs: 0 }], internal_rpcs: 0,
  candidates: [{ node: HOSTILE, peer_id: 1, internal_rpcs: 0, usable: false }],
};

/** Answers in the router's place. */
export async function serveHostile(page) {
  const pages = (path, length, make) => page.route(path, (route) => {
    const at = Number(new URL(route.request().url()).searchParams.get("page"));
    return route.fulfill({ json: pageOf(length, at, make) });
  });
  await pages("**/topology/nodes?*", NODES, node);
  await pages("**/topology/collections?*", COLLECTIONS, collection);
  await page.route("**/topology/collections/*", (route) => route.fulfill({ json: detail }));
  await page.route("**/events/recent", (route) => route.fulfill({ json: { events } }));
  await page.route("**/explain", (route) => route.fulfill({ json: answer }));
  await page.route("**/events", (route) => route.fulfill({
    contentType: "text/event-stream", body: `retry: 60000\nevent: pulse\ndata: ${JSON.stringify(pulse)}\n\n`,
  }));
}

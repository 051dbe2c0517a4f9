// What a person does with the dashboard, in the order of a visit: one cluster and one page for all.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

import * as demo from "./demo.mjs";
import { serveHostile, HOSTILE } from "./hostile.mjs";

const PATIENCE = 20_000;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

let cluster;
let browser;
let page;
let stopTraffic;

/** What went wrong in any page: errors, dialogs, and requests to somebody else. */
const wrongs = [];

async function open(options = {}) {
  const opened = await browser.newPage({ viewport: { width: 1440, height: 900 }, colorScheme: "light", ...options });
  opened.setDefaultTimeout(PATIENCE);
  opened.on("pageerror", (error) => wrongs.push(`error: ${error}`));
  opened.on("console", (message) => {
    // A question that is refused on purpose is answered with 400, which Chromium reports.
    const isRefusal = message.location().url.endsWith("/explain");
    if (message.type() !== "log" && !isRefusal) wrongs.push(`console: ${message.text()}`);
  });
  opened.on("dialog", (dialog) => {
    wrongs.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  opened.on("request", (request) => {
    if (!request.url().startsWith(cluster.dashboard)) wrongs.push(`request: ${request.url()}`);
  });
  await opened.goto(cluster.dashboard);
  return opened;
}

/** A picture of a page, or of a part of it. */
async function keep(name, from = page) {
  if (!process.env.SCREENSHOTS) return;
  await page.mouse.move(0, 0);
  await from.evaluate(() => {
    document.activeElement?.blur();
    scrollTo(0, 0);
  });
  await from.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });
}

const text = (selector, from = page) => from.locator(selector).innerText();

/** Waits until what `look` sees passes `check`. */
async function eventually(what, look, check) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const seen = await look();
    if (check(seen)) return seen;
    assert.ok(Date.now() < deadline, `${what}: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** The names of the nodes: those of pods on the embedded cluster, addresses on a real one. */
let names = [];

const nodeState = (name) => () =>
  page.locator("#nodes tr", { has: page.locator("th", { hasText: name }) }).locator(".badge").innerText();

const explain = async (method, path, body) => {
  await page.selectOption("#method", method);
  await page.fill("#path", path);
  await page.fill("#body", body);
  // What is there then is the answer to this request, and not to the one before.
  await page.evaluate(() => document.querySelector("#answer").replaceChildren());
  await page.click("#explain button[type=submit]");
  return eventually("an answer", () => text("#answer"), (answer) => answer !== "");
};

before(async () => {
  cluster = await demo.start(process.env.DEMO);
  stopTraffic = demo.traffic(cluster.rest);
  // Playwright gives the browser an empty profile of its own.
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  page = await open();
});

after(async () => {
  stopTraffic?.();
  await browser?.close();
  await cluster?.stop();
});

test("it opens on a healthy cluster", async () => {
  await eventually("health", () => text("#health"), (health) => health === "healthy · 3 nodes");
  assert.match(await text("#epoch"), /^\d+\/\d+$/);
  assert.equal(await text("#routing"), "all");
  assert.match(await text("#share-title"), /^without an internal hop$/i);
  assert.equal(await page.locator("#nodes tr").count(), 3);
  assert.equal(await page.locator("#nodes .star").count(), 1, "one leads consensus");
  assert.equal(await page.title(), "qdrant-router");
  names = (await page.locator("#nodes th").allInnerTexts()).map((name) => name.replace("★", "").trim());
});

test("its figures live", async () => {
  await eventually("a rate", () => text("#rate"), (rate) => Number(rate) > 20);
  await eventually("a share", () => text("#share"), (share) => /^[\d.]+.%$/.test(share));
  await eventually("latency", () => text("#p50"), (p50) => Number(p50) > 0);
  const reasons = await page.locator("#reasons li > span:first-child").allInnerTexts();
  assert.ok(reasons.includes("replica holder") && reasons.includes("readable replica"), reasons.join());
  const total = await text("#rate-note");
  await eventually("more requests", () => text("#rate-note"), (now) => now !== total);
});

test("it shows shards, replicas and who leads", async () => {
  await page.click("#collections button:has-text('orders')");
  await eventually("orders", () => text("#detail-name"), (name) => name === "orders");
  assert.equal(await page.locator("#grid tr").count(), 6);
  assert.equal(await page.locator("#grid td[data-tone=good]").count(), 12, "two replicas each");
  assert.equal(await page.locator("#grid .star").count(), 6, "one leader each");
  assert.match(page.url(), /#collection=orders$/);
  await page.reload();
  await eventually("the same after a reload", () => text("#detail-name"), (name) => name === "orders");
});

test("it works from the keyboard", async () => {
  await page.evaluate(() => document.activeElement?.blur());
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "collections-search");
  await page.keyboard.type("cov");
  await eventually("one found", () => page.locator("#collections li").count(), (count) => count === 1);
  await page.keyboard.press("Enter");
  await eventually("it is open", () => text("#detail-name"), (name) => name === "covers");
  await page.fill("#collections-search", "");
  await eventually("all", () => page.locator("#collections li").count(), (count) => count === 3);
  await page.focus("#collections li:first-child button");
  await page.keyboard.press("ArrowDown");
  assert.match(await page.evaluate(() => document.activeElement.innerText), /^covers/);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  await eventually("the first", () => text("#detail-name"), (name) => name === "books");

  const unlabelled = await page.evaluate(() =>
    [...document.querySelectorAll("input, select, textarea, button")]
      .filter((control) => !control.labels?.length && !control.ariaLabel && !control.innerText.trim())
      .map((control) => control.id));
  assert.deepEqual(unlabelled, []);
  await page.evaluate(() => document.activeElement?.blur());
  await page.keyboard.press("Tab");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "focus is visible");
});

test("it explains requests", async () => {
  const read = await explain("POST", "/collections/covers/points/query", '{ "query": [1, 0, 0, 0] }');
  assert.match(read, /readable replica/);
  assert.match(read, /no internal hop/);
  const point = (id) => `{ "id": ${id}, "vector": [1, 2, 3, 4] }`;
  const write = await explain("PUT", "/collections/books/points", `{ "points": [${[1, 2, 3, 4, 5, 6, 7, 8].map(point)}] }`);
  assert.match(write, /^split/);
  assert.ok(await page.locator("#answer .parts li").count() > 1);
  assert.equal(await page.locator("#answer tbody tr").count(), 3, "all candidates");
  await keep("explain", page.locator(".explain"));
  const grpc = await explain("gRPC", "Points/Count", '{ "collection_name": "covers" }');
  assert.match(grpc, /readable replica/);

  await page.fill("#body", "{ not json");
  await page.click("#explain button[type=submit]");
  await eventually("an error", () => text("#answer"), (answer) => /the body is not JSON/.test(answer));
  for (const path of [HOSTILE, `/collections/${encodeURIComponent(HOSTILE)}/points`, "no path"]) {
    await explain("POST", path, JSON.stringify({ [HOSTILE]: HOSTILE }));
    assert.equal(await page.locator("#answer script, #answer img").count(), 0);
  }
});

test("a node leaves and returns", async () => {
  await page.click("#collections button:has-text('orders')");
  const name = names[1];
  await cluster.tell("kill", 1);
  await eventually("it does not answer", nodeState(name), (state) => state === "unreachable");
  await eventually("health", () => text("#health"), (health) => health === "2 of 3 nodes usable");
  const events = () => page.locator("#events li").allInnerTexts();
  // The newest of it: events of its replicas come between, and how many is not for sure.
  const fate = async () => {
    const about = (await events()).filter((event) => event.startsWith(`${name} `)).map((event) => event.slice(name.length + 1));
    return about.find((event) => /^(does not answer|taken out|is back)/.test(event)) ?? "";
  };
  await eventually("it is told", fate, (said) => /^(does not answer|taken out)/.test(said));
  await eventually("the problem", () => text("#problems"), (problem) => problem.includes("127.0.0."));
  assert.ok(await page.locator("#grid td[data-lost]").count() > 0, "its replicas are marked");
  // A write that misses a replica makes Qdrant call it dead.
  await eventually("dead replicas", () => page.locator("#grid td[data-tone=bad]").count(), (dead) => dead > 0);
  await eventually("they are told", events, (all) => all.some((event) => event.startsWith("orders shard") && event.includes(` on ${name}: Dead`)));
  await keep("node-down");

  await cluster.tell("restart", 1);
  await eventually("it is back", nodeState(name), (state) => state === "usable");
  await eventually("that is told", fate, (said) => said.startsWith("is back"));
  await eventually("health", () => text("#health"), (health) => health === "healthy · 3 nodes");
  await eventually("its replicas recover", () => page.locator("#grid td[data-tone=good]").count(), (count) => count === 12);
  await page.selectOption("#events-filter", "leader");
  const leaders = await page.locator("#events li").allInnerTexts();
  assert.ok(leaders.every((event) => /led by|leads|nobody|Nothing/.test(event)), leaders.join("\n"));
  await page.selectOption("#events-filter", "");
});

test("a node moves to another address", async () => {
  await cluster.tell("move", 2);
  const events = () => page.locator("#events li").allInnerTexts();
  await eventually("it is told", events, (all) => all.some((event) => /^\S+ moved from 127\./.test(event)));
  const states = () => page.locator("#nodes .badge").allInnerTexts();
  await eventually("it is back", states, (all) => all.length === 3 && all.every((state) => state === "usable"));
});

test("light, dark and small", async () => {
  await page.click("#collections button:has-text('orders')");
  await eventually("all replicas are active", () => page.locator("#grid td[data-tone=good]").count(), (count) => count === 12);
  if (process.env.SCREENSHOTS) await page.waitForTimeout(25_000); // A minute of history.
  const ground = (from = page) => from.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await keep("dashboard-light");
  await page.click("#theme");
  await page.click("#theme");
  assert.equal(await text("#theme span:last-child"), "dark");
  assert.notEqual(await ground(), light);
  await keep("dashboard-dark");
  await page.reload();
  assert.equal(await text("#theme span:last-child"), "dark", "it is remembered");

  const dark = await open({ colorScheme: "dark" });
  assert.notEqual(await ground(dark), light, "the system's choice");
  await dark.close();

  const phone = await open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await eventually("health", () => text("#health", phone), (health) => health === "healthy · 3 nodes");
  await eventually("shards", () => phone.locator("#grid tr").count(), (count) => count > 0);
  for (const from of [page, phone]) {
    const [content, width] = await from.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
    assert.ok(content <= width, `${content} px on ${width}`);
  }
  if (process.env.SCREENSHOTS) await phone.waitForTimeout(5_000);
  await keep("dashboard-phone", phone);
  await phone.close();
});

test("a thousand nodes, ten thousand collections, and names that mean harm", async () => {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const hostile = await context.newPage();
  hostile.on("pageerror", (error) => wrongs.push(`error: ${error}`));
  hostile.on("dialog", (dialog) => {
    wrongs.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await serveHostile(hostile);
  await hostile.goto(cluster.dashboard);
  const see = (selector) => () => hostile.locator(selector).innerText();
  await eventually("nodes", see("#nodes-count"), (count) => count === "1,000");
  await eventually("collections", see("#collections-count"), (count) => count === "10,000");
  assert.equal(await hostile.locator("#collections li").count(), 50);
  assert.equal(await hostile.locator("#nodes tr").count(), 50);
  await hostile.click("#collections-pager button:has-text('Next')");
  await eventually("the next page", see("#collections-pager span"), (where) => where === "Page 2 of 200");
  await eventually("the detail", see("#detail-name"), (name) => name.includes(HOSTILE));
  await hostile.click("#explain button[type=submit]");
  await eventually("the answer", see("#answer"), (answer) => answer.includes(HOSTILE));
  for (const place of ["#nodes", "#collections", "#events", "#reasons", "#problems", "#answer", "#grid", "#grid-head", "#routing"]) {
    assert.ok((await see(place)()).includes(HOSTILE), `${place} tells the name as it is`);
  }
  assert.match(await see("#share-title")(), /^routing would save$/i);
  assert.match(await see("#share")(), /^99\.9.%$/);
  await hostile.selectOption("#events-filter", "router");
  assert.equal(await hostile.locator("#events li[data-tone=bad]").count(), 1, "a reload that failed");
  const { made, hit } = await hostile.evaluate(() => ({
    made: document.querySelectorAll("body script, body img[src='x'], body b b, body svg[onload]").length,
    hit: window.hit,
  }));
  assert.deepEqual([made, hit], [0, undefined]);
  const [width, height, end] = await hostile.evaluate(() => {
    const { scrollWidth, scrollHeight } = document.scrollingElement;
    return [scrollWidth, scrollHeight, document.querySelector("main").getBoundingClientRect().bottom + scrollY];
  });
  assert.ok(width <= 1440 && height <= end + 1, `${width} × ${height} px, and the page ends at ${end}`);
  // Even what is no text cannot become markup: the policy forbids the way.
  const refused = await hostile.evaluate(() => {
    try {
      document.body.innerHTML = "<b>x</b>";
      return false;
    } catch {
      return true;
    }
  });
  assert.ok(refused);
  await context.close();
});

test("nothing went wrong meanwhile", () => assert.deepEqual(wrongs, []));

"use strict";

// Seconds without a word from the server after which the connection counts as lost.
const SILENCE = 20;
const RETRY = 3;
// Seconds after which a connection is replaced, because the server's clock has drifted from this one.
const RENEWAL = 3600;
// Seconds in which the next code usually comes once the former has died.
const MOMENT = 5;

const SIGNS = { waiting: "···", connected: "✓" };
const TEXTS = { live: "Live", expired: "Expired", waiting: "Waiting for a code", connected: "Connected" };
const PROBLEMS = {
  offline: "The database does not answer. The page shows what was there before, and tries again by itself.",
  refused: "The database refuses to be read. The log of this page's server says why.",
  lost: "The connection to this page's server is lost. The page shows what was there before, and tries again by itself.",
};

const byId = (id) => document.getElementById(id);
const list = byId("cards");
const dialog = byId("large");
const order = new Intl.Collator(undefined, { numeric: true });

const cards = new Map(); // by name
let lifetime = 45;
let database = "unread";
let enlarged = null; // name of the card in the dialog
let source = null;
let heardAt = 0;
let openedAt = 0;
let ahead = 0; // of now(), on the server's clock
let isLost = false;

// Codes die also while a machine sleeps. performance.now() stands still then in most browsers
// (https://github.com/w3c/hr-time/issues/115). Date.now() does not, but it can be set. So what it
// gains on the other by leaps was sleep, or is taken for it.
const LEAP = 1000;
let lead = Date.now() - performance.now();
let slept = 0;

function now() {
  const gain = Date.now() - performance.now() - lead;
  if (Math.abs(gain) > LEAP) {
    lead += gain;
    slept += Math.max(gain, 0);
    openedAt -= RENEWAL; // how far the clocks are apart has to be found out anew
  }
  return (performance.now() + slept) / 1000;
}

function connect() {
  source?.close();
  source = new EventSource("events");
  heardAt = openedAt = now();
  source.onopen = () => {
    openedAt = now();
  };
  source.onmessage = (message) => {
    heardAt = now();
    isLost = false;
    take(JSON.parse(message.data));
  };
  source.onerror = () => {
    isLost = true;
    draw();
  };
}

function take(event) {
  lifetime = event.lifetime;
  database = event.database;
  // The ages are those of when this was written. A page that the browser has stopped for a while, or
  // that is on a slow connection, gets it later. The first event is written as a connection opens.
  if (event.all) ahead = openedAt - event.time;
  ahead = Math.min(ahead, now() - event.time);
  const writtenAt = event.time + ahead;
  // The first event after a new connection has every card that there is.
  const names = new Set(event.cards.map((card) => card.name));
  const gone = event.all ? [...cards.keys()].filter((name) => !names.has(name)) : event.gone;
  for (const name of gone) {
    cards.get(name)?.element.remove();
    cards.delete(name);
  }
  for (const { name, status, picture, age } of event.cards) {
    const card = cards.get(name) ?? add(name);
    Object.assign(card, { status, storedAt: age === null ? null : writtenAt - age });
    if (card.picture !== picture) {
      card.picture = picture;
      const image = card.element.querySelector("img");
      if (picture) image.src = picture;
      else image.removeAttribute("src");
    }
  }
  draw();
}

function add(name) {
  const element = byId("card").content.firstElementChild.cloneNode(true);
  // Only ever as text: a name may hold anything.
  element.querySelector("h2").textContent = name;
  const button = element.querySelector("button");
  button.setAttribute("aria-label", `Enlarge the QR code of ${name}`);
  button.addEventListener("click", () => {
    enlarged = name;
    draw();
    dialog.showModal();
  });
  const card = { name, element, told: null };
  // Cards stand in the order of their names, and none is moved: the keyboard's place stays.
  const isBefore = (a, b) => (order.compare(a, b) || (a < b ? -1 : 1)) < 0;
  const next = [...cards.values()].map((other) => other.name).sort((a, b) => (isBefore(a, b) ? -1 : 1))
    .find((other) => isBefore(name, other));
  list.insertBefore(element, next === undefined ? null : cards.get(next).element);
  cards.set(name, card);
  return card;
}

function stateOf(card) {
  if (card.status !== "connecting") return card.status === "connected" ? "connected" : "other";
  if (!card.picture) return "waiting";
  return card.storedAt !== null && now() - card.storedAt <= lifetime ? "live" : "expired";
}

function isBetweenCodes(card, state) {
  return state === "expired" && card.storedAt !== null && now() - card.storedAt < lifetime + MOMENT;
}

function ageText(card) {
  if (card.storedAt === null) return "";
  const seconds = Math.max(0, Math.floor(now() - card.storedAt));
  if (seconds < 60) return `Stored ${seconds} s ago`;
  if (seconds < 3600) return `Stored ${Math.floor(seconds / 60)} min ${seconds % 60} s ago`;
  return `Stored ${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min ago`;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function drawCard(card) {
  const state = stateOf(card);
  const text = TEXTS[state] ?? `Status: ${card.status}`;
  const { element } = card;
  const button = element.querySelector("button");
  const hasPicture = state === "live" || state === "expired";
  if (!hasPicture && document.activeElement === button) element.querySelector("h2").focus();
  button.hidden = !hasPicture;
  element.dataset.state = state;
  setText(element.querySelector(".state"), text);
  const placeholder = element.querySelector(".no-picture");
  placeholder.hidden = hasPicture;
  setText(placeholder, SIGNS[state] ?? "–");
  setText(element.querySelector(".age"), hasPicture ? ageText(card) : "");
  Object.assign(card, { state, text, hasPicture });
  if (isBetweenCodes(card, state) || text === card.told) return null;
  const isFirst = card.told === null;
  card.told = text;
  return isFirst ? null : `${card.name}: ${text}`;
}

function drawDialog() {
  const card = cards.get(enlarged);
  if (!card?.hasPicture) {
    dialog.close();
    card?.element.querySelector("h2").focus();
    return;
  }
  dialog.dataset.state = card.state;
  setText(byId("large-name"), card.name);
  setText(dialog.querySelector(".state"), [card.text, ageText(card).toLowerCase()].filter(Boolean).join(", "));
  const image = dialog.querySelector("img");
  if (image.src !== card.picture) image.src = card.picture;
}

function draw() {
  const changes = [...cards.values()].map(drawCard).filter(Boolean);
  // Read aloud: what has become of an instance, but neither each second nor each new code.
  if (changes.length) byId("announcer").textContent = changes.join(". ");
  if (enlarged !== null) drawDialog();
  const problem = PROBLEMS[isLost ? "lost" : database];
  byId("problem").hidden = !problem;
  setText(byId("problem"), problem ?? "");
  const count = (state) => [...cards.values()].filter((card) => card.state === state).length;
  const parts = ["live", "expired", "waiting", "connected"].map((state) => `${count(state)} ${state}`);
  setText(byId("summary"), cards.size ? parts.join(", ") : "");
  byId("empty").hidden = cards.size > 0 || database !== "online";
}

// A browser tells of this only with its next frame, and the dialog may be open again by then.
dialog.addEventListener("close", () => {
  if (!dialog.open) enlarged = null;
});

// A server that answers, but not with events: it may have another token since its last start. To
// load the page anew then shows what it says to that.
async function askWhy() {
  heardAt = now();
  const response = await fetch("page.js", { cache: "no-store" }).catch(() => null);
  if (response?.status === 401) location.reload();
  else connect();
}

setInterval(() => {
  const silence = now() - heardAt;
  if (source.readyState === EventSource.CLOSED && silence > RETRY) {
    askWhy();
  } else if (silence > SILENCE) {
    // A phone that slept, or a cable that was pulled, ends a connection without an error.
    isLost = true;
    connect();
  } else if (now() - openedAt > RENEWAL) {
    connect();
  }
  draw();
}, 1000);

connect();
